"""One picture from the host's own sampler, with the weights as they are and nothing of the user's touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modules import processing, sd_models, sd_unet, shared
from PIL import Image

from lora_ext.hosts.webui.job import aside
from lora_ext.live import RenderRequest

SAMPLER = "DPM++ 2M"
"""What txt2img starts with."""


def paint(request: RenderRequest) -> Image.Image:
    """Render. Call it under the host's queue lock. Tags in the prompt are taken out and not applied."""
    p = _processing(request)
    with aside(), _unnoticed():
        try:
            images: list[Image.Image] = processing.process_images(p).images
        finally:
            p.close()
    if not images:
        raise RuntimeError("the WebUI rendered no picture")
    return images[0]


def _processing(request: RenderRequest) -> processing.StableDiffusionProcessingTxt2Img:
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=request.prompt,
        negative_prompt=request.negative,
        seed=request.seed,
        steps=request.steps,
        cfg_scale=request.cfg,
        width=request.width,
        height=request.height,
        sampler_name=SAMPLER,
        scheduler="Automatic",
        restore_faces=False,
        tiling=False,
        do_not_save_samples=True,
        do_not_save_grid=True,
        do_not_reload_embeddings=True,
        disable_extra_networks=True,
        # the user may have chosen another checkpoint meanwhile; it is loaded when the queue is free
        override_settings={"sd_model_checkpoint": sd_models.model_data.sd_model.sd_checkpoint_info.title},
    )
    # conditionings of weights that are about to change again must not be kept for anyone
    p.cached_c, p.cached_uc, p.cached_hr_c, p.cached_hr_uc = [None, None], [None, None], [None, None], [None, None]
    return p


@contextmanager
def _unnoticed() -> Iterator[None]:
    """Leave the user's last prompt alone, and keep out hypernetworks and replaced UNets (they do not train)."""
    options = shared.cmd_opts
    before = options.no_prompt_history, shared.loaded_hypernetworks, sd_unet.current_unet
    options.no_prompt_history, shared.loaded_hypernetworks, sd_unet.current_unet = True, [], None
    try:
        yield
    finally:
        options.no_prompt_history, shared.loaded_hypernetworks, sd_unet.current_unet = before
