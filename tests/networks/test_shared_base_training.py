"""Training over one copy of the base's weights gives what training over several copies gives."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from lightning.pytorch.callbacks import ModelCheckpoint
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ctsr_lightning.callbacks.memory import components
from ctsr_lightning.codecs import KLCodec
from ctsr_lightning.diffusion.noising import add_noise
from ctsr_lightning.losses.flow import velocity_matching
from ctsr_lightning.models import OneStepStudent
from ctsr_lightning.modules.draws import Draws
from ctsr_lightning.networks import Frozen, LoRA, VelocityField
from ctsr_lightning.networks.lora import adapters_off, add_named_adapter, add_unet_adapters
from ctsr_lightning.networks.sharing import share
from ctsr_lightning.teachers import OneStepTeacher
from ctsr_lightning.weights.single_file import STABLE_DIFFUSION_UNET, STABLE_DIFFUSION_VAE
from helpers import shared_bases, tiny
from helpers.ldm_layout import toy_networks, write_model
from helpers.processes import several_processes


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), toy_networks())


# --- recomputation ---


class Passes:
    """Counts the passes through a residual block of a UNet."""

    def __init__(self, unet: nn.Module) -> None:
        self.count = 0
        # Recomputation ends within the block, as soon as it has what the backward pass needs.
        unet.get_submodule("down_blocks.0.resnets.0").register_forward_pre_hook(self.add)

    def add(self, *_):
        self.count += 1


def gradients(base, score, *, shared):
    """Gradients of stage 1 and a velocity field in one graph, and how often UNet blocks ran before and after backward.

    Shared weights with recomputation, or copies of the weights without.
    """
    module = shared_bases.stage_one(base, shared, score, checkpointing=shared)
    field = shared_bases.velocity(base, shared, gradient_checkpointing=shared)
    both = nn.ModuleList([module, field]).double()
    teacher = module.teachers["realness"]
    users = {"student": module.student.unet, "velocity": field.unet}
    users["teacher"] = teacher.frozen.network.unet if score == "own" else teacher.prior.network
    passes = {name: Passes(unet) for name, unet in users.items()}
    batch, module.draws = tiny.batch(1, dtype=torch.float64), Draws(7)
    latent, control = module.student.latent(batch.lq), torch.tensor([0.3], dtype=torch.float64)
    terms = module.losses(batch)
    velocity = field(latent, control, tiny.TinyPrompt()(batch.lq), latent)
    terms["velocity"] = velocity_matching(velocity, latent, torch.zeros_like(latent))
    forward = {name: one.count for name, one in passes.items()}
    sum(terms.values()).backward()
    extra = {name: one.count - forward[name] for name, one in passes.items()}
    found = {name: p.grad for name, p in both.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in found.values())
    return {name: term.item() for name, term in terms.items()}, found, extra


@pytest.mark.slow
@pytest.mark.parametrize("score", ["own", "base"])
def test_recomputation_meets_the_right_adapters(base, score):
    """The backward pass runs the blocks of three networks over the same weights again, and mixes up none of them."""
    terms, found, again = gradients(base, score, shared=True)
    expected_terms, expected, never = gradients(base, score, shared=False)
    assert never == dict.fromkeys(never, 0)
    assert min(again.values()) >= 1  # the networks did recompute, each of them
    assert terms == pytest.approx(expected_terms, rel=1e-12)
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        assert grad.abs().max() > 0 or "lora_" in name, name
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-13)


def test_switching_by_context_would_not_do():
    """What this avoids: adapters that are switched after the forward pass are the ones that recomputation meets."""
    unet = tiny.prompted_unet()
    add_unet_adapters(unet, LoRA(sets=("a", "b")))
    shared_bases.awake(unet, 0)

    def use(name):
        for layer in unet.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.set_adapter([adapter for adapter in layer.lora_A if adapter.endswith(name)])

    def gradient(then):
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        use("_a")
        output = unet(latent, torch.tensor([3]), torch.ones(1, 2, 6)).sample
        use(then)
        output.square().sum().backward()
        return latent.grad

    expected = gradient("_a")
    torch.testing.assert_close(gradient("_b"), expected)  # without recomputation it does no harm
    unet.enable_gradient_checkpointing()
    torch.testing.assert_close(gradient("_a"), expected)
    assert (gradient("_b") - expected).abs().max() > 0.01 * expected.abs().max()  # silently wrong


@pytest.mark.parametrize("checkpointing", [True, False])
def test_base_score_passes_the_gradient_of_the_base(base, checkpointing):
    network = shared_bases.student(base, seed=1, gradient_checkpointing=checkpointing)
    teacher = OneStepTeacher(network, score="base").double()
    clean = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    noisy = add_noise(network.schedule, clean, torch.randn_like(clean), torch.tensor([500]), clean)
    condition = torch.ones(1, 2, 6, dtype=torch.float64)

    def gradient(predict):
        latent = noisy.latent.detach().clone().requires_grad_()
        predict(noisy._replace(latent=latent)).square().sum().backward()
        return latent.grad

    found = gradient(lambda asked: teacher.predict_noise(asked, condition))
    own = gradient(lambda asked: network.predict_noise(asked.latent, asked.timestep, condition))
    network.unet.disable_gradient_checkpointing()

    def switched(asked):
        with adapters_off(network.unet):
            return network.predict_noise(asked.latent, asked.timestep, condition)

    torch.testing.assert_close(found, gradient(switched), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found, own, rtol=1e-3)


def test_base_score_holds_no_second_base(base):
    network = shared_bases.student(base, seed=1)
    teacher = OneStepTeacher(network, score="base")
    assert not list(teacher.parameters())
    rows = {row.name: row for row in components(nn.ModuleDict({"realness": teacher}))}
    assert rows["realness.prior"].parameters > 10_000
    assert rows["realness.prior"].held == 0
    teacher.double()
    assert teacher.prior.network.dtype == torch.float64
    kept = {id(p) for p in network.unet.parameters()}
    assert all(id(p) in kept for p in teacher.prior.network.parameters())


# --- compilation, checkpoints, processes ---


@pytest.mark.slow
def test_compiled_networks_keep_their_adapters():
    """On the UNet without attention, which takes a fourth of the time to trace."""
    users = [share("compiled", tiny.unet) for _ in range(2)]
    for seed, unet in enumerate(users):
        add_named_adapter(unet, LoRA(), "velocity")
        shared_bases.awake(unet, seed)
    assert users[0].conv_in.base_layer.weight is users[1].conv_in.base_layer.weight
    inputs = (torch.randn(1, 4, 8, 8), torch.tensor([3]), None)
    with torch.no_grad():
        expected = [unet(*inputs).sample for unet in users]
        compiled = [torch.compile(unet, backend="eager") for unet in users]
        found = [unet(*inputs).sample for unet in (*compiled, *compiled)]
    for mine, theirs in zip(found, [*expected, *expected], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(*expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_checkpoints_hold_the_same_and_resume(tmp_path, base):
    weights = {}

    def fit(module, folder, **options):
        saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        options = {"max_steps": 2, "enable_checkpointing": True, "callbacks": [saver], **options}
        tiny.fit(module, tiny.loader(count=2), **options)

    for shared in (True, False):
        module = shared_bases.stage_one(base, shared)
        fit(module, tmp_path / str(shared))
        weights[shared] = module.trimmed_state()
    assert weights[True].keys() == weights[False].keys()
    for name, weight in weights[True].items():
        torch.testing.assert_close(weight, weights[False][name], msg=name)

    # Either checkpoint goes on over a shared base, whichever base it was made over.
    for shared in (True, False):
        path = tmp_path / str(shared) / "step=1.ckpt"
        assert torch.load(path, weights_only=True)["state_dict"].keys() == weights[shared].keys()
        resumed = shared_bases.stage_one(base)
        shared_bases.awake(resumed, 9)
        fit(resumed, tmp_path / f"resumed-{shared}", ckpt_path=path)
        for name, weight in resumed.trimmed_state().items():
            assert torch.equal(weight, weights[shared][name]), name


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_over_a_shared_base_train_like_one_over_copies(tmp_path, base):
    several_processes(shared_bases.train, tmp_path, base, True)
    expected = shared_bases.train(0, 1, base, False)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.keys() == expected.keys()
        for name, sums in expected.items():
            assert found[name] == pytest.approx(sums, rel=1e-8, abs=1e-8), (name, rank)


# --- full size ---


@pytest.fixture(scope="module")
def full_size():
    """Components of both stages on Stable Diffusion 2.1 without memory; T_f is its plain autoencoder."""

    def unet():
        return UNet2DConditionModel.from_config({"sample_size": 64, **STABLE_DIFFUSION_UNET[1024]})

    def student():
        codec = KLCodec(share("vae", lambda: AutoencoderKL.from_config(STABLE_DIFFUSION_VAE)))
        return OneStepStudent(share("unet", unet), codec, lora=LoRA(), encoder_lora=LoRA())

    with torch.device("meta"):
        one = student()
        bridge = Frozen(KLCodec(share("vae", dict)))  # there already
        stage_one = nn.ModuleDict({"student": one, "fidelity": bridge, "realness": OneStepTeacher(student())})
        found = {"stage 1": components(stage_one)}
        field = VelocityField(share("unet", dict), LoRA())
        stage_two = nn.ModuleDict({"student": Frozen(one), "velocity": field, "fidelity": bridge})
        found["stage 2"] = components(stage_two)
    return found


UNET, AUTOENCODER, CONV_IN, HEAD = 865_910_724, 83_653_863, 11_840, 20
UNET_ADAPTERS, ENCODER_ADAPTERS = 4_055_712, 369_356


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "rows", "separate", "held"),
    [
        (
            "stage 1",
            ["student.unet", "student.codec", "fidelity", "realness.unet", "realness.codec"],
            2 * UNET + 3 * AUTOENCODER + 2 * (UNET_ADAPTERS + ENCODER_ADAPTERS),
            UNET + AUTOENCODER + 2 * (UNET_ADAPTERS + ENCODER_ADAPTERS) + CONV_IN,  # both have trained a conv_in
        ),
        (
            "stage 2",
            ["student.unet", "student.codec", "velocity.unet", "velocity.head", "fidelity"],
            2 * UNET + 2 * AUTOENCODER + 2 * UNET_ADAPTERS + ENCODER_ADAPTERS + HEAD,
            UNET + AUTOENCODER + 2 * UNET_ADAPTERS + ENCODER_ADAPTERS + CONV_IN + HEAD,
        ),
    ],
)
def test_full_size_stages_hold_the_base_once(full_size, stage, rows, separate, held):
    found = full_size[stage]
    assert [row.name for row in found] == rows
    assert sum(row.parameters for row in found) == separate
    assert sum(row.separate for row in found) == 4 * separate
    assert sum(row.held for row in found) == 4 * held
    trained = UNET_ADAPTERS + (CONV_IN + ENCODER_ADAPTERS if stage == "stage 1" else HEAD)
    assert sum(row.trainable for row in found) == trained
    assert sum(row.training for row in found) == 3 * 4 * trained
