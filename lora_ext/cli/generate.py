"""`generate`: one picture from a prompt with `<lora:name:0.7>` tags."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lora_ext.cli.flags import Parser, add_flags, values
from lora_ext.cli.outputs import check_all, check_picture_output, write_png
from lora_ext.config import GenerateConfig, PictureConfig, read
from lora_ext.errors import BadInput, Problem
from lora_ext.formats import NameTable
from lora_ext.hosts.given_path import given_path
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import ParsedPrompt, parse
from lora_ext.hosts.sampler import to_picture
from lora_ext.hosts.schedule import Moment
from lora_ext.hosts.selection import Selection, select
from lora_ext.hosts.standalone import StandaloneModel, check_load, check_size
from lora_ext.live import RenderRequest
from lora_ext.model import Tokenizer

TAG_LIKE = re.compile(r"<\s*(?:lora|lyco|hypernet)\b[^<>]{0,60}>?", re.IGNORECASE)
LONGEST = 75  # tokens of a prompt that CLIP sees


def add(parser: Parser) -> None:
    """Give the sub-command its flags."""
    add_flags(parser, GenerateConfig)


def run(args: argparse.Namespace) -> int:
    """Render and write; returns the exit code."""
    config = read(GenerateConfig, values(args, GenerateConfig))
    picture = config.picture
    library = Library([given_path("lora_dir", picture.lora_dir)] if picture.lora_dir else [])
    prompt = parse(picture.prompt, library.knows)
    check_all(
        lambda: check_load(config.model),
        lambda: check_size(*parse_size(picture.size)),
        lambda: check_picture_output(picture.output, picture.overwrite),
        lambda: check_loras(picture, prompt, library),
    )
    warn_if_long(prompt.text)
    warn_of_tags(prompt.text)
    model = StandaloneModel.load(config.model)
    for sentence in model.architecture.assumed:
        print(f"note: {sentence}", file=sys.stderr)
    names = NameTable(model.table)
    check_all(*(partial(library.load, wanted.name, names) for wanted in prompt.wanted))
    selection, remarks = select(prompt.wanted, library, names)
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    for word in selection.embeddings:
        print(f"note: the embedding {word!r} in a LoRA's file is used in a WebUI only", file=sys.stderr)
    model.patcher.apply(selection.at(Moment()))
    path = Path(picture.output).expanduser()
    try:
        decoded = model.decoded(
            request(picture, prompt.text), lambda step: put_on(model, selection, Moment(step, picture.steps))
        )
    except torch.cuda.OutOfMemoryError:
        fix = "Choose a smaller --size, or --model-precision fp16."
        raise BadInput(Problem("size", "the card ran out of memory", got=picture.size, fix=fix)) from None
    check_finite(decoded)
    write_png(path, to_picture(decoded), parameters(picture, model.checkpoint.name))
    print(path)
    return 0


def put_on(model: StandaloneModel, selection: Selection, moment: Moment) -> None:
    """The strengths of this step; most prompts have the same in all of them."""
    if selection.changes:
        model.patcher.apply(selection.at(moment))


def request(picture: PictureConfig, text: str) -> RenderRequest:
    """The picture to ask the model for; `text` is the prompt without its tags."""
    width, height = parse_size(picture.size)
    return RenderRequest(text, picture.negative, picture.seed, picture.steps, picture.cfg, width, height)


def check_finite(decoded: Tensor) -> None:
    """Raise `BadInput` instead of writing the black picture that NaN would be."""
    if not bool(torch.isfinite(decoded).all()):
        what = "the model's numbers overflowed and there is no picture"
        fix = "Try --model-precision fp32 and lower strengths; else the checkpoint or a LoRA is damaged."
        raise BadInput(Problem("checkpoint", what, "finite numbers", "NaN or infinity", fix))


def parse_size(text: str) -> tuple[int, int]:
    """`512x768` -> (512, 768). Raises `BadInput`."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*", text)
    if not match:
        raise BadInput(Problem("size", "the size cannot be read", "WIDTHxHEIGHT, for example 512x768", repr(text)))
    return int(match[1]), int(match[2])


def check_loras(picture: PictureConfig, prompt: ParsedPrompt, library: Library) -> None:
    """Raise `BadInput` for tags that cannot be read and for LoRAs that are not in the folder, each by name."""
    if prompt.wanted and not picture.lora_dir:
        names = ", ".join(wanted.name for wanted in prompt.wanted)
        raise BadInput(Problem("lora_dir", f"the prompt asks for {names}", "a folder", "none", "Give --lora-dir."))
    if picture.lora_dir and not Path(picture.lora_dir).expanduser().is_dir():
        raise BadInput(Problem("lora_dir", "there is no such folder", got=picture.lora_dir))
    problems = [replace(problem, fix="") for problem in prompt.problems]  # hosts go on without the tag; we do not
    for wanted in prompt.wanted:
        try:
            library.find(wanted.name)
        except BadInput as e:
            problems += e.problems
    if problems:
        raise BadInput(*problems)


def warn_if_long(text: str) -> None:
    """Say so when CLIP will not see the end of the prompt."""
    count = Tokenizer().count(text)
    if count > LONGEST:
        print(f"note: the prompt has {count} tokens; the model sees the first {LONGEST}", file=sys.stderr)


def warn_of_tags(text: str) -> None:
    """Say so when what is left of the prompt looks like a tag: the model would read it as words."""
    for tag in TAG_LIKE.findall(text):
        print(f"note: {tag.strip()!r} is no <lora:name:0.7> tag and is read as words", file=sys.stderr)


def parameters(picture: PictureConfig, model: str) -> str:
    """The text hosts keep in a PNG (A1111's infotext)."""
    negative = f"\nNegative prompt: {picture.negative}" if picture.negative else ""
    facts = {
        "Steps": picture.steps,
        "Sampler": "Euler",
        "CFG scale": f"{picture.cfg:g}",
        "Seed": picture.seed,
        "Size": picture.size,
        "Model": model,
    }
    return f"{picture.prompt}{negative}\n" + ", ".join(f"{key}: {value}" for key, value in facts.items())
