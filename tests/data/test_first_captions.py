"""Captions that a goal shows in previews: read without a picture being opened, whatever the folder is like."""

from lora_ext.config import TrainConfig, read
from lora_ext.data import first_captions


def captions(folder, most=2, **more):
    return first_captions(read(TrainConfig, {"images": str(folder), "output": "cat", **more}).data, most)


def write(folder, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.png").write_bytes(b"no picture at all")
        if text is not None:
            (folder / f"{name}.txt").write_text(text, encoding="utf8")


def test_the_first_different_ones_in_their_order(tmp_path):
    write(tmp_path, p10="third", p1="first\nline", p2="first line", p3="second")
    assert captions(tmp_path) == ["first line", "second"]
    assert captions(tmp_path, most=9) == ["first line", "second", "third"]


def test_as_they_are_trained_and_with_nothing_left_to_chance(tmp_path):
    write(tmp_path, a="tail, {cat|dog}, ears")
    one = captions(tmp_path, trigger_words="ohwx", shuffle_tags=True, tag_dropout=0.9, wildcards=True)
    assert one == ["ohwx, tail, cat, ears"]


def test_of_the_users_own_pictures_alone(tmp_path):
    write(tmp_path / "own" / "3_sks cat", a=None, b="a sks cat asleep")
    write(tmp_path / "own" / "0_off", a="left out")
    write(tmp_path / "others", a="a cat")
    found = captions(tmp_path / "own", most=9, regularisation_images=str(tmp_path / "others"))
    assert found == ["sks cat", "a sks cat asleep"]


def test_what_cannot_be_read_is_told_by_others(tmp_path):
    assert captions(tmp_path / "nowhere") == []
    assert captions(tmp_path) == []
    write(tmp_path, a="a cat")
    assert captions(tmp_path, caption_file=str(tmp_path / "none.json")) == []
