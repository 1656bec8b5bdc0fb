"""One pass, every t."""

import pytest
import torch
from torch.nn import functional as F

from ctsr_lightning.models import TradeOff
from ctsr_lightning.models.restoration_model import control_on_latents
from ctsr_lightning.networks import LoRA
from helpers import tiny

SOURCES = ["latent", "reencode"]


def tradeoff(*, awake=True, z0_source="latent", **options):
    return TradeOff(tiny.student(), tiny.velocity(3, awake=awake, **options), z0_source)


def ends(model, lq):
    return model.shared(lq).chunk(2, dim=1)


@pytest.fixture
def lq():
    return torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize("control", [0.0, 0.3, 1.0])
def test_untrained_velocity_is_the_identity(lq, control):
    model = tradeoff(awake=False)
    assert torch.equal(model.restore(lq, control), model.student.restore(lq))


@pytest.mark.parametrize("options", [{"lora": LoRA()}, {"condition_on_lq": True}, {"gradient_checkpointing": True}])
def test_untrained_velocity_is_zero_in_every_form(lq, options):
    z_0, velocity = ends(tradeoff(awake=False, **options), lq)
    assert torch.equal(velocity, torch.zeros_like(z_0))


def test_realness_end_is_stage_one_bit_for_bit(lq):
    model = tradeoff()
    assert torch.equal(model.restore(lq, 0.0), model.student.restore(lq))
    assert torch.equal(model.sweep(lq, [1.0, 0.0])[1], model.student.restore(lq))
    assert not torch.allclose(model.restore(lq, 1.0), model.student.restore(lq))


def test_reencoded_start_is_the_papers(lq):
    model = tradeoff(z0_source="reencode")
    z_0, _ = ends(model, lq)
    assert torch.equal(z_0, model.student.codec.encode(2 * model.student.restore(lq) - 1))


@pytest.mark.parametrize("z0_source", SOURCES)
def test_velocity_is_asked_at_the_start_at_time_zero(lq, z0_source):
    model = tradeoff(z0_source=z0_source)
    z_0, velocity = ends(model, lq)
    field = model.velocity
    assert torch.equal(velocity, field.head(field.unet(z_0, torch.zeros(2), None).sample))


@pytest.mark.parametrize("z0_source", SOURCES)
@pytest.mark.parametrize("control", [0.0, 0.25, 1.0])
def test_image_is_the_decoded_straight_line(lq, z0_source, control):
    model = tradeoff(z0_source=z0_source).double()
    z_0, velocity = ends(model, lq.double())
    expected = ((model.student.codec.decode(z_0 + control * velocity) + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(model.restore(lq.double(), control), expected, rtol=0, atol=1e-12)


def test_time_is_shown_to_the_unet_on_its_own_scale(lq):
    field = tiny.velocity(awake=True)
    seen = []
    field.unet.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    field(torch.randn(3, 4, 8, 8), torch.tensor([0.0, 0.5, 1.0]), None, torch.zeros(3, 4, 8, 8))
    assert seen[0].tolist() == [0.0, 499.5, 999.0]


def test_velocity_depends_on_time():
    field, latent = tiny.velocity(awake=True), torch.randn(1, 4, 8, 8)
    early, late = (field(latent, torch.tensor([t]), None, latent) for t in (0.1, 0.9))
    assert not torch.allclose(early, late)


def test_low_quality_latent_is_seen_only_on_demand():
    latent, t = torch.randn(1, 4, 8, 8), torch.zeros(1)
    for condition in (False, True):
        field = tiny.velocity(awake=True, condition_on_lq=condition)
        first, second = (field(latent, t, None, value * torch.ones_like(latent)) for value in (1.0, 2.0))
        assert torch.equal(first, second) is not condition


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32), (2, 32, 32), (1, 1, 32, 32), (2, 1, 32, 32)])
def test_constant_map_is_the_number(lq, shape):
    model = tradeoff()
    torch.testing.assert_close(model.restore(lq, torch.full(shape, 0.25)), model.restore(lq, 0.25), rtol=0, atol=1e-6)


def test_map_moves_only_where_it_says():
    model, lq = tradeoff(), torch.rand(1, 3, 8, 24)
    control = torch.zeros(32, 96)
    control[:, 48:] = 1.0
    mixed, ends = model.restore(lq, control), model.sweep(lq, [0.0, 1.0])
    # Away from the border the decoder sees nothing of the other side.
    torch.testing.assert_close(mixed[..., :24], ends[0][..., :24], rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed[..., 72:], ends[1][..., 72:], rtol=0, atol=1e-6)
    assert not torch.allclose(mixed[..., :48], ends[1][..., :48])


def test_map_is_averaged_over_the_pixels_of_a_latent(lq):
    model, control = tradeoff(), torch.rand(2, 1, 32, 32)
    z_0, velocity = ends(model, lq)
    t = control.reshape(2, 1, 8, 4, 8, 4).mean(dim=(3, 5))
    expected = model.student.decode(z_0 + t * velocity).clamp(0, 1)
    torch.testing.assert_close(model.at(model.shared(lq), control), expected)


def test_ramp_blends_from_one_end_to_the_other(lq):
    model = tradeoff()
    z_0, velocity = ends(model, lq)
    ramp = torch.linspace(0, 1, 32).expand(32, 32)
    moved = (control_on_latents(ramp, z_0, 4) * velocity) / velocity
    assert (moved[0, 0, 0].diff() > 0).all()


@pytest.mark.parametrize("control", [-0.01, 1.01, float("nan"), torch.full((32, 32), 1.5), torch.tensor(-1.0)])
def test_control_outside_the_unit_interval_is_refused(lq, control):
    with pytest.raises(ValueError, match=r"t in \[0, 1\]"):
        tradeoff().restore(lq, control)


@pytest.mark.parametrize("shape", [(8, 8), (2,), (32, 31), (3, 1, 32, 32), (2, 3, 32, 32), (1, 2, 1, 32, 32)])
def test_map_of_another_size_is_refused(lq, shape):
    with pytest.raises(ValueError, match=r"\(32, 32\)"):
        tradeoff().restore(lq, torch.zeros(shape))


@pytest.mark.parametrize(("z0_source", "again"), [("latent", 0), ("reencode", 1)])
@pytest.mark.parametrize("condition_on_lq", [False, True])
def test_sweep_costs_one_pass_and_a_decode_per_value(lq, z0_source, again, condition_on_lq):
    model = tradeoff(z0_source=z0_source, condition_on_lq=condition_on_lq)
    counted = {"student": 0, "velocity": 0, "encoder": 0, "decoder": 0}
    networks = {
        "student": model.student.unet,
        "velocity": model.velocity.unet,
        "encoder": model.student.codec.encoder,
        "decoder": model.student.codec.decoder,
    }
    for name, network in networks.items():
        network.register_forward_hook(lambda *_, name=name: counted.update({name: counted[name] + 1}))
    images = model.sweep(lq, [0.0, 0.25, 0.5, 1.0])
    assert len(images) == 4
    assert counted == {"student": 1, "velocity": 1, "encoder": 1 + again, "decoder": 4 + again}


def test_inference_keeps_no_graph(lq):
    assert not tradeoff().restore(lq, 0.5).requires_grad


def test_velocity_adapter_trains_nothing_of_its_base():
    field = tiny.velocity(lora=LoRA(), condition_on_lq=True)
    trainable = {name for name, p in field.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in field.named_parameters() if ".velocity." in n or not n.startswith("unet.")}


def test_velocity_weights_come_back(tmp_path):
    from safetensors.torch import save_file

    trained = tiny.velocity(awake=True, lora=LoRA())
    state = {f"velocity.{n}": p.detach().contiguous() for n, p in trained.named_parameters() if p.requires_grad}
    save_file(state, tmp_path / "w.safetensors")
    # The shaken field also moved its base; a fresh one has the untouched base, so only the trained part is compared.
    loaded = tiny.velocity(lora=LoRA(), weights=tmp_path / "w.safetensors")
    for name, parameter in loaded.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, trained.get_parameter(name))


def test_map_is_averaged_like_average_pooling(lq):
    control = torch.rand(32, 32)
    model = tradeoff()
    z_0, _ = ends(model, lq)
    torch.testing.assert_close(control_on_latents(control, z_0, 4), F.avg_pool2d(control[None, None], 4))
