"""What the model is asked for, and how its mistakes are weighed."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ext.config.declare import setting
from lora_ext.config.relevance import only, unless


@dataclass(frozen=True)
class LossConfig:
    """Noise that goes in, and the loss that comes out."""

    loss_type: str = setting(
        "mse",
        "Loss",
        "How a mistake is measured. mse is what the model was made with; huber and smooth_l1 care less about outliers, "
        "which helps when some pictures are bad.",
        choices=("mse", "l1", "huber", "smooth_l1"),
        expert=True,
    )
    huber_schedule: str = setting(
        "snr",
        "Huber schedule",
        "How the border between small and large mistakes moves with the amount of noise (huber and smooth_l1 only).",
        choices=("constant", "exponential", "snr"),
        expert=True,
        when=[only("loss_type", "huber", "smooth_l1")],
    )
    huber_c: float = setting(
        0.1,
        "Huber border",
        "Mistakes below it count squared, those above only linearly; the border at most noise.",
        minimum=1e-6,
        maximum=1.0,
        expert=True,
        when=[only("loss_type", "huber", "smooth_l1")],
    )
    huber_scale: float = setting(
        1.0,
        "Huber scale",
        "Multiplies the border of the constant and exponential schedules.",
        minimum=1e-6,
        maximum=1e3,
        expert=True,
        when=[only("huber_schedule", "constant", "exponential")],
    )
    min_snr_gamma: float = setting(
        0.0,
        "Min-SNR gamma",
        "Keeps nearly clean pictures from outweighing noisy ones; 5 makes learning quicker and steadier. 0: off.",
        minimum=0.0,
        maximum=1e3,
        expert=True,
    )
    debiased: bool = setting(
        False,
        "Debiased estimation",
        "Weighs noisy pictures up, so that shapes are learnt sooner. Use this or min-SNR, not both.",
        expert=True,
    )
    scale_v_loss: bool = setting(
        False,
        "Weigh v-prediction like noise prediction",
        "Only for v-prediction models (SD 2.x 768 and others): nearly clean pictures count as in other models.",
        expert=True,
        when=[only("prediction_type", "v_prediction")],
    )
    v_pred_like_loss: float = setting(
        0.0,
        "Weigh noise prediction like v-prediction",
        "Only for models that predict noise (SD 1.x, SDXL): adds this times the loss as a v-prediction model would "
        "count it, which weighs noisy pictures up; 0.5 to 1. 0: off.",
        minimum=0.0,
        maximum=100.0,
        expert=True,
        when=[only("prediction_type", "epsilon")],
    )
    masked_loss: bool = setting(
        False,
        "Learn only inside the mask",
        "Where a picture has a mask, what is black in it is left aside.",
        expert=True,
    )
    prior_weight: float = setting(
        1.0,
        "Weight of regularisation pictures",
        "How much pictures that shall keep the model as it is count beside your own. 1: alike.",
        minimum=0.0,
        maximum=100.0,
        expert=True,
        when=[(unless("regularisation_images", ""), only("regularisation", True), unless("datasets", ""))],
    )
    noise_offset: float = setting(
        0.0,
        "Noise offset",
        "Lets the LoRA make darker and brighter pictures than the model can; 0.03 to 0.1. 0: off.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
    )
    noise_offset_random: bool = setting(
        False,
        "Vary the noise offset",
        "A new strength between 0 and the noise offset in each step.",
        expert=True,
        when=[unless("noise_offset", 0.0)],
    )
    adaptive_noise_offset: float = setting(
        0.0,
        "Adaptive noise offset",
        "Adds this times the picture's own mean to the noise offset.",
        minimum=-1.0,
        maximum=1.0,
        expert=True,
    )
    pyramid_levels: int = setting(
        0,
        "Pyramid noise levels",
        "Multi-resolution noise: coarser noises are added to the fine one, another way to more contrast; 6 to 10. "
        "0: off.",
        minimum=0,
        maximum=32,
        expert=True,
    )
    pyramid_discount: float = setting(
        0.3,
        "Pyramid noise discount",
        "How much weaker each coarser level of pyramid noise is.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
        when=[unless("pyramid_levels", 0)],
    )
    input_perturbation: float = setting(
        0.0,
        "Input perturbation",
        "Extra noise on what goes in but not on what is asked for: more robust, less copied; about 0.1. 0: off.",
        minimum=0.0,
        maximum=1.0,
        expert=True,
    )
    input_perturbation_random: bool = setting(
        False,
        "Vary the input perturbation",
        "A new strength between 0 and the one given in each step.",
        expert=True,
        when=[unless("input_perturbation", 0.0)],
    )
    zero_terminal_snr: bool = setting(
        False,
        "Zero terminal SNR",
        "Trains with pure noise at the last timestep, for v-prediction models that were made so.",
        expert=True,
        when=[only("prediction_type", "v_prediction")],
    )
    timestep_min: int = setting(
        0,
        "Lowest timestep",
        "Learn from pictures with at least this much noise (0 is the clean end). Higher: shapes more than details.",
        minimum=0,
        maximum=999,
        expert=True,
    )
    timestep_max: int = setting(
        1000,
        "Highest timestep",
        "Learn from pictures with less noise than this (1000 is pure noise). Lower: details more than shapes.",
        minimum=1,
        maximum=1000,
        expert=True,
    )
    timestep_distribution: str = setting(
        "uniform",
        "Timestep distribution",
        "Which amounts of noise come more often. uniform: all alike; the others prefer the middle.",
        choices=("uniform", "sigmoid", "logit_normal", "cosmap"),
        expert=True,
    )
    timestep_mean: float = setting(
        0.0,
        "Timestep shift",
        "Moves the logit_normal distribution: above 0 to more noise, below 0 to less.",
        minimum=-10.0,
        maximum=10.0,
        expert=True,
        when=[only("timestep_distribution", "logit_normal")],
    )
    timestep_spread: float = setting(
        1.0,
        "Timestep spread",
        "Width of the sigmoid and logit_normal distributions.",
        minimum=1e-3,
        maximum=10.0,
        expert=True,
        when=[only("timestep_distribution", "sigmoid", "logit_normal")],
    )
