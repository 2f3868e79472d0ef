"""`<lora:name:0.7>` and `<lyco:...>` in the WebUI's prompts."""

from __future__ import annotations

from collections.abc import Sequence

from modules import extra_networks, patches, processing, script_callbacks, sd_models, shared

from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import TAG
from lora_ext.hosts.schedule import Moment
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.conditionings import Conditionings
from lora_ext.hosts.webui.embeddings import BundledEmbeddings
from lora_ext.hosts.webui.live import WebuiModel
from lora_ext.hosts.webui.run import Run, Tags, moment_of, supported, tell
from lora_ext.hosts.webui.settings import builtin_wanted

OWNER = "lora_ext"
"""Key of our patch in the host's register of patches."""

ENCODE = "get_conds_with_caching"
"""The one method of a picture through which the host encodes all its prompts, after every switch of the model too."""

Params = Sequence[extra_networks.ExtraNetworkParams]


class AdapterTags(extra_networks.ExtraNetwork):  # type: ignore[misc]  # the host has no types
    """The extra network of these tags. `before` is the builtin's, for when the user or the model wants that one."""

    def __init__(self, library: Library, before: extra_networks.ExtraNetwork | None) -> None:
        super().__init__("lora")
        self.library = library
        self.before = before
        self.run: Run | None = None
        self._given_back = False
        self._conditionings = Conditionings()
        self._embeddings = BundledEmbeddings()

    def activate(self, p: processing.StableDiffusionProcessing, params_list: Params) -> None:
        """Called before every pass of every batch, with [] when the prompt has no tags of ours.

        Bad tags never hinder good ones, and nothing of the last prompt stays on.
        """
        self.run = None
        model = sd_models.model_data.sd_model
        if model is None:
            return
        live = supported(model)
        given_back, self._given_back = self._given_back, self.before is not None and (live is None or builtin_wanted())
        if self._given_back:
            self._give_back(live, p, params_list, at_once=not given_back)
            return
        if live is not None:
            Builtin.find().sleep(model)
        hires = _is_second_pass(p, params_list)
        tell(p, _mixed(p, hires))
        self.run = Run(p, self.library, _with_default(p, params_list), hires)
        self._go_on(p, self.run)
        self._add_hashes(p, self.run)

    def deactivate(self, p: processing.StableDiffusionProcessing) -> None:
        """Called after a run whose prompt had tags. The weights stay as they are for the next one."""
        self.run = None
        if self._given_back and self.before is not None:
            self.before.deactivate(p)

    def before_step(self, params: script_callbacks.CFGDenoiserParams) -> None:
        """Called before each time the sampler asks the UNet."""
        if self.run is None or params.denoiser is None or not self.run.belongs_to(params.denoiser.p):
            return
        model = sd_models.model_data.sd_model
        if model is not None and (self.run.changes or not self.run.is_on(model)):
            self.run.go_on(model, moment_of(params.denoiser, self.run.hires))

    def before_encoding(self, p: processing.StableDiffusionProcessing) -> None:
        """Called before prompts are encoded: the refiner may have taken the model's place since `activate`."""
        model = sd_models.model_data.sd_model
        if self.run is not None and self.run.belongs_to(p) and model is not None and not self.run.is_on(model):
            self._go_on(p, self.run)

    def forget_embeddings(self) -> None:
        """None of ours in the host's list."""
        model = sd_models.model_data.sd_model
        if model is not None:
            self._embeddings.use({}, model)

    def _go_on(self, p: processing.StableDiffusionProcessing, run: Run) -> None:
        model = sd_models.model_data.sd_model
        run.go_on(model, Moment(hires=run.hires))
        tell(p, self._embeddings.use(run.embeddings, model))
        wording = run.tags, run.hires, model.sd_checkpoint_info.filename
        self._conditionings.check(p, wording, run.applied, run.embeddings)

    def _give_back(
        self, live: WebuiModel | None, p: processing.StableDiffusionProcessing, params_list: Params, at_once: bool
    ) -> None:
        """`at_once`: ours were on until now."""
        step_aside(live)
        if at_once:
            self._conditionings.forget(p)
            self.forget_embeddings()
        assert self.before is not None
        self.before.activate(p, params_list)

    def _add_hashes(self, p: processing.StableDiffusionProcessing, run: Run) -> None:
        """`Lora hashes: name: 12 hex` in the picture's text, as the builtin writes and reads it."""
        if not getattr(shared.opts, "lora_add_hashes_to_infotext", True):
            return
        if not getattr(p, "is_hr_pass", False) or not hasattr(p, "lora_hashes"):
            p.lora_hashes = {}
        for name in run.names:
            try:
                digest = self.library.hash(name)[:12]
            except BadInput:
                continue  # gone in this very moment
            if digest:
                p.lora_hashes[name.translate(str.maketrans("", "", ":,"))] = digest
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
    if patches.original(OWNER, processing.StableDiffusionProcessing, ENCODE) is None:
        patches.patch(OWNER, processing.StableDiffusionProcessing, ENCODE, _encode)


def hand_back() -> None:
    """Before the host unloads its scripts: the builtin as it was, so that it can unload itself."""
    tags = _registered()
    model = sd_models.model_data.sd_model
    step_aside(supported(model) if model is not None else None)
    if tags is not None:
        tags.forget_embeddings()
    if tags is not None and tags.before is not None:
        extra_networks.register_extra_network(tags.before)
        extra_networks.register_extra_network_alias(tags.before, "lyco")
    # someone may have patched on top of it: then it cannot be taken out from below, and does nothing
    if processing.StableDiffusionProcessing.__dict__.get(ENCODE) is _encode:
        patches.undo(OWNER, processing.StableDiffusionProcessing, ENCODE)


def before_step(params: script_callbacks.CFGDenoiserParams) -> None:
    """For `on_cfg_denoiser`: strengths may change from step to step."""
    tags = _registered()
    if tags is not None:
        tags.before_step(params)


def step_aside(live: WebuiModel | None) -> None:
    """Nothing of ours in the weights, and the builtin awake."""
    if live is not None:
        live.apply({})
    Builtin.find().wake()


def _encode(p: processing.StableDiffusionProcessing, *given: object, **named: object) -> object:
    """In the place of the host's `get_conds_with_caching`; the model is looked at first."""
    tags = _registered()
    if tags is not None:
        tags.before_encoding(p)
    else:
        _make_room(p)
    return patches.original(OWNER, processing.StableDiffusionProcessing, ENCODE)(p, *given, **named)


def _make_room(p: processing.StableDiffusionProcessing) -> None:
    """Another extension has registered itself for these tags (loractl does); it builds on the builtin, awake."""
    model = sd_models.model_data.sd_model
    step_aside(supported(model) if model is not None else None)
    what = f"{extra_networks.extra_network_registry.get('lora')!r} of another extension handles these tags"
    tell(p, [Problem("lora", what, fix="Switch that extension off to have them handled by LoRA training's loader.")])


def _registered() -> AdapterTags | None:
    tags = extra_networks.extra_network_registry.get("lora")
    return tags if isinstance(tags, AdapterTags) else None


def _is_second_pass(p: processing.StableDiffusionProcessing, params_list: Params) -> bool:
    """With --lowvram and --medvram the host encodes the second pass's prompt before the first, not saying so."""
    if getattr(p, "is_hr_pass", False):
        return True
    later = getattr(p, "hr_extra_network_data", None) or {}
    return any(params is other for params in params_list for others in later.values() for other in others)


def _mixed(p: processing.StableDiffusionProcessing, hires: bool) -> list[Problem]:
    """The host applies the tags of a batch's first prompt to the whole batch."""
    prompts = getattr(p, "all_hr_prompts", None) if hires else p.all_prompts
    batch = (prompts or [])[p.iteration * p.batch_size : (p.iteration + 1) * p.batch_size]
    if len({tuple(TAG.findall(prompt)) for prompt in batch}) < 2:
        return []
    what = "the prompts of one batch have different tags; all its pictures are made with those of the first prompt"
    return [Problem("lora", what, fix="Set the batch size to 1 and raise the batch count instead.")]


def _with_default(p: processing.StableDiffusionProcessing, params_list: Params) -> Tags:
    """The prompt's tags, and the network of Settings > Add network to prompt."""
    tags = [tuple(str(item) for item in params.items) for params in params_list]
    always = getattr(shared.opts, "sd_lora", "None")
    if always not in ("None", "") and not any(tag[0] == always for tag in tags):
        strength = str(shared.opts.extra_networks_default_multiplier)
        text = f"<lora:{always}:{strength}>"
        p.all_prompts = [prompt if text in prompt else prompt + text for prompt in p.all_prompts]
        tags.append((always, strength))
    return tuple(tags)
