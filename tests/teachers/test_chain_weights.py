"""The weights of Eq. 2 for teachers with a chain of their own, by hand."""

import math

import pytest
import torch

from ctsr_lightning.diffusion import NoiseSchedule, ResShiftSchedule
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.diffusion.parametrization import implied_noise, min_snr, noise_from_clean, signal_to_noise
from ctsr_lightning.losses import score_distillation
from ctsr_lightning.networks.published_resshift import published_schedule
from ctsr_lightning.teachers import OneStepTeacher, ResShiftTeacher
from helpers import tiny, tiny_resshift

NANO = ResShiftSchedule(num_steps=2, min_noise_level=0.8, kappa=0.2)
CHAINS = {"v1": published_schedule("v1"), "v3": published_schedule("v3"), "nano": NANO}


def alpha_bar_of(*timesteps):
    return NoiseSchedule().alpha_bar(torch.tensor(timesteps), torch.zeros(len(timesteps), 4, 8, 8).double())


def by_hand(t):
    """SNR_t, the product of (1-β) written out."""
    alpha_bar = 1.0
    for s in range(t + 1):
        alpha_bar *= 1 - (math.sqrt(0.00085) + s / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
    return alpha_bar / (1 - alpha_bar)


def teacher_on(chain, clip=None):
    """Both kinds of teacher on a chain."""
    if chain == "nano":
        return ResShiftTeacher(tiny.shift_network(schedule=NANO), clip)
    return tiny_resshift.bridged_teacher(version=chain, clip=clip)


@pytest.mark.parametrize("clip", [None, 5.0, 1.0])
@pytest.mark.parametrize(
    ("chain", "steps"),
    # τ: SNR_τ = (1-η)² / (κ² η) at t = 20, 100, 300, 560, 700, 979
    [
        ("v1", [(1, 17.715), (2, 7.5507), (5, 1.5599), (9, 0.26506), (11, 0.081882), (13, 0.0092141)]),
        ("v3", [(0, 24.5025), (0, 24.5025), (1, 0.49184), (1, 0.49184), (2, 0.076181), (2, 0.076181)]),
        ("nano", [(0, 5.0625), (0, 5.0625), (0, 5.0625), (0, 5.0625), (1, 0.010101), (1, 0.010101)]),
    ],
)
def test_weights_at_several_noise_levels(chain, steps, clip):
    timesteps = (20, 100, 300, 560, 700, 979)
    teacher, alpha_bar = teacher_on(chain, clip), alpha_bar_of(*timesteps)
    step = teacher.schedule.paired_step(alpha_bar)
    assert step.tolist() == [tau for tau, _ in steps]
    limit = math.inf if clip is None else clip
    own = [by_hand(t) for t in timesteps]
    prior, align, mismatch = teacher.prior_weight(step, alpha_bar), teacher.align_weight(alpha_bar), None
    assert prior.shape == (6, 1, 1, 1)
    assert prior.flatten().tolist() == pytest.approx([min(snr, limit) for _, snr in steps], rel=5e-5)
    # ‖ε_T - ε_S‖² itself weighs SNR_t, so that together they are min(SNR_t, clip).
    align = torch.ones_like(alpha_bar) if align is None else align
    whole = [share * snr for share, snr in zip(align.flatten().tolist(), own, strict=True)]
    assert whole == pytest.approx([min(snr, limit) for snr in own], rel=1e-9)
    mismatch = teacher.snr_mismatch(alpha_bar).flatten().tolist()
    assert mismatch == pytest.approx([a / b for a, (_, b) in zip(own, steps, strict=True)], rel=5e-5)


@pytest.mark.parametrize(("chain", "low", "high"), [("v1", 0.51, 2.96), ("v3", 0.078, 7.0), ("nano", 0.045, 22.3)])
def test_mismatch_of_the_chains(chain, low, high):
    found = teacher_on(chain).snr_mismatch(alpha_bar_of(*range(20, 980)))
    assert (found.min().item(), found.max().item()) == pytest.approx((low, high), rel=0.03)


@pytest.mark.parametrize("clip", [None, 5.0])
def test_align_is_the_clean_latents_error_at_its_weight(clip):
    """λ mean min(SNR, clip) (ẑ_T - ẑ_S)², from nothing but the two clean latents."""
    teacher, t = teacher_on("nano", clip).double(), (20, 400)
    generator = torch.Generator().manual_seed(1)
    clean, noise, own = torch.randn(3, 2, 4, 8, 8, generator=generator, dtype=torch.float64)
    noisy = add_noise(NoiseSchedule(), clean, noise, torch.tensor(t), torch.zeros(2, 3, 32, 32).double())
    predicted = clean + 0.3
    teacher.frozen.network.predict_clean = lambda shifted, step, degraded: predicted
    condition = teacher.condition(torch.rand(2, 3, 8, 8, dtype=torch.float64))
    found = teacher.targets(noisy, noisy, condition, "score", torch.zeros_like)
    student = noise_from_clean(noisy.latent, own, noisy.alpha_bar)
    loss = score_distillation.align(found.align, student, teacher.align_weight(noisy.alpha_bar))
    weights = torch.tensor([min(by_hand(i), clip or math.inf) for i in t], dtype=torch.float64).view(2, 1, 1, 1)
    assert loss.item() == pytest.approx((weights * (predicted - own).square()).mean().item(), rel=1e-9)


def test_prior_of_nano_weighs_on_average_what_it_did_without_the_spread():
    """SNR_τ instead of SNR_t: T_f sees the same for all t of a step, so its weight need not differ among them."""
    alpha_bar = alpha_bar_of(*range(20, 980))
    teacher = teacher_on("nano", 5.0)
    step = teacher.schedule.paired_step(alpha_bar)
    new, old = teacher.prior_weight(step, alpha_bar).flatten(), signal_to_noise(alpha_bar).flatten()
    assert new.mean().item() == pytest.approx(old.mean().item(), rel=0.11)
    assert new[step == 0].unique().tolist() == [5.0]
    assert old[step == 0].max() / old[step == 0].min() > 200


def test_noise_levels_are_logged(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    from ctsr_lightning.modules import CTSRStage1

    module = CTSRStage1(
        tiny.student(seed=2), tiny.fidelity_teacher(), tiny.realness_teacher(), tiny.reconstruction(), gradient="score"
    )
    seen, predict = [], module.student.predict_noise
    module.student.predict_noise = lambda z, t, c: (seen.append(t), predict(z, t, c))[1]
    logger = CSVLogger(tmp_path)
    tiny.fit(module, tiny.loader(count=4), max_steps=2, logger=logger, log_every_n_steps=1)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = rows[0].split(",")
    assert "snr_mismatch/realness" not in names
    column = [row.split(",")[names.index("snr_mismatch/fidelity")] for row in rows[1:]]
    expected = [tiny.fidelity_teacher().snr_mismatch(alpha_bar_of(*t.tolist())).mean().item() for t in seen]
    assert [float(value) for value in column if value] == pytest.approx(expected, rel=1e-5)


def test_only_teachers_on_a_chain_have_weights_of_their_own():
    teacher, alpha_bar = OneStepTeacher(tiny.student()), alpha_bar_of(20)
    assert teacher.align_weight(alpha_bar) is None
    assert teacher.snr_mismatch(alpha_bar) is None


def test_implied_noise_is_that_of_the_closed_form():
    clean, noise, predicted = torch.randn(3, 3, 4, 5, 5, dtype=torch.float64)
    alpha_bar = alpha_bar_of(20, 500, 979)
    noisy = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    found = implied_noise(noise, clean, predicted, signal_to_noise(alpha_bar))
    torch.testing.assert_close(found, noise_from_clean(noisy, predicted, alpha_bar), rtol=1e-10, atol=1e-12)
    half = implied_noise(noise.half(), clean.half(), predicted.half(), signal_to_noise(alpha_bar.float()))
    assert half.dtype == torch.float32
    assert min_snr(torch.tensor([0.5, 7.0]), 5.0).tolist() == [0.5, 5.0]
    assert min_snr(torch.tensor([0.5, 7.0]), None).tolist() == [0.5, 7.0]
