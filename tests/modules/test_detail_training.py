"""The training of a decoder alone: what learns, by which terms, and that one optimizer equals two in turn."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ctsr_lightning.cache.identity import identity
from ctsr_lightning.codecs import KLCodec, NanoCodec, PixelCodec
from ctsr_lightning.codecs.codec import LatentCodec, signed_to_unit
from ctsr_lightning.losses import adversarial
from ctsr_lightning.metrics.maps import TextureMaps
from ctsr_lightning.models import RestorationModel, TradeOff
from ctsr_lightning.modules import DetailTraining
from ctsr_lightning.networks import Discriminator
from helpers import tiny

STUDENTS = {
    "one step": tiny.student,
    "adapters and a KL codec": tiny.adapted_student,
    "a slider": lambda: TradeOff(tiny.student(), tiny.velocity(awake=True)),
    "a flow": tiny.one_step_flow,
    "few steps": tiny.few_step,
}


def detail(student: RestorationModel | None = None, **options: Any) -> DetailTraining:
    torch.manual_seed(0)
    terms = {"lambda_l2": 0.0, "lambda_l1": 1.0, "lambda_lpips": 1.0}
    built = student or tiny.student()
    return DetailTraining(built, Discriminator(TextureMaps(), 4), tiny.reconstruction(**terms), **options)


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=1e-2)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def latents(student: RestorationModel) -> Tensor:
    lq = tiny.batch().lq
    state = student.begin(student.shared(lq), torch.Generator().manual_seed(0))
    return student.latent_at(student.advance(state, lq), 0.0)


@pytest.mark.parametrize("name", STUDENTS)
def test_only_the_decoder_of_any_model_learns(name: str) -> None:
    student = STUDENTS[name]()
    before, latent = snapshot(student), latents(student)
    module = detail(student, optimizer=sgd)
    tiny.fit(module, max_steps=3)
    decoder = {name for name, p in student.codec.named_parameters() if p.requires_grad}
    assert decoder
    assert all(
        name.split(".")[0] == "decoder" or "autoencoder.decoder" in name or "post_quant" in name for name in decoder
    )
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition("codec.")[2] for name in changed} <= decoder
    assert len(changed) > len(decoder) / 2
    torch.testing.assert_close(latents(student), latent, rtol=1e-3, atol=1e-3)  # the KL one divides by a small √ᾱ
    assert module.trimmed_state().keys() == {
        *(f"codec.{name}" for name in decoder),
        *(f"discriminator.{name}" for name, _ in module.discriminator.named_parameters()),
    }


def test_a_codec_without_a_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected a codec whose decoder can be trained, found PixelCodec"):
        PixelCodec().tune_decoder()


def test_the_terms_are_those_that_are_promised() -> None:
    module, batch = detail(adaptive=False, lambda_adv=0.3, lambda_disc=0.7).double(), tiny.batch(dtype=torch.float64)
    terms = module.losses(batch)
    assert list(terms) == ["rec/l1", "rec/lpips", "adv", "disc/real", "disc/fake"]
    student, disc = module.student.network, module.discriminator
    restored = signed_to_unit(student.codec.decode(student.shared(batch.lq)))
    real, fake = disc(disc.maps(batch.gt)), disc(disc.maps(restored))
    expected = [
        2.0 * F.l1_loss(restored, batch.gt),
        (restored - batch.gt).pow(4).mean(),
        -0.3 * fake.mean(),
        0.7 * (1.0 - real).relu().mean(),
        0.7 * (1.0 + fake).relu().mean(),
    ]
    torch.testing.assert_close(torch.stack(list(terms.values())), torch.stack(expected))


def test_no_term_reaches_what_it_must_not() -> None:
    module = detail(adaptive=True).double()
    terms = module.losses(tiny.batch(dtype=torch.float64))
    decoder = [p for p in module.codec.parameters() if p.requires_grad]
    heads = list(module.discriminator.parameters())
    for name, term in terms.items():
        reached = [torch.autograd.grad(term, group, retain_graph=True, allow_unused=True) for group in (decoder, heads)]
        any_of = [any(g is not None and bool(g.any()) for g in gradients) for gradients in reached]
        assert any_of == ([False, True] if name.startswith("disc/") else [True, False]), name
    student = module.student.network
    assert not any(p.requires_grad for p in [*student.unet.parameters(), *module.codec.encoder.parameters()])


def test_the_adaptive_weight_makes_both_pull_alike_on_the_last_layer() -> None:
    module = detail(lambda_adv=0.25).double()
    terms = module.losses(tiny.batch(dtype=torch.float64))
    last = module.codec.last_layer()
    assert last is not None
    losses = (terms["rec/l1"] + terms["rec/lpips"], terms["adv"])
    rec, adv = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm().item() for loss in losses)
    plain = detail(lambda_adv=1.0, adaptive=False).double()
    raw = plain.losses(tiny.batch(dtype=torch.float64))["adv"]
    norm = torch.autograd.grad(raw, plain.codec.last_layer())[0].norm().item()
    assert adv == pytest.approx(0.25 * rec * norm / (norm + adversarial.FLOOR), rel=1e-9)


def test_the_adversarial_term_enters_after_its_step() -> None:
    seen: list[dict[str, float]] = []

    class Kept(DetailTraining):
        def losses(self, batch: Any) -> dict[str, Tensor]:
            terms = super().losses(batch)
            seen.append({name: term.item() for name, term in terms.items()})
            return terms

    torch.manual_seed(0)
    built = Kept(tiny.student(), Discriminator(TextureMaps(), 4), tiny.reconstruction(), adversarial_after=2)
    heads = snapshot(built.discriminator)
    tiny.fit(built, max_steps=3)
    assert [terms["adv"] == 0.0 for terms in seen] == [True, True, False]
    assert any(not torch.equal(value, heads[name]) for name, value in built.discriminator.state_dict().items())
    assert all(terms["disc/real"] > 0.0 for terms in seen)


@pytest.mark.parametrize("adaptive", [False, True])
def test_one_optimizer_takes_the_steps_of_two_in_turn(adaptive: bool) -> None:
    """The decoder with the discriminator frozen, then the discriminator on the same images; AdamW in float64."""
    settings = {"decoder": {"lr": 1e-3}, "heads": {"lr": 4e-3}}
    one = detail(adaptive=adaptive, disc_lr=4e-3, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3)).double()
    two = copy.deepcopy(one)
    two.student, two.codec = copy.copy(one.student), copy.deepcopy(one.codec)  # a decoder of its own
    student = copy.deepcopy(one.student.network)
    student.codec = two.codec
    object.__setattr__(two.student, "network", student)
    batch = tiny.batch(dtype=torch.float64)
    together = one.configure_optimizers()
    groups = {
        "decoder": [p for p in two.codec.parameters() if p.requires_grad],
        "heads": two.discriminator.parameters(),
    }
    alone = {name: torch.optim.AdamW(groups[name], **settings[name]) for name in groups}
    for _ in range(4):
        together.zero_grad()
        sum(one.losses(batch).values()).backward()
        together.step()

        two.discriminator.requires_grad_(False)
        restored = signed_to_unit(two.codec.decode(student.shared(batch.lq)))
        rec = two.reconstruction(restored, batch.gt, 4, torch.Generator())
        adv = adversarial.generator(two.discriminator(two.discriminator.maps(restored)))
        total = torch.stack(list(rec.values())).sum()
        weight = adversarial.adaptive_weight(total, adv, two.codec.last_layer()) if adaptive else 1.0
        alone["decoder"].zero_grad()
        (total + two.lambda_adv * weight * adv).backward()
        alone["decoder"].step()

        two.discriminator.requires_grad_(True)
        real, fake = (two.discriminator(two.discriminator.maps(x.detach())) for x in (batch.gt, restored))
        alone["heads"].zero_grad()
        (two.lambda_disc * (adversarial.hinge_real(real) + adversarial.hinge_fake(fake))).backward()
        alone["heads"].step()
    for name in ("codec", "discriminator"):
        pairs = zip(getattr(one, name).parameters(), getattr(two, name).parameters(), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


def test_it_restores_by_the_tuned_decoder_and_sweeps() -> None:
    student = TradeOff(tiny.student(), tiny.velocity(awake=True))
    module, lq = detail(student, optimizer=sgd), tiny.batch().lq
    assert (module.controllable, detail().controllable) == (True, False)
    before = module.sweep(lq, [0.0, 1.0])
    tiny.fit(module, max_steps=2)
    after = module.sweep(lq, [0.0, 1.0])
    assert not any(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert torch.equal(module.restore(lq), after[0])
    assert torch.equal(
        after[1], signed_to_unit(module.codec.decode(student.latent_at(student.shared(lq), 1.0))).clamp(0, 1)
    )


@pytest.mark.parametrize(("t_max", "different"), [(0.0, 1), (0.5, 4)])
def test_a_slider_is_trained_up_to_t_max(monkeypatch: pytest.MonkeyPatch, t_max: float, different: int) -> None:
    seen: list[float] = []
    at = TradeOff.latent_at
    monkeypatch.setattr(TradeOff, "latent_at", lambda self, state, t: (seen.append(t), at(self, state, t))[1])
    tiny.fit(detail(TradeOff(tiny.student(), tiny.velocity()), t_max=t_max), max_steps=4)
    assert len(set(seen)) == different
    assert all(0.0 <= t <= t_max for t in seen)


def test_t_max_within_what_the_model_has() -> None:
    with pytest.raises(ValueError, match=r"t_max in \[0, 1\], found 1\.5"):
        detail(TradeOff(tiny.student(), tiny.velocity()), t_max=1.5)
    with pytest.raises(ValueError, match=r"no slider, found 0\.5"):
        detail(t_max=0.5)


def codecs() -> dict[str, tuple[LatentCodec, Any]]:
    return {
        "nano": (tiny.nano_codec(), tiny_nano),
        "kl": (KLCodec(tiny.autoencoder()), lambda **options: KLCodec(tiny.autoencoder(), **options)),
    }


def tiny_nano(**options: Any) -> NanoCodec:
    built = NanoCodec(tiny.CHANNELS, 8, **options)
    built.encoder.load_state_dict(tiny.nano_codec().encoder.state_dict())
    return built


@pytest.mark.parametrize("name", ["nano", "kl"])
def test_a_tuned_decoder_is_loaded_by_one_line(name: str, tmp_path: Path) -> None:
    codec, build = codecs()[name]
    decoder = codec.tune_decoder()
    tiny.shaken(codec.halves()[1][0])
    trained = {f"codec.{n}": p.detach() for n, p in codec.named_parameters() if p.requires_grad}
    assert len(trained) == len(decoder)
    save_file({**trained, "discriminator.heads.0.0.weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    loaded = build(decoder=tmp_path / "weights.safetensors")
    image, latent = torch.rand(1, 3, 16, 16) * 2 - 1, torch.randn(1, tiny.CHANNELS, 4, 4)
    assert torch.equal(loaded.decode(latent), codec.decode(latent))
    assert torch.equal(loaded.encode(image), codec.encode(image))
    assert (loaded.tuned, build().tuned) == (True, False)
    assert not torch.equal(build().decode(latent), codec.decode(latent))
    assert identity(loaded) != identity(build())
    save_file({"codec.elsewhere": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"Expected the decoder of .*missing"):
        build(decoder=tmp_path / "other.safetensors")


def test_the_paper_s_z_0_refuses_a_tuned_decoder() -> None:
    student = tiny.student()
    TradeOff(student, tiny.velocity(), "reencode")
    student.codec.tune_decoder()
    TradeOff(student, tiny.velocity(), "latent")
    with pytest.raises(ValueError, match=r"found a tuned one.*z0_source: latent"):
        TradeOff(student, tiny.velocity(), "reencode")
