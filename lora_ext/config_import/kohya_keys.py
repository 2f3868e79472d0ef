"""The keys of sd-scripts, of kohya_ss (its form) and of lora-scripts: one vocabulary, one table."""

from __future__ import annotations

from lora_ext.config_import.rules import Absent, Idle, Refusal, Rule, To, When

PRECISIONS = {"no": "fp32", "float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
    "rex": "rex",
}
LOSSES = {"l2": "mse", "mse": "mse", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}

_CHECKPOINT = "read from the checkpoint itself"
_LOGS = "logs are shown in the tab and written beside the LoRA"
_SPEED = "chosen by the trainer itself"
_UPLOAD = "nothing is uploaded"
_FORM = "a choice of the form, not of the run"


def one_of(table: dict[str, str], what: str) -> To:
    """A setting whose choices have other words there; see `chosen`."""
    return To(what, lambda value: chosen(table, value))


def chosen(table: dict[str, str], value: object) -> str:
    """Our word for a foreign one. Raises `Refusal`."""
    word = str(value).strip().lower()
    if word not in table:
        raise Refusal(f"{value!r} is not one of {', '.join(table)}")
    return table[word]


def checkpoint(value: object) -> str:
    """A checkpoint file. Raises `Refusal` for names of the Hugging Face hub and folders of diffusers."""
    text = str(value).strip()
    if not text.lower().endswith((".safetensors", ".ckpt", ".pt")):
        raise Refusal(f"{text!r} is no checkpoint file; give one with --checkpoint or choose it in the WebUI")
    return text


def tokens(value: object) -> str:
    """Length of captions: 75 where 0 or nothing is given."""
    return str(int(float(str(value))) or 75)


def threads(value: object) -> int:
    """Workers; 0 is the main thread itself."""
    return max(1, int(float(str(value))))


def percent(value: object) -> float:
    """A share to percent."""
    return float(str(value)) * 100


def logger(value: object) -> bool:
    """What logs are written with. Raises `Refusal` for what is not on this machine."""
    word = str(value).strip().lower()
    if word not in ("tensorboard", "none", "all"):
        raise Refusal(f"{_UPLOAD}; logs are written for TensorBoard, and as .csv")
    return word != "none"


def safetensors_only(value: object) -> str:
    """Refuse other formats."""
    raise Refusal(f"files are always .safetensors, not {value}")


KEYS: dict[str, Rule] = {
    # The model
    "pretrained_model_name_or_path": To("checkpoint", checkpoint),
    "v2": Idle(_CHECKPOINT),
    "v_parameterization": Idle(_CHECKPOINT),
    "sdxl": Idle(_CHECKPOINT),
    "vae": Absent("the checkpoint's own VAE is used"),
    "no_half_vae": Idle("the VAE always runs in float32"),
    "model_list": Idle(_FORM),
    "LoRA_type": Idle("read together with the other keys"),
    "clip_skip": To("clip_skip"),
    "max_token_length": To("caption_tokens", tokens),
    "tokenizer_cache_dir": Idle("the tokenizer is part of this trainer"),
    # Pictures
    "train_data_dir": To("images"),
    "reg_data_dir": To("regularisation_images"),
    "in_json": To("caption_file"),
    "dataset_repeats": To("repeats"),
    "train_batch_size": To("batch_size"),
    "enable_bucket": To("buckets"),
    "bucket_no_upscale": When("upscale_limit", 1.0),
    "min_bucket_reso": Absent("buckets reach from half to twice the resolution"),
    "max_bucket_reso": Absent("buckets reach from half to twice the resolution"),
    "bucket_reso_steps": Absent("buckets go in steps of 64 px", off=(64, "64", "", None)),
    "flip_aug": To("flip"),
    "color_aug": When("colour_jitter", 0.1),
    "random_crop": When("crop", "random"),
    "face_crop_aug_range": Absent("pictures are not cut around faces"),
    "masked_loss": To("masked_loss"),
    "alpha_mask": When("masked_loss", True),
    "conditioning_data_dir": To("mask_folder"),
    "cache_latents": Idle("latents are always prepared beforehand"),
    "cache_latents_to_disk": When("cache", "disk"),
    "cache_text_encoder_outputs": Idle("captions are prepared beforehand wherever the text encoders do not learn"),
    "cache_text_encoder_outputs_to_disk": When("cache", "disk"),
    "vae_batch_size": Idle(_SPEED),
    "max_data_loader_n_workers": To("decode_threads", threads),
    "persistent_data_loader_workers": Idle("reading threads live as long as they are needed"),
    "validation_split": To("validation_share", percent),
    "validation_seed": Absent("which pictures are held out hangs on their names alone"),
    "resolution": Idle("read together with the other keys"),
    # Captions
    "caption_extension": To("caption_extension"),
    "caption_extention": To("caption_extension"),
    "shuffle_caption": To("shuffle_tags"),
    "keep_tokens": To("keep_tokens"),
    "keep_tokens_separator": To("keep_separator"),
    "secondary_separator": To("joint_separator"),
    "caption_separator": To("tag_separator"),
    "caption_dropout_rate": To("caption_dropout"),
    "caption_dropout_every_n_epochs": To("caption_dropout_epochs", lambda v: int(float(str(v)))),
    "caption_tag_dropout_rate": To("tag_dropout"),
    "enable_wildcard": To("wildcards"),
    "weighted_captions": Absent("captions are read as they stand, without emphasis"),
    "no_token_padding": Absent("captions are always padded, as the model was made with"),
    "token_warmup_min": Absent("all tags are used from the start", off=(1, "1", 0, "", None)),
    "token_warmup_step": Absent("all tags are used from the start"),
    # Length and learning
    "max_train_epochs": To("epochs"),
    "max_train_steps": To("max_steps"),
    "epoch": To("epochs"),
    "gradient_accumulation_steps": To("accumulate"),
    "gradient_checkpointing": To("checkpointing"),
    "seed": To("seed"),
    "max_grad_norm": To("max_grad_norm"),
    "lr_scheduler": one_of(SCHEDULES, "schedule"),
    "lr_scheduler_num_cycles": To("schedule_cycles"),
    "lr_scheduler_power": To("schedule_power"),
    "lr_scheduler_min_lr_ratio": To("schedule_floor"),
    "lr_scheduler_type": Absent("schedules are those built in"),
    "lr_scheduler_args": Absent("schedules are those built in"),
    "lr_decay_steps": Absent("schedules fall until the end of the run"),
    "stop_text_encoder_training": To("text_encoder_stop"),
    "mixed_precision": one_of(PRECISIONS, "precision"),
    "full_fp16": Absent("what learns is always held in float32"),
    "full_bf16": Absent("what learns is always held in float32"),
    "fp8_base": Absent("weights are held as they are, or in 8 or 4 bits: see base_weights"),
    "fused_backward_pass": Absent("gradients are taken all at once"),
    "weight_decay": To("weight_decay"),
    "scale_weight_norms": Absent("norms are not limited"),
    # The network
    "network_dim": To("rank"),
    "network_alpha": To("alpha"),
    "network_dropout": To("dropout"),
    "network_weights": To("start_from"),
    "lora_network_weights": To("start_from"),
    "dim_from_weights": Idle("ranks are always read from the file one starts from"),
    "base_weights": Absent("nothing is merged into the model beforehand"),
    "base_weights_multiplier": Absent("nothing is merged into the model beforehand"),
    # Noise and loss
    "prior_loss_weight": To("prior_weight"),
    "noise_offset": To("noise_offset"),
    "noise_offset_type": Idle("which of them is used shows in their values"),
    "noise_offset_random_strength": To("noise_offset_random"),
    "adaptive_noise_scale": To("adaptive_noise_offset"),
    "multires_noise_iterations": To("pyramid_levels"),
    "multires_noise_discount": To("pyramid_discount"),
    "ip_noise_gamma": To("input_perturbation"),
    "ip_noise_gamma_random_strength": To("input_perturbation_random"),
    "min_snr_gamma": To("min_snr_gamma"),
    "debiased_estimation_loss": To("debiased"),
    "scale_v_pred_loss_like_noise_pred": To("scale_v_loss"),
    "v_pred_like_loss": To("v_pred_like_loss"),
    "zero_terminal_snr": To("zero_terminal_snr"),
    "min_timestep": To("timestep_min"),
    "max_timestep": To("timestep_max"),
    "loss_type": one_of(LOSSES, "loss_type"),
    "huber_schedule": To("huber_schedule"),
    "huber_c": To("huber_c"),
    "huber_scale": To("huber_scale"),
    # Files
    "save_precision": one_of(PRECISIONS, "save_precision"),
    "save_every_n_epochs": To("save_every_epochs"),
    "save_every_n_steps": To("save_every_steps"),
    "save_n_epoch_ratio": Absent("give save_every_epochs"),
    "save_last_n_epochs": Absent("every save is kept"),
    "save_last_n_steps": Absent("every save is kept"),
    "save_last_n_epochs_state": Absent("the last state and the one before are kept"),
    "save_last_n_steps_state": Absent("the last state and the one before are kept"),
    "save_state": Absent("with saves by epochs there is no number of steps to save states by; give state_every"),
    "save_state_on_train_end": Absent("states are this trainer's own: see state_every"),
    "save_state_to_huggingface": Absent(_UPLOAD),
    "resume": Absent("states of other trainers cannot be read; start_from takes the LoRA itself"),
    "save_model_as": Absent("files are always .safetensors", off=("safetensors", "", None)),
    "no_metadata": Absent("files always say how they were made"),
    "training_comment": Absent("there is no place for a comment"),
    "metadata_title": Absent("the title is the file's name"),
    "metadata_author": Absent("no author is written"),
    "metadata_description": Absent("no description is written"),
    "metadata_license": Absent("no licence is written"),
    "metadata_tags": Absent("tags are counted from the captions"),
    "huggingface_repo_id": Absent(_UPLOAD),
    "huggingface_token": Absent(_UPLOAD),
    # Previews
    "sample_every_n_steps": To("preview_every"),
    "sample_every_n_epochs": To("preview_every_epochs"),
    "sample_at_first": When("preview_first", True),
    "sample_sampler": Absent("previews use the host's sampler"),
    "positive_prompts": To("preview_prompt"),
    "negative_prompts": To("preview_negative"),
    "sample_width": To("preview_width"),
    "sample_height": To("preview_height"),
    "sample_cfg": To("preview_cfg"),
    "sample_seed": To("preview_seed"),
    "sample_steps": To("preview_steps"),
    "randomly_choice_prompt": Absent("the prompt is the one given"),
    "enable_preview": Idle("previews are made where there is a prompt"),
    # What machine and logs there are
    "logging_dir": Idle(_LOGS),
    "log_with": To("tensorboard", logger),
    "log_prefix": Idle(_LOGS),
    "log_tracker_name": Idle(_LOGS),
    "log_config": Idle(_LOGS),
    "wandb_api_key": Idle(_UPLOAD),
    "wandb_run_name": Idle(_UPLOAD),
    "xformers": Idle(_SPEED),
    "sdpa": Idle(_SPEED),
    "mem_eff_attn": Idle(_SPEED),
    "lowram": Idle(_SPEED),
    "highvram": Idle(_SPEED),
    "lowvram": Idle(_SPEED),
    "use_cpu": Idle(_SPEED),
    "num_cpu_threads_per_process": Idle(_SPEED),
    "num_processes": Idle("said when the run is launched"),
    "num_machines": Idle("said when the run is launched"),
    "multi_gpu": Idle("said when the run is launched"),
    "gpu_ids": Idle("said when the run is launched"),
    "main_process_port": Idle("said when the run is launched"),
    "ddp_timeout": Idle("said when the run is launched"),
    "torch_compile": Absent("the model is not compiled"),
    "dynamo_backend": Absent("the model is not compiled", off=("no", "NO", "", None)),
    "deepspeed": Absent("there is no DeepSpeed here"),
    "extra_accelerate_launch_args": Absent("there is no launcher to pass them to"),
    "additional_parameters": Absent("give them as settings of their own"),
    "ui_custom_params": Absent("give them as settings of their own"),
    "model_train_type": Idle("read together with the other keys"),
    "training_type": Idle(_FORM),
    "dataset_class": Absent("data sets are those built in"),
    "debug_dataset": Idle("see the command `data`"),
    "console_log_level": Idle(_LOGS),
    "output_config": Idle(_FORM),
    "config_file": Idle(_FORM),
}
"""What each key becomes; those that belong together are read before, in `kohya.py`."""
