"""A folder with everything that goes wrong in practice: the run takes what can be used and names the rest."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from training_runs import run

from lora_ext.training import Finished, Notice

GOOD = "rgb.png", "turned.jpg", "alpha.png", "grey.png", "greya.png", "palette.png", "deep.png", "cmyk.jpg", "wide.png"


def picture(size=(64, 64)):
    values = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def jpeg(image, **more):
    file = io.BytesIO()
    image.save(file, "JPEG", **more)
    return file.getvalue()


def everything(folder):
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(folder / "rgb.png")
    (folder / "turned.jpg").write_bytes(jpeg(picture((96, 64)), exif=exif))
    picture().convert("RGBA").save(folder / "alpha.png")
    picture().convert("L").save(folder / "grey.png")
    picture().convert("LA").save(folder / "greya.png")
    picture().convert("P").save(folder / "palette.png")
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(folder / "deep.png")
    (folder / "cmyk.jpg").write_bytes(jpeg(picture().convert("CMYK")))
    picture((2000, 64)).save(folder / "wide.png")
    picture((1, 1)).save(folder / "dot.png")
    (folder / "nothing.png").write_bytes(b"")
    (folder / "noise.png").write_bytes(bytes(range(256)))
    (folder / "cut.jpg").write_bytes(jpeg(picture())[:900])
    picture().save(folder / "rgb.webp")  # the same stem twice
    captions = {
        "rgb": b"a cat",
        "turned": b"",
        "alpha": "café".encode("cp1252"),
        "grey": b"\xef\xbb\xbfa dog",
        "greya": ("word " * 300).encode(),
        "cut": b"a cat",
    }
    for stem, text in captions.items():
        (folder / f"{stem}.txt").write_bytes(text)
    return folder


def test_a_run_on_everything_that_goes_wrong(tmp_path):
    folder = everything(tmp_path / "pictures")
    result = run(tmp_path, images=str(folder), concept="thing", max_steps=0, epochs=1, batch_size=2, learning_rate=1e-3)
    assert result.events[-1] == Finished(len(result.steps), "done")
    assert all(torch.isfinite(t).all() for t in result.tensors.values())
    told = " ".join(n.text for n in result.of(Notice))
    for name in ("nothing.png", "noise.png", "cut.jpg"):
        assert name in told, "what cannot be used is named"
    assert int(result.metadata["ss_num_train_images"]) >= len(GOOD)
    assert "75" in told, "a caption that is too long is told"
    assert "turned" in told or "thing" in told, "so is an empty caption"
    tags = result.metadata["ss_tag_frequency"]
    assert "caf\\u00e9" in tags or "café" in tags
    assert "\\ufeff" not in tags
