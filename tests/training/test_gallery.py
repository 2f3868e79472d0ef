"""Previews stay in bounded memory, and what is kept still spans the run."""

from __future__ import annotations

import io

from PIL import Image

from lora_ext.training.gallery import SMALL, Gallery, Picture


def filled(gallery, steps, prompts=2, size=10):
    for step in range(1, steps + 1):
        for number in range(prompts):
            gallery.add(step, f"prompt {number}", Picture(b"x" * size, b"y"))
    return [(seen["step"], seen["prompt"]) for seen in gallery.list()]


def test_all_are_kept_while_there_is_room():
    gallery = Gallery(most=20)
    assert len(filled(gallery, 10)) == 20
    assert [seen["id"] for seen in gallery.list()] == list(range(1, 21))
    assert gallery.get(20).png == b"x" * 10
    assert gallery.get(21) is None


def test_a_long_run_is_thinned_by_whole_steps():
    for gallery in (Gallery(most=20), Gallery(most_bytes=220)):
        kept = filled(gallery, 200)
        assert 4 < len(kept) <= 20
        steps = sorted({step for step, _ in kept})
        assert (steps[0], steps[-1]) == (1, 200)
        assert steps[len(steps) // 2] in range(50, 150)
        assert all(kept.count((step, f"prompt {n}")) == 1 for step in steps for n in range(2))


def test_one_step_with_too_many_pictures_keeps_the_newest():
    kept = filled(Gallery(most=5), 1, prompts=9)
    assert kept == [(1, f"prompt {n}") for n in range(4, 9)]


def test_a_thumbnail_is_small_and_any_mode_will_do():
    made = Picture.of(Image.new("RGBA", (2000, 1000), (255, 0, 0, 128)))
    assert Image.open(io.BytesIO(made.small)).size == (SMALL, SMALL // 2)
    assert Image.open(io.BytesIO(made.png)).size == (2000, 1000)
