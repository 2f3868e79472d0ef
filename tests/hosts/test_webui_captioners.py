"""Step 1's "Describe pictures automatically" in the real WebUI, by its own DeepBooru and BLIP, without a network."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from test_webui_browser import browser, open_step_of, tab
from webui_pages import leave, new_page
from webui_server import Server, webui_folder

__all__ = ["browser"]  # a fixture

expect = pytest.importorskip("playwright.sync_api", reason="NOT TESTED IN A BROWSER: no playwright").expect

FILTERED = "filtered tag"
NOWHERE = "http://127.0.0.1:9"
THRESHOLD = 0.6
PATIENCE = 600_000
"""Milliseconds, on a crowded processor."""

PICTURES = {
    "a.png": Image.radial_gradient("L").convert("RGB"),
    "b.png": Image.linear_gradient("L").convert("RGB").resize((300, 200)),
    "c.png": Image.new("RGB", (200, 256), (200, 30, 30)),
}
OLD = "what was written before"


@pytest.fixture(scope="module")
def base(webui_python: Path, base_checkpoints: list[Path], tmp_path_factory) -> Iterator[Server]:
    """A WebUI whose every way out of this machine ends at once, without weights of describers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, NOWHERE)
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        wishes = {"deepbooru_filter_tags": FILTERED, "interrogate_deepbooru_score_threshold": THRESHOLD}
        data = tmp_path_factory.mktemp("webui-captioners")
        running = Server(webui_folder(), webui_python, data, base_checkpoints[:1], **wishes)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def narrow(base: Server) -> Server:
    """The WebUI's classes of DeepBooru and BLIP, made small: their real sizes take minutes on a crowded processor."""
    base.post(f"/probe/describers/narrow?place={quote(str(base.data / 'blip'))}", {})
    return base


@pytest.fixture(scope="module")
def describers(narrow: Server) -> Server:
    """With random weights where the WebUI looks for them."""
    narrow.post("/probe/describers/write", {})
    return narrow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for name, image in PICTURES.items():
        image.save(place / name)
    (place / "b.txt").write_text(OLD)
    return place


@pytest.fixture
def page(base: Server, browser, folder: Path):
    """Step 1 with the folder open, and the models listed."""
    page = new_page(browser, viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.goto(base.url)
    page.wait_for_selector("#lora_ext_start", state="attached")
    tab(page, "LoRA training")
    open_step_of(page, "images")
    page.locator("#lora_ext_field_images textarea, #lora_ext_field_images input").first.fill(str(folder))
    expect(page.locator(".lora-ext-pic-tile")).to_have_count(len(list(folder.glob("*.png"))))
    pic(page, "captioning").locator("summary").click()
    expect(pic(page, "captioner").locator("option")).to_have_count(7)
    yield page
    leave(page)


def pic(page, name: str):
    return page.locator(f"[data-pic={name}]")


def tile_words(page, name: str):
    return page.locator(f".lora-ext-pic-tile[title='{name}'] .lora-ext-pic-words")


def words(page, name: str) -> str:
    expect(tile_words(page, name)).not_to_have_text("")
    return tile_words(page, name).inner_text()


def say(page) -> str:
    """Press Describe and wait for the end; what is told then."""
    page.evaluate("() => { document.querySelector('[data-pic=caption-said]').textContent = ''; }")
    pic(page, "describe").click()
    expect(pic(page, "caption-said")).to_contain_text("captions changed.", timeout=PATIENCE)
    return pic(page, "caption-said").inner_text()


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.txt")}


def host_says(server: Server, name: str, model: str) -> str:
    """What the WebUI's own Interrogate says."""
    place = server.data / name
    PICTURES[name].save(place)
    image = base64.b64encode(place.read_bytes()).decode()
    return server.post("/sdapi/v1/interrogate", {"image": image, "model": model})["caption"]


@pytest.mark.parametrize(
    ("captioner", "place", "source", "megabytes"),
    [
        ("deepbooru", "models/torch_deepdanbooru", "model-resnet_custom_v3.pt", 615),
        ("blip", "models/BLIP", "model_base_caption_capfilt_large.pth", 855),
        ("wd-vit-tagger-v3", "models/captioners/wd-vit-tagger-v3", "SmilingWolf/wd-vit-tagger-v3", 380),
    ],
)
def test_without_weights_and_without_network(page, base: Server, captioner, place, source, megabytes) -> None:
    pic(page, "captioner").select_option(captioner)
    told = pic(page, "weights")
    expect(told).to_contain_text(str(base.data / place))
    expect(told).to_contain_text(source)
    expect(told).to_contain_text("Nothing is downloaded before you press.")
    expect(pic(page, "fetch")).to_have_text(f"Download the model (about {megabytes} MB)")
    expect(pic(page, "describe")).to_be_disabled()
    pic(page, "fetch").click()
    error = page.locator("[data-pic-error=captioner]")
    expect(error).to_contain_text("there is no connection", timeout=20_000)
    expect(error).to_contain_text("by hand")
    expect(error).to_contain_text(str(base.data / place))
    assert not [path for path in (base.data / place).rglob("*") if path.is_file()]
    expect(pic(page, "describe")).to_be_disabled()


def test_a_broken_file_is_named_and_not_taken_for_loaded(narrow: Server, folder: Path) -> None:
    broken = narrow.data / "models" / "torch_deepdanbooru" / "page.pt"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"<html>not found</html>")
    try:
        for _ in range(2):
            job = described(narrow, folder, "deepbooru")
            assert "model page.pt cannot be loaded" in job["problems"][0]["text"], job
            assert "download it again" in job["problems"][0]["text"]
            assert narrow.get("/probe/describers") == {"dtype": "None", "blip": False, "deepbooru": False, "job": ""}
    finally:
        broken.unlink()


def test_deepbooru(page, describers: Server, folder: Path) -> None:
    """Only what is empty is filled; then what is new is added; nothing on disk before Save, and the old is kept."""
    pic(page, "captioner").select_option("deepbooru")
    expect(pic(page, "weights")).to_contain_text("The model is on disk")
    pic(page, "threshold").fill(str(THRESHOLD))
    assert say(page) == "2 captions changed."
    assert words(page, "b.png") == OLD
    theirs = {name: set(host_says(describers, name, "deepdanbooru").split(", ")) for name in PICTURES}
    assert set(words(page, "a.png").split(", ")) == theirs["a.png"]
    assert set(words(page, "c.png").split(", ")) == theirs["c.png"] != theirs["a.png"]
    assert len(theirs["a.png"]) > 100
    assert not {FILTERED, "rating:safe"} & set(words(page, "a.png").split(", "))
    pic(page, "caption-mode").select_option("append")
    assert say(page) == "1 captions changed."
    added = words(page, "b.png").split(", ")
    assert added[0] == OLD and set(added[1:]) == theirs["b.png"]
    assert files(folder) == {"b.txt": OLD}
    pic(page, "save").click()
    expect(pic(page, "saved")).to_have_text("3 captions saved.")
    assert files(folder)["b.txt"].startswith(OLD + ", ")
    assert sorted(files(folder)) == ["a.txt", "b.txt", "c.txt"]
    pic(page, "backups-box").locator("summary").click()
    pic(page, "backups").locator("button").first.click()
    expect(tile_words(page, "b.png")).to_have_text(OLD)
    assert describers.png(), "it paints"


def test_blip(page, describers: Server, folder: Path) -> None:
    """What is there is replaced; undone by one press; the WebUI's own button says the same sentence."""
    before = describers.png()
    pic(page, "captioner").select_option("blip")
    expect(pic(page, "threshold-box")).to_be_hidden()
    pic(page, "caption-mode").select_option("overwrite")
    assert say(page) == "3 captions changed."
    assert files(folder) == {"b.txt": OLD}
    describers.post(f"/probe/describers/small-clip?folder={quote(str(describers.data / 'styles'))}", {})
    for name in PICTURES:
        sentence = words(page, name)
        assert "word" in sentence
        assert host_says(describers, name, "clip") == sentence
    pic(page, "undo").click()
    expect(tile_words(page, "b.png")).to_have_text(OLD)
    assert describers.png() == before


def test_txt2img_meanwhile_and_cancelled(describers: Server, folder: Path) -> None:
    """A picture asked for meanwhile does not wait for all; Cancel keeps what was described."""
    many = 400
    for n in range(many):
        shutil.copy(folder / "a.png", folder / f"more{n:03}.png")
    key, job = start(describers, folder, "deepbooru")
    while job["done"] == 0 and job["busy"]:
        job = describers.get("/lora-ext/v1/captioners")["job"]
    assert describers.get("/probe/describers")["job"] == "describing pictures"
    assert describers.png()
    job = describers.get("/lora-ext/v1/captioners")["job"]
    assert job["busy"] and 0 < job["done"] < many
    describers.post("/lora-ext/v1/captioners/cancel", {})
    job = ended(describers)
    assert job["said"] == "Cancelled; {0} captions changed." and 0 < job["values"][0] < many
    assert describers.get("/probe/describers")["job"] == ""
    entries = describers.get(f"/lora-ext/v1/pictures/{key}")["entries"]
    assert sum(bool(entry["text"]) for entry in entries) >= job["values"][0]


def test_blips_words_are_looked_for_too(describers: Server, folder: Path) -> None:
    """Its file is there; the list of words that it speaks is not."""
    place = describers.data / "hf" / "hub" / "models--bert-base-uncased"
    place.rename(place.with_name("away"))
    try:
        (listed,) = [o for o in describers.get("/lora-ext/v1/captioners")["captioners"] if o["name"] == "blip"]
        assert (listed["present"], listed["place"], listed["megabytes"]) == (False, str(place), 1)
        assert listed["source"].endswith("/bert-base-uncased/resolve/main/vocab.txt")
        began = time.monotonic()
        describers.post("/lora-ext/v1/captioners/blip/fetch", {})
        (problem,) = ended(describers)["problems"]
        assert "vocab.txt" in problem["text"] and "by hand" in problem["text"]
        assert time.monotonic() - began < 60
    finally:
        place.with_name("away").rename(place)


def start(server: Server, folder: Path, captioner: str) -> tuple[str, dict]:
    wish = {"images": str(folder), "concept": "x", "resolution": 64}
    key = server.post("/lora-ext/v1/pictures", wish)["key"]
    body = {"captioner": captioner, "mode": "overwrite", "threshold": THRESHOLD}
    return key, server.post(f"/lora-ext/v1/pictures/{key}/captions", body)["job"]


def described(server: Server, folder: Path, captioner: str) -> dict:
    start(server, folder, captioner)
    return ended(server)


def ended(server: Server) -> dict:
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        job = server.get("/lora-ext/v1/captioners")["job"]
        if not job["busy"]:
            return job
        time.sleep(0.1)
    raise AssertionError(f"it never ends: {job}")
