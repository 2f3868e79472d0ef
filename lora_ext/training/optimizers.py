"""Which optimizers there are, what they need, and making one."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from lora_ext.config import OptimConfig
from lora_ext.errors import BadInput, Problem
from lora_ext.training.option_text import parse_options


@dataclass(frozen=True)
class Kind:
    """An optimizer by the name of its class.

    `install` is what pip is asked for when the module is missing. `reads_back`: its own step waits for the device, or
    nobody knows, so it is only called after a look at the gradients; others are called blindly and undone on the
    device. `one_rate`: it finds the rate itself and cannot have several. `tried`: on which devices it runs depends on
    how its package was built, so a step is tried before a run.
    """

    module: str
    name: str
    install: str = ""
    arguments: Mapping[str, object] = field(default_factory=dict)
    reads_back: bool = False
    one_rate: bool = False
    tried: bool = False


ENOUGH = (64, 64)
"""A parameter that optimizers in 8 bits do hold in 8 bits; they leave smaller ones alone."""

KINDS: Mapping[str, Kind] = {
    "adamw": Kind("torch.optim", "AdamW"),
    "adamw8bit": Kind("bitsandbytes.optim", "AdamW8bit", "bitsandbytes", tried=True),
    "paged_adamw8bit": Kind("bitsandbytes.optim", "PagedAdamW8bit", "bitsandbytes", reads_back=True, tried=True),
    "adafactor": Kind(
        "transformers.optimization",
        "Adafactor",
        "transformers",
        {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    ),
    "lion": Kind("lion_pytorch", "Lion", "lion-pytorch"),
    "prodigy": Kind("prodigyopt", "Prodigy", "prodigyopt", reads_back=True, one_rate=True),
    "adamw_schedulefree": Kind("schedulefree", "AdamWScheduleFree", "schedulefree"),
    "dadapt_adam": Kind("dadaptation", "DAdaptAdam", "dadaptation", {"decouple": True}, reads_back=True, one_rate=True),
    "came": Kind("came_pytorch", "CAME", "came-pytorch"),
}


def kind_of(optim: OptimConfig) -> Kind:
    """The kind that the settings name. Raises `BadInput` (field "optimizer_class") for a class name that is none."""
    if optim.optimizer != "custom":
        return KINDS[optim.optimizer]
    module, _, name = optim.optimizer_class.strip().rpartition(".")
    if not module or not name.isidentifier():
        got = repr(optim.optimizer_class)
        raise BadInput(Problem("optimizer_class", "this is no class", "a dotted name such as torch.optim.NAdam", got))
    return Kind(module, name, reads_back=True)


def make_optimizer(
    groups: Sequence[tuple[list[nn.Parameter], float]], optim: OptimConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer over (parameters, learning rate) groups.

    Raises `BadInput`: field "optimizer" when its package is missing (with the line that installs it),
    "optimizer_class" for something that is no optimizer, "optimizer_args" for arguments it does not take.
    """
    kind = kind_of(optim)
    named = _class(kind, optim)
    arguments = _arguments(named, kind, optim)
    if kind == KINDS["adamw"] and device.type == "cuda":
        arguments.setdefault("fused", True)
    listed = [{"params": parameters, "lr": rate} for parameters, rate in groups]
    make: Callable[..., torch.optim.Optimizer] = named
    try:
        return make(listed, lr=groups[0][1], **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as e:
        why = " ".join(str(e).split())
        raise BadInput(Problem("optimizer_args", f"{kind.name} refuses its arguments", got=why)) from e


def check_optimizer(optim: OptimConfig, rates: Sequence[float], device: torch.device) -> Iterator[Problem]:
    """Everything about the optimizer that can be told before a run; `rates` are the learning rates in use."""
    try:
        kind = kind_of(optim)
        own = optim.optimizer == "custom"
        where = device if own or kind.tried else torch.device("cpu")
        probe = nn.Parameter(torch.zeros(ENOUGH, device=where))
        made = make_optimizer([([probe], rates[0] if rates else 1e-4)], optim, where)
        if own or kind.tried:
            _try_a_step(made, probe, optim)
    except BadInput as e:
        yield from e.problems
        return
    if kind.one_rate and len(set(rates)) > 1:
        fix = "Give UNet and text encoder the same one, usually 1."
        yield Problem("optimizer", f"{kind.name} finds one learning rate for all", "equal learning rates", fix=fix)


def _try_a_step(made: torch.optim.Optimizer, probe: nn.Parameter, optim: OptimConfig) -> None:
    """Raise `BadInput` for a class that cannot step as training does: it asks for a closure or for other gradients, or
    was not built for the device."""
    probe.grad = torch.ones_like(probe)
    step: Callable[[], object] = made.step
    try:
        with torch.no_grad():
            step()
    except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, NameError) as e:
        why, name = " ".join(str(e).split()), type(made).__name__
        if optim.optimizer == "custom":
            what = f"{name} cannot train a LoRA: its step fails"
            raise BadInput(Problem("optimizer_class", what, "another optimizer", why)) from e
        kind = probe.device.type
        where = "an NVIDIA card" if kind != "cuda" else "a bitsandbytes made for this version of CUDA"
        raise BadInput(Problem("optimizer", f"{name} does not run on {kind} here", where, why, "Take adamw.")) from e


def finds_rate(optim: OptimConfig) -> bool:
    """Whether the optimizer finds its learning rate and wants to be given 1."""
    return optim.optimizer in KINDS and KINDS[optim.optimizer].one_rate


def install_line(package: str) -> str:
    """How to install a package into this very Python without moving the versions of what is there."""
    limit = "<0.46" if package == "bitsandbytes" and torch.__version__.startswith(("2.0.", "2.1.", "2.2.")) else ""
    return f'Install it with: "{sys.executable}" -m pip install --no-deps "{package}{limit}"'


def _class(kind: Kind, optim: OptimConfig) -> type[torch.optim.Optimizer]:
    named = "optimizer_class" if optim.optimizer == "custom" else "optimizer"
    try:
        found = getattr(importlib.import_module(kind.module), kind.name, None)
    except ImportError as e:
        package = kind.install or kind.module.partition(".")[0]
        what = "is not installed" if isinstance(e, ModuleNotFoundError) else "cannot be used"
        raise BadInput(Problem(named, f"the package {package} {what}", got=str(e), fix=install_line(package))) from e
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise BadInput(Problem(named, f"{kind.module} has no optimizer of that name", got=kind.name))
    return found


def _arguments(made: type[torch.optim.Optimizer], kind: Kind, optim: OptimConfig) -> dict[str, object]:
    accepted = accepted_arguments(made)
    given = parse_options("optimizer_args", optim.optimizer_args)
    if accepted is not None:
        unknown = [name for name in given if name not in accepted]
        if unknown:
            expected = ", ".join(accepted)
            raise BadInput(
                *(Problem("optimizer_args", f"{kind.name} has no argument {name}", expected) for name in unknown)
            )
    decay = {"weight_decay": optim.weight_decay} if accepted is None or "weight_decay" in accepted else {}
    return {**decay, **kind.arguments, **given}


def accepted_arguments(made: type[torch.optim.Optimizer]) -> tuple[str, ...] | None:
    """Names of the arguments besides the parameters and `lr`; None when the class takes any."""
    with contextlib.suppress(ValueError):
        parameters = list(inspect.signature(made).parameters.values())
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            return tuple(p.name for p in parameters[1:] if p.name != "lr")
    return None
