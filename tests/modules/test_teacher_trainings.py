"""The trainings that make codec, prior and fidelity teacher from nothing."""

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from ctsr_lightning.codecs import NanoCodec
from ctsr_lightning.losses import reconstruction
from ctsr_lightning.losses.random_views import random_symmetry
from ctsr_lightning.modules import CodecTraining, PriorTraining, ResShiftTraining
from ctsr_lightning.modules.draws import Draws
from helpers import tiny


def res_shift(network=None, **options) -> ResShiftTraining:
    """The training of T_f with those terms on images that have a weight."""
    options = {"lambda_l2": 0.0, "lambda_lpips": 0.0, **options}
    return ResShiftTraining(network or tiny.shift_network(), **tiny.nested(options))


MAKERS = {
    "codec": lambda: CodecTraining(tiny.nano_codec()),
    "prior": lambda: PriorTraining(tiny.student()),
    "residual shift": lambda: res_shift(lambda_l1=0.5),
}


@pytest.fixture(params=MAKERS)
def module(request):
    return MAKERS[request.param]()


def losses(module, batch, seed=0):
    module.draws = Draws(seed)
    return module.losses(batch)


def bars(timestep):
    table = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    return torch.from_numpy(table[timestep.numpy()]).view(-1, 1, 1, 1)


def test_codec_term_is_the_round_trip_through_noise():
    module, batch = CodecTraining(tiny.nano_codec(), latent_noise=0.3).double(), tiny.batch(dtype=torch.float64)
    image = 2 * batch.gt - 1
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    round_trip = module.codec.decode(module.codec.encode(image) + 0.3 * noise)
    found = losses(module, batch)
    assert list(found) == ["codec/l1"]
    assert found["codec/l1"].item() == pytest.approx((round_trip - image).abs().mean().item(), rel=1e-10)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_prior_term_is_the_denoising_error(prediction):
    module = PriorTraining(tiny.student(prediction=prediction)).double()
    batch, draws = tiny.batch(dtype=torch.float64), torch.Generator().manual_seed(0)
    t = torch.randint(0, 1000, (2,), generator=draws)
    noise = torch.randn(2, 4, 8, 8, generator=draws).double()
    clean, a = module.student.codec.encode(2 * batch.gt - 1), bars(t)
    output = module.student.unet(a.sqrt() * clean + (1 - a).sqrt() * noise, t, None).sample
    target = {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}[prediction]
    found = losses(module, batch)
    assert list(found) == ["prior/denoise"]
    assert found["prior/denoise"].item() == pytest.approx((output - target).square().mean().item(), rel=1e-9)


@pytest.mark.parametrize("std", [None, 0.3])
def test_residual_shift_terms_are_the_errors_of_latent_and_image(std):
    network = tiny.shift_network(residual_std=std)
    module = res_shift(network, lambda_latent=3.0, lambda_l1=0.5, lambda_grid=2.0).double()
    network, batch, draws = module.network, tiny.batch(dtype=torch.float64), torch.Generator().manual_seed(0)
    up = 2 * F.interpolate(batch.lq, scale_factor=4, mode="bicubic", antialias=True).clamp(0, 1) - 1
    w_0, w_y = network.codec.encode(2 * batch.gt - 1), network.codec.encode(up)
    tau = torch.randint(0, 4, (2,), generator=draws)
    noise = torch.randn(2, 4, 8, 8, generator=draws).double()
    eta = network.schedule.etas[tau].view(-1, 1, 1, 1)
    w = (1 - eta) * w_0 + eta * w_y + 2 * eta.sqrt() * noise
    guess = network.unet(torch.cat([w / (1 + 4 * eta).sqrt(), w_y], dim=1), 250.0 * tau, None).sample
    if std is not None:
        # w_0 - w_y is Gaussian of variance std²; u = (w - eta w_y) / (1 - eta) observes w_0 with this variance:
        u, variance = (w - eta * w_y) / (1 - eta), 4 * eta / (1 - eta) ** 2
        guess = guess + (std**-2 * w_y + u / variance) / (std**-2 + 1 / variance)
    image = network.codec.decode(guess)
    found = losses(module, batch)
    assert list(found) == ["shift/latent", "rec/l1", "rec/grid"]
    assert found["shift/latent"].item() == pytest.approx(3 * (guess - w_0).square().mean().item(), rel=1e-9)
    pixel = 0.5 * (image - (2 * batch.gt - 1)).abs().mean().item()
    assert found["rec/l1"].item() == pytest.approx(pixel, rel=1e-9)
    grid = 2.0 * reconstruction.grid((image + 1) / 2, batch.gt, 4).item()
    assert found["rec/grid"].item() == pytest.approx(grid, rel=1e-9)


class Stop(Callback):
    """Ends a training after so many steps, though it was meant to be longer."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def test_residual_shift_looks_for_lattices_and_turns_its_crops():
    module = res_shift(lambda_lattice=3.0, symmetries=True).double()
    plain = res_shift(lambda_l1=1.0).double()
    batch = tiny.batch(side=64, dtype=torch.float64)
    module.draws, plain.draws = Draws(5), Draws(5)
    found = module.losses(batch)
    assert list(found) == ["shift/latent", "rec/lattice"]
    lq, gt = random_symmetry([batch.lq, batch.gt], plain.draws.generator)  # what the other has drawn first
    turned = plain.losses(type(batch)(lq, gt, batch.key))
    assert found["shift/latent"].item() == pytest.approx(turned["shift/latent"].item(), rel=1e-9)
    assert found["rec/lattice"].item() > 0


def switched(tmp_path, l2_from, *stops):
    """Names and values of the pixel term at every step of a training, interrupted after some of them."""
    log, checkpoint = [], None
    for stop in stops:
        module = res_shift(lambda_l1=0.5, l2_from=l2_from, lambda_l2=3.0)
        losses_of = module.losses

        def spied(batch, losses_of=losses_of):
            terms = losses_of(batch)
            log.append({k: v.item() for k, v in terms.items() if k != "shift/latent"})
            return terms

        module.losses = spied
        saver = ModelCheckpoint(tmp_path, f"{stop}-{{step}}", every_n_train_steps=2, save_top_k=-1)
        options = {"enable_checkpointing": True, "callbacks": [Stop(stop), saver], "ckpt_path": checkpoint}
        tiny.fit(module, tiny.loader(count=4), max_steps=6, **options)
        checkpoint = tmp_path / f"{stop}-step={stop}.ckpt"
    return log


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*exists and is not empty.*:UserWarning")
def test_squares_take_over_where_they_are_told_to_also_after_a_resumption(tmp_path):
    straight = switched(tmp_path, 0.5, 6)
    assert [list(terms) for terms in straight] == [["rec/l1"]] * 3 + [["rec/l2"]] * 3
    assert switched(tmp_path, 0.5, 2, 4, 6) == straight
    assert [list(terms) for terms in switched(tmp_path, 0.0, 2)] == [["rec/l2"]] * 2
    assert [list(terms) for terms in switched(tmp_path, None, 2)] == [["rec/l2", "rec/l1"]] * 2


def test_squared_term_is_the_mean_squared_error_of_the_image():
    module = res_shift(lambda_l1=0.5, l2_from=0.5, lambda_l2=3.0).double()
    module._past = lambda share: share == 0.5
    network, batch, draws = module.network, tiny.batch(dtype=torch.float64), torch.Generator().manual_seed(0)
    w_0, w_y = network.encode(batch.gt), network.degraded(batch.lq)
    tau = torch.randint(0, 4, (2,), generator=draws)
    w = network.schedule.add_noise(w_0, w_y, torch.randn(2, 4, 8, 8, generator=draws).double(), tau)
    image = network.codec.decode(network.predict_clean(w, tau, w_y))
    found = losses(module, batch)
    assert list(found) == ["shift/latent", "rec/l2"]
    expected = 3.0 * (image - (2 * batch.gt - 1)).square().mean().item()
    assert found["rec/l2"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match=rf"l2_from in \[0, 1\].* found {share}"):
        ResShiftTraining(tiny.shift_network(), l2_from=share)


@pytest.mark.parametrize("weights", [{"lambda_l1": 1.0}, {"lambda_l2": 1.0}])
def test_a_change_of_terms_needs_both(weights):
    with pytest.raises(ValueError, match="Expected `lambda_l1` and `lambda_l2`"):
        res_shift(l2_from=0.5, **weights)


def test_pixel_term_can_be_left_out():
    assert list(losses(ResShiftTraining(tiny.shift_network()), tiny.batch())) == ["shift/latent"]


def test_every_trainable_weight_gets_a_gradient(module):
    sum(losses(module, tiny.batch()).values()).backward()
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_batch_without_ground_truth_is_refused(module):
    with pytest.raises(ValueError, match=r"Expected batches with ground truth .*found none"):
        module.losses(tiny.batch()._replace(gt=None))


def test_restored_images_have_the_right_size_and_range(module):
    restored = module.restore(tiny.batch().lq)
    side = 8 * module.scale
    assert restored.shape == (2, 3, side, side)
    assert 0.0 <= restored.min() <= restored.max() <= 1.0
    assert not restored.requires_grad


@pytest.mark.parametrize("name", MAKERS)
def test_a_few_steps_lower_the_loss(name):
    module = {**MAKERS, "codec": lambda: CodecTraining(NanoCodec(4, 8))}[name]()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=2e-3)
    batch, history = tiny.batch(4), []
    for _ in range(25):
        loss = sum(losses(module, batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.95 * history[0]
