"""`<lora:name:0.7>` and `<lyco:...>` in the WebUI's prompts."""

from __future__ import annotations

from collections.abc import Sequence

from modules import extra_networks, patches, processing, script_callbacks, sd_models, shared

from lora_ext.errors import BadInput, Problem
from lora_ext.hosts.library import Library
from lora_ext.hosts.prompt import TAG
from lora_ext.hosts.schedule import Moment
from lora_ext.hosts.webui.builtin import Builtin
from lora_ext.hosts.webui.conditionings import TagsOfPrompt, encoded_with, forget_conditionings
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
        self._runs: list[Run] = []
        self._on: Run | None = None
        self._given_back = False
        self._embeddings = BundledEmbeddings()

    def activate(self, p: processing.StableDiffusionProcessing, params_list: Params) -> None:
        """Called before every pass of every batch, with [] when the prompt has no tags of ours.

        Bad tags never hinder good ones, and nothing of the last prompt stays on.
        """
        self._end(p)
        model = sd_models.model_data.sd_model
        if model is None:
            return
        live = supported(model)
        given_back, self._given_back = self._given_back, self.before is not None and (live is None or builtin_wanted())
        if self._given_back != given_back:
            forget_conditionings(p)  # a network that is always on is in no tag that they were kept by
        if self._given_back:
            self._give_back(live, p, params_list)
            return
        if live is not None:
            Builtin.find().sleep(model)
        hires = _is_second_pass(p, params_list)
        tell(p, _mixed(p, hires))
        run = Run(p, self.library, _with_default(p, params_list), hires)
        self._runs.append(run)
        self._go_on(p, run)
        self._add_hashes(p, run)

    def deactivate(self, p: processing.StableDiffusionProcessing) -> None:
        """Called after a run whose prompt had tags. The weights stay as they are for the next one."""
        self._end(p)
        if self._given_back and self.before is not None:
            self.before.deactivate(p)

    def before_step(self, params: script_callbacks.CFGDenoiserParams) -> None:
        """Called before each time the sampler asks the UNet."""
        run = self._run_of(getattr(params.denoiser, "p", None))
        if run is not None and (run.changes or not self._is_on(run)):
            self._put_on(run, moment_of(params.denoiser, run.hires))

    def before_encoding(
        self, p: processing.StableDiffusionProcessing, tags: TagsOfPrompt | None
    ) -> TagsOfPrompt | None:
        """Called before prompts are encoded: the refiner may have taken the model's place since `activate`.

        Returns what the host shall keep the outcome by, in place of the prompt's tags.
        """
        run = self._run_of(p)
        if run is None:
            return tags
        if not self._is_on(run):
            self._go_on(p, run)
        return encoded_with(tags, run.applied, run.embeddings)

    def step_aside(self, live: WebuiModel | None) -> None:
        """Nothing of ours in the weights, and the builtin awake."""
        self._on = None
        self.forget_embeddings()
        step_aside(live)

    def forget_embeddings(self) -> None:
        """None of ours in the host's list."""
        model = sd_models.model_data.sd_model
        if model is not None:
            self._embeddings.use({}, model)

    def _run_of(self, p: object) -> Run | None:
        """While the host loads a model it activates no tags for a picture that is none: each has its own run."""
        return next((run for run in self._runs if run.belongs_to(p)), None)

    def _end(self, p: processing.StableDiffusionProcessing) -> None:
        self._runs = [run for run in self._runs if not (run.over or run.belongs_to(p))]

    def _is_on(self, run: Run) -> bool:
        model = sd_models.model_data.sd_model
        return model is None or (self._on is run and run.is_on(model))

    def _put_on(self, run: Run, moment: Moment) -> None:
        if self._on is not run:
            run.leave()
        self._on = run
        run.go_on(sd_models.model_data.sd_model, moment)

    def _go_on(self, p: processing.StableDiffusionProcessing, run: Run) -> None:
        self._put_on(run, Moment(hires=run.hires))
        model = sd_models.model_data.sd_model
        tell(p, self._embeddings.use(run.embeddings, model))

    def _give_back(self, live: WebuiModel | None, p: processing.StableDiffusionProcessing, params_list: Params) -> None:
        self.step_aside(live)
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
    (tags.step_aside if tags is not None else step_aside)(supported(model) if model is not None else None)
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


def _encode(
    p: processing.StableDiffusionProcessing,
    function: object,
    required_prompts: object,
    steps: object,
    caches: object,
    extra_network_data: TagsOfPrompt | None,
    hires_steps: object = None,
) -> object:
    """In the place of the host's `get_conds_with_caching`; the model is looked at first."""
    tags = _registered()
    if tags is not None:
        extra_network_data = tags.before_encoding(p, extra_network_data)
    else:
        _make_room(p)
    original = patches.original(OWNER, processing.StableDiffusionProcessing, ENCODE)
    return original(p, function, required_prompts, steps, caches, extra_network_data, hires_steps)


def _make_room(p: processing.StableDiffusionProcessing) -> None:
    """Another extension has registered itself for these tags (loractl does); it builds on the builtin, awake."""
    model, other = sd_models.model_data.sd_model, extra_networks.extra_network_registry.get("lora")
    step_aside(supported(model) if model is not None else None)
    if other is not None:
        what = f"another extension ({type(other).__module__}.{type(other).__qualname__}) handles these tags"
        tell(p, [Problem("lora", what, fix="Switch it off to have them handled by LoRA training's loader.")])


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
        p.all_prompts = [prompt if text in prompt else prompt + text for prompt in p.all_prompts or []]
        tags.append((always, strength))
    return tuple(tags)
