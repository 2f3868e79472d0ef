"""One step, number by number: against diffusers + peft, and against itself done another way."""

from __future__ import annotations

import pytest
import torch
from training_runs import config, model

from lora_ext.adapters import LoraAdapter
from lora_ext.data import TextCache
from lora_ext.model import Conditioning, Tokenizer, build_text, build_unet, module_of
from lora_ext.training.learner import Learner, generator
from lora_ext.training.material import Batch
from lora_ext.training.optimizer import Stepper
from lora_ext.training.precision import Arithmetic

CPU = torch.device("cpu")
EXACT = Arithmetic(torch.float32, CPU)
TOLERANCE = 1e-5


class Anywhere:
    """A session that moves nothing."""

    def place(self, *parts):
        pass


def learner(tmp_path, family="sd1", grown=True, **values):
    """A learner whose adapters already do something, so that every gradient counts."""
    made = Learner(model(family), Anywhere(), config(tmp_path, **values), EXACT)
    if grown:
        random = torch.Generator().manual_seed(3)
        for adapter in (a for a in made.adapters.values() if isinstance(a, LoraAdapter)):
            adapter.up.data.normal_(0, 0.02, generator=random)
    return made


def batch(family="sd1", size=2, tokens=True):
    arch, random = model(family).architecture, torch.Generator().manual_seed(7)
    latents = torch.randn(size, 4, 8, 8, generator=random)
    sizes = torch.tensor([[96, 64, 0, 8, 64, 64], [64, 64, 4, 0, 64, 64]])[:size]
    text = Tokenizer().tokens(["a red cat on a mat", "the sea"][:size], arch)
    if tokens:
        return Batch(latents, tuple(ids[:, None] for ids in text), sizes)
    with torch.no_grad():
        return Batch(latents, build_text(arch, model(family).tensors).encode(text), sizes)


def draw(size=2):
    random = torch.Generator().manual_seed(11)
    return torch.randn(size, 4, 8, 8, generator=random), torch.tensor([30, 700])[:size]


def gradients(made):
    """By layer and factor; what was not used is left out."""
    return {
        (str(name), part): p.grad
        for name, adapter in made.adapters.items()
        for part, p in adapter.named_parameters()
        if p.grad is not None
    }


def assert_close(ours, theirs, tolerance=TOLERANCE):
    """The whole gradient; and each tensor within ten times that, unless its true value is 0 and it is only rounding."""
    assert sorted(ours) == sorted(theirs)
    whole = torch.stack([want.norm() for want in theirs.values()]).norm()
    errors = {key: (ours[key] - want).norm() for key, want in theirs.items()}
    assert torch.stack(list(errors.values())).norm() <= tolerance * whole
    wrong = {
        k: f"{errors[k]:.1e} of {w.norm():.1e}" for k, w in theirs.items() if errors[k] > 10 * tolerance * w.norm()
    }
    assert not {k: v for k, v in wrong.items() if errors[k] > 1e-8 * whole}


def injected(root, prefix, made, rank, alpha):
    """peft's LoRA with our adapters' numbers; returns its parameters under our names."""
    peft = pytest.importorskip("peft", reason="peft is the peer of this check")
    mine = {n: a for n, a in made.adapters.items() if n.component == prefix}
    paths = {m: path for path, m in root.named_modules()}
    targets = {name: paths[module_of(root, made.layers[name])] for name in mine}
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets.values()), lora_dropout=0.0)
    peft.inject_adapter_in_model(settings, root)
    found = {}
    for name, adapter in mine.items():
        layer = root.get_submodule(targets[name])
        for part, there in (("down", layer.lora_A), ("up", layer.lora_B)):
            parameter = there["default"].weight
            parameter.data.copy_(getattr(adapter, part).data)
            found[str(name), part] = parameter
    return found


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_loss_and_gradients_are_those_of_diffusers_and_peft(tmp_path, family):
    diffusers = pytest.importorskip("diffusers")
    conv = {"conv_rank": 2, "conv_alpha": 1.0} if family == "sd1" else {"alpha": 1.0}
    if family == "sd1":
        conv["alpha"] = 1.0
    ours = learner(tmp_path, family, text_encoder_lr=1e-3, **conv)
    given, (noise, timesteps) = batch(family), draw()
    loss = ours.loss_of(given, noise, timesteps)
    loss.backward()

    live = model(family)
    unet, text = build_unet(live.architecture, live.tensors), build_text(live.architecture, live.tensors)
    theirs = injected(unet, "unet", ours, 2, 1.0)
    for number, encoder in enumerate(text.encoders, 1):
        theirs |= injected(encoder, f"te{number}", ours, 2, 1.0)
    scheduler = diffusers.DDPMScheduler(prediction_type=live.architecture.prediction_type)
    scheduler.alphas_cumprod = live.alphas_cumprod
    noisy = ours.schedule.add_noise(given.latents, noise, timesteps)
    # A last-bit difference here grows a thousandfold in a random network's gradients, so both sides start from ours.
    assert torch.allclose(noisy, scheduler.add_noise(given.latents, noise, timesteps), rtol=1e-6, atol=1e-6)
    told = text.encode(tuple(ids[:, 0] for ids in given.text))
    added = {"text_embeds": told.pooled, "time_ids": given.sizes.float()} if family == "sdxl" else None
    prediction = unet(noisy, timesteps, told.context, added_cond_kwargs=added).sample
    is_v = live.architecture.prediction_type == "v_prediction"
    target = scheduler.get_velocity(given.latents, noise, timesteps) if is_v else noise
    want = torch.nn.functional.mse_loss(prediction, target)
    want.backward()

    assert is_v == (family == "sd2")
    assert loss.item() == pytest.approx(want.item(), rel=TOLERANCE)
    assert_close(gradients(ours), {k: p.grad for k, p in theirs.items() if p.grad is not None})
    assert len(gradients(ours)) > len(ours.adapters)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_checkpointing_gives_the_same_gradients(tmp_path, family):
    found = []
    for checkpointing in (False, True):
        made = learner(tmp_path, family, text_encoder_lr=1e-3, checkpointing=checkpointing)
        calls = count_calls(made.unet.up_blocks[-1].resnets[-1])
        made.loss_of(batch(family), *draw()).backward()
        found.append((gradients(made), len(calls)))
    assert_close(found[1][0], found[0][0], 1e-6)
    assert (found[0][1], found[1][1]) == (1, 2), "computed again in the backward pass"


def count_calls(module):
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def in_double(made):
    """A random UNet makes 1e-3 of a last-bit difference; in float64 that stays below what is asked here."""
    unet = made.unet.double()
    made.unet = lambda noisy, t, context, **more: unet(noisy.double(), t, context.double(), **more)
    return made


def test_two_batches_of_one_are_a_batch_of_two(tmp_path):
    whole, parts = in_double(learner(tmp_path)), in_double(learner(tmp_path))
    both, (noise, timesteps) = batch(tokens=False), draw()
    one, other = (Stepper(made.groups(), made.config.optim, CPU, half=False) for made in (whole, parts))
    one.backward(whole.loss_of(both, noise, timesteps))
    for i in range(2):
        cut = slice(i, i + 1)
        text = Conditioning(both.text.context[cut], None)
        piece = Batch(both.latents[cut], text, both.sizes[cut])
        other.backward(parts.loss_of(piece, noise[cut], timesteps[cut]), 0.5)
    assert_close(gradients(parts), gradients(whole))
    one.step(1.0)
    other.step(1.0)
    assert other.read().loss == pytest.approx(one.read().loss, rel=TOLERANCE)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_loss_goes_down_on_one_batch(tmp_path, family):
    made = learner(tmp_path, family, grown=False, rank=8, alpha=8.0)
    stepper = Stepper(made.groups(), made.config.optim, CPU, half=False)
    given, drawn, losses = batch(family, tokens=False), draw(), []
    for _ in range(12):
        stepper.backward(made.loss_of(given, *drawn))
        stepper.step(1.0)
        losses.append(stepper.read().loss)
    assert losses[-1] < 0.85 * losses[0], losses


def test_a_fresh_adapter_changes_nothing(tmp_path):
    made, given, drawn = learner(tmp_path, grown=False), batch(), draw()
    live = model()
    bare = build_unet(live.architecture, live.tensors)
    given = batch(tokens=False)
    noisy = made.schedule.add_noise(given.latents, *drawn)
    with torch.no_grad():
        assert torch.equal(
            made.unet(noisy, drawn[1], given.text.context)[0], bare(noisy, drawn[1], given.text.context)[0]
        )


def test_only_adapters_get_gradients(tmp_path):
    made = learner(tmp_path, text_encoder_lr=1e-3)
    made.loss_of(batch(), *draw()).backward()
    for root in (made.unet, made.text):
        for name, p in root.named_parameters():
            assert (".adapter." in name) == p.requires_grad
            assert ".adapter." in name or p.grad is None
    assert all(t.grad is None for t in model().tensors.values())


def test_modules_share_the_models_storage(tmp_path):
    made = learner(tmp_path)
    live = {t.data_ptr() for t in model().tensors.values()}
    assert all(p.data_ptr() in live for n, p in made.unet.named_parameters() if ".adapter." not in n)


def test_generators_are_told_apart_by_purpose_and_seed():
    firsts = [torch.rand(1, generator=generator(s, p, CPU)).item() for s in (0, 1) for p in ("adapters", "noise")]
    assert len(set(firsts)) == 4
    assert torch.rand(1, generator=generator(0, "noise", CPU)).item() == firsts[1]


def test_a_text_cache_holds_one_row_per_caption(tmp_path):
    """What is cached is what the encoders say about the caption alone."""
    from lora_ext.training.captions import caption_encoder, tokenized

    live, tokens, tokenizer = model("sdxl"), TextCache(), Tokenizer()
    captions = ["a red cat", "cat " * 80, "the sea", ""]
    list(tokens.build(captions, lambda texts: tokenized(texts, tokenizer, live.architecture, 75)))
    text = build_text(live.architecture, live.tensors)
    rows = caption_encoder(text, tokens, EXACT, 0)(captions)
    for caption, row in zip(captions, rows, strict=True):
        with torch.no_grad():
            alone = text.encode(tokenizer.tokens([caption], live.architecture))
        assert torch.allclose(row.context, alone.context[0], atol=1e-5)
        assert torch.allclose(row.pooled, alone.pooled[0], atol=1e-5)
