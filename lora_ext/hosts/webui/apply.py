"""`<lora:name:0.7>` and `<lyco:...>` in the WebUI's prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

from modules import extra_networks, processing, sd_models, shared

from lora_ext.adapters import Network
from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import WantedLora, read_tags
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.live import WebuiModel, of
from lora_ext.hosts.webui.settings import builtin_wanted
from lora_ext.patching import Strengths

Tags = tuple[tuple[str, ...], ...]
Outcome = tuple[tuple[str, float, float], ...]

log = logging.getLogger("lora_ext")


class AdapterTags(extra_networks.ExtraNetwork):  # type: ignore[misc]  # the host has no types
    """The extra network of these tags. `before` is the builtin's, for when the user or the model wants that one."""

    def __init__(self, library: Library, before: extra_networks.ExtraNetwork | None) -> None:
        super().__init__("lora")
        self.library = library
        self.before = before
        self._given_back = False
        self._outcomes: dict[Tags, Outcome] = {}

    def activate(
        self, p: processing.StableDiffusionProcessing, params_list: list[extra_networks.ExtraNetworkParams]
    ) -> None:
        """Called before every batch, with [] when the prompt has no tags of ours. Bad tags never hinder good ones."""
        model = sd_models.model_data.sd_model
        if model is None:
            return
        live = _supported(model)
        self._given_back = self.before is not None and (live is None or builtin_wanted())
        if self._given_back:
            self._give_back(live, p, params_list)
        elif live is not None:
            Builtin.find().sleep(model)
            self._apply(live, p, _with_default(p, params_list))
        elif params_list:
            _tell(p, [Problem("lora", "LoRAs are not supported for this kind of model", "SD 1.x, SD 2.x or SDXL")])

    def deactivate(self, p: processing.StableDiffusionProcessing) -> None:
        """Called after a run whose prompt had tags. The weights stay as they are for the next one."""
        if self._given_back and self.before is not None:
            self.before.deactivate(p)

    def _give_back(
        self,
        live: WebuiModel | None,
        p: processing.StableDiffusionProcessing,
        params_list: list[extra_networks.ExtraNetworkParams],
    ) -> None:
        if live is not None:
            live.apply({})
        self._outcomes.clear()
        Builtin.find().wake()
        assert self.before is not None
        self.before.activate(p, params_list)

    def _apply(self, live: WebuiModel, p: processing.StableDiffusionProcessing, tags: Tags) -> None:
        wanted, problems = read_tags(tags, self.library.knows)
        networks, unresolved = self.library.resolve(wanted, live.names)
        networks, unfit = _apply_each(live, networks)
        _tell(p, [*problems, *unresolved, *unfit])
        self._refresh_conditionings(p, tags, networks)
        self._add_hashes(live, p, wanted, networks)

    def _refresh_conditionings(
        self, p: processing.StableDiffusionProcessing, tags: Tags, networks: Mapping[Network, Strengths]
    ) -> None:
        """The host keeps text conditionings by the tags' wording; a file may have changed under the same name."""
        outcome = tuple(sorted((n.identity, s.unet, s.text) for n, s in networks.items()))
        if self._outcomes.get(tags) != outcome:
            forget_conditionings(p)
        self._outcomes[tags] = outcome
        while len(self._outcomes) > 100:
            self._outcomes.pop(next(iter(self._outcomes)))

    def _add_hashes(
        self,
        live: WebuiModel,
        p: processing.StableDiffusionProcessing,
        wanted: Iterable[WantedLora],
        networks: Mapping[Network, Strengths],
    ) -> None:
        """`Lora hashes: name: 12 hex` in the picture's text, as the builtin writes and reads it."""
        if not getattr(shared.opts, "lora_add_hashes_to_infotext", True):
            return
        if not getattr(p, "is_hr_pass", False) or not hasattr(p, "lora_hashes"):
            p.lora_hashes = {}
        for one in wanted:
            try:
                known = self.library.load(one.name, live.names).network in networks
                digest = self.library.hash(one.name)[:12]
            except BadInput:
                continue  # already told
            if known and digest:
                p.lora_hashes[one.name.translate(str.maketrans("", "", ":,"))] = digest
        if p.lora_hashes:
            p.extra_generation_params["Lora hashes"] = ", ".join(f"{k}: {v}" for k, v in p.lora_hashes.items())


def take_over(library: Library) -> None:
    """Make ours the extra network of `<lora:...>` and `<lyco:...>`.

    Call it when the app has started: `before_ui` callbacks run in reverse, so the builtin registers after us.
    """
    before = extra_networks.extra_network_registry.get("lora")
    if isinstance(before, AdapterTags):
        before = before.before
    tags = AdapterTags(library, before)
    extra_networks.register_extra_network(tags)
    extra_networks.register_extra_network_alias(tags, "lyco")


def hand_back() -> None:
    """Before the host unloads its scripts: the builtin as it was, so that it can unload itself."""
    tags = extra_networks.extra_network_registry.get("lora")
    model = sd_models.model_data.sd_model
    live = _supported(model) if model is not None else None
    if live is not None:
        live.apply({})
    if isinstance(tags, AdapterTags) and tags.before is not None:
        extra_networks.register_extra_network(tags.before)
        extra_networks.register_extra_network_alias(tags.before, "lyco")
    Builtin.find().wake()


def forget_conditionings(p: processing.StableDiffusionProcessing) -> None:
    """Empty the host's caches of encoded prompts."""
    for holder in (p, processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            cache = getattr(holder, name, None)
            if cache is not None:
                cache[0] = None


def _supported(model: object) -> WebuiModel | None:
    try:
        return of(model)  # type: ignore[arg-type]  # whatever the host has; `of` looks
    except BadInput:
        return None


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
    live.apply(fitting)
    return fitting, problems


def _with_default(
    p: processing.StableDiffusionProcessing, params_list: Sequence[extra_networks.ExtraNetworkParams]
) -> Tags:
    """The prompt's tags, and the network of Settings > Add network to prompt."""
    tags = [tuple(str(item) for item in params.items) for params in params_list]
    always = getattr(shared.opts, "sd_lora", "None")
    if always not in ("None", "") and not any(tag[0] == always for tag in tags):
        strength = str(shared.opts.extra_networks_default_multiplier)
        p.all_prompts = [f"{prompt}<lora:{always}:{strength}>" for prompt in p.all_prompts]
        tags.append((always, strength))
    return tuple(tags)


def _tell(p: processing.StableDiffusionProcessing, problems: Iterable[Problem]) -> None:
    for problem in problems:
        log.warning("LoRA %s", problem)
        p.comment(f"LoRA {problem}")
