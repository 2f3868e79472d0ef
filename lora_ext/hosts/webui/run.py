"""One pass of one picture: what its tags want, on whatever model is loaded at each moment of it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping

from modules import devices, processing, sd_samplers_cfg_denoiser, shared

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import read_tags
from lora_ext.hosts.schedule import Moment
from lora_ext.hosts.selection import Embeddings, Selection, select
from lora_ext.hosts.webui import weights
from lora_ext.hosts.webui.live import WebuiModel, of
from lora_ext.hosts.webui.presets import block_presets
from lora_ext.patching import Strengths

Tags = tuple[tuple[str, ...], ...]

log = logging.getLogger("lora_ext")


class Run:
    """The tags of one pass and the model they are on.

    The model may change on the way: the refiner, or the hires checkpoint, takes its place in the middle of a pass.
    """

    def __init__(self, p: processing.StableDiffusionProcessing, library: Library, tags: Tags, hires: bool) -> None:
        """`hires`: the second pass. Tells what is wrong with the tags under the picture."""
        self.tags = tags
        self.hires = hires
        self.wanted, problems = read_tags(tags, library.knows, block_presets())
        self._picture = weakref.ref(p)
        self._library = library
        self._model: Callable[[], object] = lambda: None  # does not keep a model alive that the host lets go of
        self._checkpoint: weights.Checkpoint | None = None
        self._selection = Selection({})
        self._asked: dict[Network, Strengths] | None = None
        self.applied: Mapping[Network, Strengths] = {}
        tell(p, problems)

    @property
    def over(self) -> bool:
        """Whether the picture is gone."""
        return self._picture() is None

    def belongs_to(self, p: object) -> bool:
        """Whether this is a pass of that picture."""
        return p is not None and self._picture() is p

    def is_on(self, model: weights.HostModel) -> bool:
        """Whether the model is still the one, with the weights of the checkpoint, that this was put on."""
        return self._model() is model and model.sd_checkpoint_info is self._checkpoint

    def leave(self) -> None:
        """The weights are no longer what this asked for: go on from nothing the next time."""
        self._model = lambda: None

    @property
    def changes(self) -> bool:
        """Whether strengths change from step to step."""
        return self._selection.changes

    @property
    def embeddings(self) -> Embeddings:
        """Those in the files of the networks that are used."""
        return self._selection.embeddings

    @property
    def names(self) -> tuple[str, ...]:
        """Names, as written in the tags, of the networks that are used."""
        shares = self._selection.shares
        refused = {network for network in self._asked or {} if network not in self.applied}
        return tuple(tag.name for network, tags in shares.items() if network not in refused for tag in tags)

    def go_on(self, model: weights.HostModel, moment: Moment) -> None:
        """Make the weights of `model` what this pass wants at `moment`."""
        live = supported(model)
        p = self._picture()
        if p is None:
            return
        if not self.is_on(model):
            self._move_to(p, model, live)
        asked = self._selection.at(moment)
        if live is not None and asked != self._asked:
            self._asked = asked
            self.applied, problems = _apply_each(live, asked)
            tell(p, problems)

    def _move_to(
        self, p: processing.StableDiffusionProcessing, model: weights.HostModel, live: WebuiModel | None
    ) -> None:
        self._model, self._checkpoint = weakref.ref(model), model.sd_checkpoint_info
        self._selection, self._asked, self.applied = Selection({}), None, {}
        if live is not None:
            self._selection, problems = select(self.wanted, self._library, live.names)
            tell(p, [*problems, *_on_fp8(self._selection)])
        elif self.tags:
            what = f"LoRAs are not supported for this kind of model ({model.sd_checkpoint_info.name_for_extra})"
            tell(p, [Problem("lora", what, "SD 1.x, SD 2.x or SDXL")])


def moment_of(denoiser: sd_samplers_cfg_denoiser.CFGDenoiser, hires: bool) -> Moment:
    """Where the sampler is. Samplers of second order ask the UNet twice per step."""
    steps = max(1, denoiser.steps or 1)
    calls = max(1, (denoiser.total_steps or steps) // steps)
    return Moment(min(denoiser.step // calls, steps - 1), steps, hires)


def supported(model: object) -> WebuiModel | None:
    """Our view of a host model, or None for a kind of model that we cannot change."""
    try:
        return of(model)  # type: ignore[arg-type]  # whatever the host has; `of` looks
    except BadInput:
        return None


def tell(p: processing.StableDiffusionProcessing, problems: Iterable[Problem]) -> None:
    """Show problems under the picture (where the host escapes them) and in the log, once per picture."""
    for problem in problems:
        line = "".join(sign if sign.isprintable() else "�" for sign in f"LoRA {problem}")
        if line not in p.comments:
            log.warning("%s", line)
            p.comment(line)


def _on_fp8(selection: Selection) -> list[Problem]:
    """The host may keep fp16 copies beside its fp8 weights, for its own loader."""
    if not (selection.shares and devices.fp8 and getattr(shared.opts, "cache_fp16_weight", False)):
        return []
    what = "LoRAs are added to the fp8 weights as they are; 'Cache FP16 weight for LoRA' is the builtin loader's"
    return [Problem("lora", what)]


def _apply_each(
    live: WebuiModel, networks: Mapping[Network, Strengths]
) -> tuple[dict[Network, Strengths], list[Problem]]:
    """All at once; if that fails, one after the other, so that one that does not fit hinders no other."""
    try:
        live.apply(networks)
        return dict(networks), []
    except BadInput:
        pass
    fitting: dict[Network, Strengths] = {}
    problems: list[Problem] = []
    for network, strengths in networks.items():
        try:
            live.apply({**fitting, network: strengths})
            fitting[network] = strengths
        except BadInput as e:
            problems += e.problems[:1]
    try:
        live.apply(fitting)
    except BadInput as e:  # the weights cannot be changed at all; the message says what to do
        return {}, [*e.problems]
    return fitting, problems
