"""Second stage of the base model: the text encoder, taught to tell from a caption what the picture will show.

Stable Diffusion's own text encoder came trained (CLIP); learning English through the UNet alone would cost hours here.
Word vectors stay random: nearly orthogonal as they are, and so a word never seen looks like any other to the UNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from demo import world
from demo.base_state import Progress
from lora_ext.model import TextEncoders, Tokenizer

BATCH = 64
SHORT = 40
"""Tokens looked at in most steps; every fourth step sees all 77, so that no position stays untaught."""

_SHAPES, _COLOURS, _SIZES = list(world.SHAPES), list(world.COLOURS), list(world.SIZES)
_STANDS, _PATTERNS = [*world.PLACES, *world.RELATIONS], list(world.GROUNDS)
_THING = (len(_SHAPES) + 1, len(_COLOURS) + 1, len(_SIZES) + 1)  # the last of each: no such thing
QUESTIONS = (*_THING, *_THING, len(_STANDS), len(_PATTERNS), len(_COLOURS))
"""How many answers there are to each question about a scene."""


def answers(scene: world.Scene) -> list[int]:
    """What a scene shows, as the number of the right answer to each of QUESTIONS."""
    found = [(_SHAPES.index(t.shape), _COLOURS.index(t.colour), _SIZES.index(t.size)) for t in scene.things]
    if len(found) == 1:
        found.append((len(_SHAPES), len(_COLOURS), len(_SIZES)))
    ground = (_STANDS.index(scene.place), _PATTERNS.index(scene.pattern), _COLOURS.index(scene.ground))
    return [*found[0], *found[1], *ground]


def train(text: TextEncoders, steps: int, seed: int, folder: Path) -> None:
    """Train `text` (one encoder) in place; every position from the end token on must know every answer."""
    width = text.arch.text[0].width
    device = next(text.parameters()).device
    heads = nn.Linear(width, sum(QUESTIONS), device=device)
    learnt = [p for name, p in text.named_parameters() if "token_embedding" not in name]
    optimizer = torch.optim.AdamW([*learnt, *heads.parameters()], betas=(0.9, 0.98), weight_decay=0.01)
    progress = Progress(folder, "text", steps, seed)
    for step in progress.run({"text": text, "heads": heads}, optimizer, peak=1.5e-3):
        ids, right = (x.to(device) for x in examples(text, BATCH, seed, step))
        ids = ids[:, : 77 if step % 4 == 0 else SHORT]
        context = text.encode((ids,)).context
        there = _from_end(ids)
        logits = heads(context[there])
        wanted = right[:, None].expand(-1, ids.shape[1], -1)[there]
        parts = [nn.functional.cross_entropy(part, wanted[:, i]) for i, part in enumerate(logits.split(QUESTIONS, -1))]
        loss = torch.stack(parts).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        guesses = torch.stack([part.argmax(-1) for part in logits.split(QUESTIONS, -1)], -1)
        progress.note(loss=loss.item(), right=(guesses == wanted).float().mean().item())


def examples(text: TextEncoders, count: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Token ids [count, 77] of captions and their answers [count, questions]."""
    random = world.generator(seed + 7, step)
    scenes = [world.random_scene(random) for _ in range(count)]
    ids = tokenized(text, [world.caption(scene, random) for scene in scenes])
    return ids, torch.tensor([answers(scene) for scene in scenes])


def tokenized(text: TextEncoders, captions: Sequence[str]) -> Tensor:
    """Token ids [N, 77]."""
    return Tokenizer().tokens(captions, text.arch)[0]


def _from_end(ids: Tensor) -> Tensor:
    """Where a row has reached its end token (which also pads it)."""
    return ids == int(ids.max())
