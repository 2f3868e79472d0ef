"""Put into the WebUI's extensions by the tests: shows what a user cannot see, and breaks things on purpose."""

from __future__ import annotations

import hashlib

import torch
from fastapi import FastAPI
from modules import devices, script_callbacks, scripts, sd_hijack, sd_models, sd_models_config, shared
from safetensors.torch import save_file

seen: dict[str, str] = {"comments": ""}
PROMPTS = "|||"
kept: dict[str, object] = {}


class Listener(scripts.Script):
    """Keeps the comments of the last picture."""

    def title(self):
        return "probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        """A prompt for every picture, as extensions for wildcards and prompt lists make them."""
        if PROMPTS in p.prompt:
            p.all_prompts = p.prompt.split(PROMPTS)

    def postprocess(self, p, processed, *args):
        seen["comments"] = processed.comments


def model_state() -> dict[str, object]:
    """Everything that training must leave as it was."""
    model = shared.sd_model
    tensors = dict(model.state_dict(keep_vars=True))
    modes = {name: module.training for name, module in model.named_modules()}
    return {
        "tensors": {name: digest(t) for name, t in tensors.items()},
        "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
        "grads": [name for name, t in tensors.items() if t.grad is not None],
        "devices": sorted({str(t.device) for t in tensors.values()}),
        "dtypes": {name: str(t.dtype) for name, t in tensors.items()},
        "modes": modes,
        "modules": {name: type(module).__qualname__ for name, module in model.named_modules()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "attention": [sd_hijack.model_hijack.optimization_method, attention()],
        "options": {k: repr(v) for k, v in shared.opts.data.items() if k != "sd_checkpoint_hash"},
        "alphas": digest(model.alphas_cumprod),
        "grad_mode": torch.is_grad_enabled(),
        "job": [shared.state.job, shared.state.job_count, shared.state.interrupted],
    }


def save_unet(place: str) -> dict[str, int]:
    """The UNet's weights as they are now, LoRAs in them, by their keys in checkpoints."""
    model = shared.sd_model.model.diffusion_model
    tensors = {f"model.diffusion_model.{name}": t.contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, place)
    return {"tensors": len(tensors)}


def digest(tensor: torch.Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()


def attention() -> str:
    import ldm.modules.attention
    import sgm.modules.attention

    pair = ldm.modules.attention.CrossAttention.forward, sgm.modules.attention.CrossAttention.forward
    return " ".join(f"{f.__module__}.{f.__qualname__}" for f in pair)


def forwards() -> dict[str, str]:
    """Whose code runs when a layer is called."""
    classes = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.MultiheadAttention)
    return {c.__name__: c.forward.__module__ for c in classes}


def fail_after(calls: int) -> dict[str, bool]:
    """The training's loss raises, once, after so many calls: an exception in the middle of a run."""
    from lora_ext.training import learner

    usual, left = learner.diffusion_loss, [calls]

    def broken(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            learner.diffusion_loss = usual
            raise RuntimeError("broken on purpose by the test")
        return usual(*args, **kwargs)

    learner.diffusion_loss = broken
    return {"armed": True}


def fail_sampling(calls: int) -> dict[str, bool]:
    """The sampler raises, once, after so many calls of the UNet: an exception in the middle of a picture."""
    from modules.sd_samplers_cfg_denoiser import CFGDenoiser

    usual, left = CFGDenoiser.combine_denoised, [calls]

    def broken(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            CFGDenoiser.combine_denoised = usual
            raise RuntimeError("broken on purpose by the test")
        return usual(*args, **kwargs)

    CFGDenoiser.combine_denoised = broken
    return {"armed": True}


def rival(there: bool) -> dict[str, bool]:
    """Another extension takes the tags, building on the builtin, as loractl does; or is gone again."""
    from extra_networks_lora import ExtraNetworkLora
    from modules import extra_networks

    registry = extra_networks.extra_network_registry
    if there:
        kept["lora"] = registry["lora"]
        registry["lora"] = type("Rival", (ExtraNetworkLora,), {})()
    else:
        registry["lora"] = kept.pop("lora")
    return {"there": there}


def embeddings() -> list[str]:
    """Words of the textual inversion embeddings that the host knows now."""
    return sorted(sd_hijack.model_hijack.embedding_db.word_embeddings)


def disturb() -> dict[str, bool]:
    """Another extension writes into a weight that a LoRA is in."""
    from lora_ext.hosts.webui import current

    live = current()
    with torch.no_grad():
        live.tensors[next(iter(live._versions))].add_(1.0)
    return {"done": True}


def parity(width: int = 128, height: int = 64) -> dict[str, float]:
    """Our modules over the live tensors against the host's own: largest difference over largest value."""
    from modules.prompt_parser import SdConditioning

    from lora_ext.hosts.webui import current
    from lora_ext.model import Tokenizer, added_conditioning, build_text, build_unet, build_vae

    live, model = current(), shared.sd_model
    arch, tensors = live.architecture, live.tensors
    prompts = ["a photo of a cat, red hat", "x"]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, height // 8, width // 8, generator=g)
    t = torch.tensor([17, 801])
    pixels = torch.rand(1, 3, height, width, generator=g) * 2 - 1
    with torch.no_grad(), devices.autocast():
        cond = model.get_learned_conditioning(SdConditioning(prompts, width=width, height=height))
        context = cond["crossattn"] if isinstance(cond, dict) else cond
        vector = {"y": cond["vector"]} if isinstance(cond, dict) else {}
        theirs = model.model.diffusion_model(x, timesteps=t, context=context, **vector)
        moments = model.first_stage_model.quant_conv(model.first_stage_model.encoder(pixels))
        latents = moments.chunk(2, 1)[0] * arch.vae.scale
    with torch.no_grad():
        text = build_text(arch, tensors).encode(Tokenizer().tokens(prompts, arch))
        sizes = torch.tensor([[height, width, 0, 0, height, width]] * 2)
        added = added_conditioning(arch, text.pooled, sizes)
        ours = build_unet(arch, tensors)(x, t, text.context, added_cond_kwargs=added, return_dict=False)[0]
        coded = build_vae(arch, tensors).encode(pixels).latent_dist.mode() * arch.vae.scale
    out = {"text": apart(text.context, context), "unet": apart(ours, theirs), "vae": apart(coded, latents)}
    if text.pooled is not None:
        out["pooled"] = apart(text.pooled, cond["vector"][:, : text.pooled.shape[1]])
    return out


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def one_config_per_family() -> None:
    """Checkpoints with one config, as most of a user's are: the host loads them into the same tensors."""
    usual = sd_models_config.find_checkpoint_config_near_filename

    def near(info):
        found = usual(info)
        return found and found.replace("-other.yaml", ".yaml").replace("-textless.yaml", ".yaml")

    sd_models_config.find_checkpoint_config_near_filename = near


def routes(_, app: FastAPI) -> None:
    app.add_api_route("/probe/model", model_state, methods=["GET"])
    app.add_api_route("/probe/save-unet", save_unet, methods=["POST"])
    app.add_api_route("/probe/forwards", forwards, methods=["GET"])
    app.add_api_route("/probe/comments", lambda: seen, methods=["GET"])
    app.add_api_route("/probe/parity", parity, methods=["GET"])
    app.add_api_route("/probe/fail/{calls}", fail_after, methods=["POST"])
    app.add_api_route("/probe/fail-sampling/{calls}", fail_sampling, methods=["POST"])
    app.add_api_route("/probe/rival/{there}", rival, methods=["POST"])
    app.add_api_route("/probe/embeddings", embeddings, methods=["GET"])
    app.add_api_route("/probe/disturb", disturb, methods=["POST"])
    app.add_api_route("/probe/reload-ui", shared.state.request_restart, methods=["POST"])
    app.add_api_route("/probe/reload-weights", lambda: bool(sd_models.reload_model_weights(forced_reload=True)))


one_config_per_family()
script_callbacks.on_app_started(routes)
