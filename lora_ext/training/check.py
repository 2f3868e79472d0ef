"""Everything that can be wrong with a run before it starts: all found at once, nothing touched."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from lora_ext.config import TrainConfig, preview_wishes
from lora_ext.data import DataReport, scan
from lora_ext.errors import BadInput, Problem
from lora_ext.layers import FAMILY_TITLES
from lora_ext.live import LiveModel
from lora_ext.training.creation import check_network, read_start
from lora_ext.training.estimate import Card, estimate
from lora_ext.training.file_size import file_bytes
from lora_ext.training.optimizers import check_optimizer, finds_rate, install_line
from lora_ext.training.pace import pace_remark
from lora_ext.training.precision import Arithmetic
from lora_ext.training.small_weights import Bits, check_small
from lora_ext.training.state import Identity, StateFile
from lora_ext.training.targets import plan, text_rates

NATIVE = {"sd1": 512, "sd2": 768, "sdxl": 1024}  # px, what each family was trained at
LOW_FOR_FINDERS = 0.05  # a learning rate for an optimizer that wants 1
FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')  # `<`, `>`, `:` end a prompt tag; the rest is forbidden on Windows


def check(model: LiveModel, config: TrainConfig, output: Path) -> DataReport:
    """Raise `BadInput` with every problem of the settings, for this model and this output file; else the pictures.

    Reads the headers of the pictures and changes nothing.
    """
    problems = [
        *_output(output, config),
        *_room(output, _size(model, config)),
        *_learning(config),
        *_fit(model, config),
        *_precision(model, config),
        *_memory(model, config),
        *_loss(model, config),
        *_optimizer(model, config),
        *_network(model, config),
        *_previews(config),
        *_resume(output, config),
    ]
    try:
        report = scan(config.data)
    except BadInput as e:
        raise BadInput(*problems, *e.problems) from e
    if problems:
        raise BadInput(*problems)
    if config.save.resume:
        _same_run(model, config, output, report)
    return report


def remarks(model: LiveModel, config: TrainConfig) -> Iterator[str]:
    """What is allowed but probably not meant, one sentence each."""
    yield from model.architecture.assumed
    family, title = model.architecture.family, FAMILY_TITLES[model.architecture.family]
    if config.data.resolution < NATIVE[family] // 2:
        yield f"{title} was made for {NATIVE[family]} px; at {config.data.resolution} px it draws badly."
    if family == "sdxl" and config.text.clip_skip:
        yield f"Clip skip {config.text.clip_skip} is left aside: SDXL always uses its own."
    if config.optim.text_encoder_2_lr >= 0 and family != "sdxl":
        yield f"{title} has one text encoder: the learning rate of a second one is left aside."
    if config.network.alpha > config.network.rank:
        yield "Alpha is larger than the rank: the learning rate acts as if it were higher."
    if finds_rate(config.optim) and config.optim.learning_rate < LOW_FOR_FINDERS:
        yield f"{config.optim.optimizer} finds the learning rate by itself and multiplies it with yours: set it to 1."
    yield from pace_remark(model.table, config)
    if config.loss.scale_v_loss and model.architecture.prediction_type == "epsilon":
        yield "This model predicts noise already, so its loss is not weighed like that of a v-prediction model."
    if config.loss.v_pred_like_loss and model.architecture.prediction_type == "v_prediction":
        yield "This is a v-prediction model already, so its loss is not weighed like one again."
    if config.loss.min_snr_gamma and config.loss.debiased:
        yield "Min-SNR and debiased estimation both weigh the timesteps; their weights are multiplied."
    yield from _too_large(model, config)


def _too_large(model: LiveModel, config: TrainConfig) -> Iterator[str]:
    """Where the card has too little memory for the run as it is: how much it lacks, and what would help most."""
    card = Card.of(model, config.optim.precision)
    found = estimate(config, model.architecture, model.table, None, card)
    if card.free_bytes is not None and not found.fits:
        what = (
            f"This run needs about {found.peak_vram_bytes / 2**30:.1f} GB of the card's memory, and "
            f"{card.free_bytes / 2**30:.1f} GB are free: it will go on in smaller pieces, slower, or end."
        )
        yield " ".join([what, *(advice.text for advice in found.advice[:3])])


def _output(output: Path, config: TrainConfig) -> Iterator[Problem]:
    if output.suffix != ".safetensors" or not output.stem.strip():
        yield Problem("output", "the LoRA cannot be saved under this name", "NAME.safetensors", output.name)
    if FORBIDDEN.search(output.name):
        yield Problem("output", 'a name cannot hold any of < > : " | ? * \\', got=repr(output.name))
    if output.is_dir():
        yield Problem("output", "there is a folder of that name", "a file", str(output))
    elif not (config.save.overwrite or config.save.resume):
        yield from (_exists(path) for path in _in_the_way(output, config))


def _size(model: LiveModel, config: TrainConfig) -> int:
    """Bytes of the file; 0 where the settings cannot be read, which others of these checks say."""
    try:
        return file_bytes(plan(model.table, config), model.table, config)
    except BadInput:
        return 0


def _room(output: Path, size: int) -> Iterator[Problem]:
    """A file is tried, because rights alone do not tell (read-only disks, Windows); it is gone again at once."""
    folder = next((p for p in (output.parent, *output.parent.parents) if p.exists()), output.parent)
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as e:
        reason = f"{folder} ({e.strerror or type(e).__name__})"
        yield Problem("output", "the folder cannot be written to", "a folder you may write to", reason)
        return
    if free < size:
        fix = "Make room, choose another folder or a smaller rank."
        got = f"{free / 1e6:.1f} MB free in {folder}"
        yield Problem("output", "the disk is too full for the LoRA", f"{size / 1e6:.1f} MB", got, fix)


def _in_the_way(output: Path, config: TrainConfig) -> Iterator[Path]:
    """Files of that name, and those of an earlier run's saves on the way where this run would make some too."""
    if output.exists():
        yield output
    pattern = re.compile(re.escape(output.stem) + r"-(step\d{6,}|epoch\d{4,})\.safetensors")
    kinds = {"step": config.save.save_every_steps, "epoch": config.save.save_every_epochs}
    for path in sorted(output.parent.iterdir()) if output.parent.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and kinds[match[1].rstrip("0123456789")]:
            yield path


def _exists(path: Path) -> Problem:
    fix = "Choose another name or allow to replace it."
    return Problem("output", "the file is already there", got=str(path), fix=fix)


def _learning(config: TrainConfig) -> Iterator[Problem]:
    if config.optim.learning_rate == 0 and not any(text_rates(config)):
        yield Problem("learning_rate", "both learning rates are 0, so nothing would be learnt", "more than 0")
    network = config.network
    if network.kind == "oft" and network.rank == 1 and not (network.oft_rescale or network.start_from.strip()):
        what = "OFT turns blocks of so many rows, and a single row cannot be turned: nothing would be learnt"
        yield Problem("rank", what, "2 or more; 8 to 32 is usual", "1")


def _fit(model: LiveModel, config: TrainConfig) -> Iterator[Problem]:
    arch = model.architecture
    if arch.inpainting:
        yield Problem(
            "checkpoint",
            "inpainting models cannot be trained yet",
            "a normal checkpoint",
            model.checkpoint.name,
            "Train on the model it was made from; the LoRA works on both.",
        )
    cell = arch.vae.factor * 2 ** (len(arch.unet.channels) - 1)
    if config.data.resolution % cell:
        got = str(config.data.resolution)
        yield Problem("resolution", "this model cannot take the resolution", f"a multiple of {cell} px", got)
    depth = min(text.layers for text in arch.text)
    if arch.family != "sdxl" and config.text.clip_skip > depth:
        yield Problem("clip_skip", "the text encoder has fewer layers", f"at most {depth}", str(config.text.clip_skip))


def _loss(model: LiveModel, config: TrainConfig) -> Iterator[Problem]:
    loss, most = config.loss, len(model.alphas_cumprod)
    if loss.timestep_min >= min(loss.timestep_max, most):
        yield Problem(
            "timestep_min",
            "no timestep lies between the lowest and the highest",
            f"less than {min(loss.timestep_max, most)}",
            str(loss.timestep_min),
        )
    if loss.zero_terminal_snr and model.architecture.prediction_type == "epsilon":
        yield Problem(
            "zero_terminal_snr",
            "a model that predicts noise has nothing to learn from pure noise",
            "a v-prediction model",
            model.checkpoint.name,
        )


def _resume(output: Path, config: TrainConfig) -> Iterator[Problem]:
    states = StateFile(output)
    if not config.save.resume:
        if config.save.state_every and states.current.exists() and not config.save.overwrite:
            fix = "Turn on resume to go on from it, choose another name, or allow to replace it."
            yield Problem("resume", "a run of this name left its state", got=str(states.current), fix=fix)
        return
    try:
        if states.read() is None:
            fix = "Start without, and let the state be saved every few steps (state_every)."
            yield Problem("resume", "there is no saved state of a run of this name", got=str(states.current), fix=fix)
    except BadInput as e:
        yield from e.problems


def _same_run(model: LiveModel, config: TrainConfig, output: Path, report: DataReport) -> None:
    """Raise `BadInput` with everything that is not as it was when the state was saved."""
    state = StateFile(output).read()
    now = Identity.of(config, model.checkpoint.name, model.tensors, report.pictures)
    differences = list(now.differences(state.identity)) if state is not None else []
    if differences:
        raise BadInput(*differences)


def _network(model: LiveModel, config: TrainConfig) -> Iterator[Problem]:
    yield from check_network(model.table, config)
    if config.network.start_from.strip():
        try:
            network, _ = read_start(config.network.start_from, model.table)
            if not any(target.rate for target in plan(model.table, config, network.adapters)):
                yield Problem("start_from", "no layer of this file learns with these learning rates and patterns")
        except BadInput as e:
            yield from e.problems
    if config.optim.loraplus_ratio != 1 and config.network.kind != "lora":
        got = f"{config.optim.loraplus_ratio:g}"
        yield Problem("loraplus_ratio", f"{config.network.kind} has no upper and lower half", "1, or lora", got)


def _previews(config: TrainConfig) -> Iterator[Problem]:
    try:
        preview_wishes(config.preview)
    except BadInput as e:
        yield from e.problems


def _optimizer(model: LiveModel, config: TrainConfig) -> Iterator[Problem]:
    optim = config.optim
    yield from check_optimizer(optim, _rates(model, config), model.device)
    if optim.ema_decay and optim.optimizer == "adamw_schedulefree":
        what = "a schedule-free optimizer averages by itself"
        yield Problem("ema_decay", what, "0 with adamw_schedulefree", str(optim.ema_decay))


def _rates(model: LiveModel, config: TrainConfig) -> list[float]:
    """Learning rates in use; where the choice of layers cannot be read, `_network` says so."""
    try:
        rates = [target.rate for target in plan(model.table, config)]
    except BadInput:
        return []
    return [rate * ratio for rate in dict.fromkeys(rates) for ratio in {1.0, config.optim.loraplus_ratio}]


def _memory(model: LiveModel, config: TrainConfig) -> Iterator[Problem]:
    """What the chosen way to hold the model needs and is not there."""
    bits, attention = config.memory.base_weights, config.memory.attention
    if bits != "as_loaded":
        yield from check_small(cast(Bits, bits), model.device)
    if attention == "xformers" and importlib.util.find_spec("xformers") is None:
        yield Problem("attention", "the package xformers is not installed", fix=install_line("xformers"))
    elif attention == "xformers" and model.device.type != "cuda":
        yield Problem("attention", "xformers runs on an NVIDIA card only", "sdpa here", attention)


def _precision(model: LiveModel, config: TrainConfig) -> Iterator[Problem]:
    try:
        Arithmetic.choose(config.optim.precision, model.device)
    except BadInput as e:
        yield from e.problems
