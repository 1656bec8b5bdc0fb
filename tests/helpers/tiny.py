"""The smallest networks, teachers and data that the classes of the core accept."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ctsr_lightning.batch import Batch
from ctsr_lightning.codecs import KLCodec, NanoCodec
from ctsr_lightning.diffusion import ResShiftSchedule
from ctsr_lightning.diffusion.noising import Noisy
from ctsr_lightning.losses.reconstruction import Reconstruction
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.models import FewStepStudent, MultiStepFlow, OneStepFlow, OneStepStudent
from ctsr_lightning.networks import (
    FlowNetwork,
    GuidedByControlNet,
    GuidedByInput,
    LatentResShift,
    LoRA,
    VelocityField,
    nano_unet,
)
from ctsr_lightning.prompts.base import Prompt
from ctsr_lightning.teachers import Gradient, OneStepTeacher, ResShiftTeacher, Teacher, TeacherTargets
from ctsr_lightning.teachers.base import latent_space_targets

CHANNELS = 4

Module = TypeVar("Module", bound=nn.Module)


def shaken(module: Module, scale: float = 0.05, seed: int = 1) -> Module:
    """Move every weight a little, so that nothing that starts at zero stays there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter))
    return module


def unet(in_channels: int | None = None, seed: int = 0) -> UNet2DConditionModel:
    """The nano UNet with widths of 8 and 16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nano_unet(CHANNELS, in_channels, widths=(8, 16))


def prompted_unet(seed: int = 0) -> UNet2DConditionModel:
    """A UNet with cross-attention, shaped like Stable Diffusion's, with every kind of adapted module."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            cross_attention_dim=6,
            use_linear_projection=True,
        )


def autoencoder(seed: int = 0) -> AutoencoderKL:
    """A KL autoencoder at f = 4."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            latent_channels=CHANNELS,
            norm_num_groups=4,
            scaling_factor=0.18215,
        )


class TinyPrompt(Prompt):
    """A prompt that differs from image to image, so that a mixed-up batch would show.

    Args:
        slope: Factor of the embedding.
    """

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Two tokens of six numbers made from the mean of the image."""
        return self.slope * lq.mean(dim=(1, 2, 3)).view(-1, 1, 1) * torch.linspace(-1, 1, 12).view(1, 2, 6).to(lq)


def nano_codec(seed: int = 0) -> NanoCodec:
    """The nano codec, its corrections awake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = NanoCodec(channels=CHANNELS, width=8)
    return shaken(codec, 0.02)


def student(seed: int = 0, **options: Any) -> OneStepStudent:
    """A student all of whose UNet is trained, on the nano codec."""
    options = {"unet": unet(seed=seed), "codec": nano_codec(), "timestep": 500, **options}
    return OneStepStudent(**options)


def adapted_student(seed: int = 0, **options: Any) -> OneStepStudent:
    """A student of the full-size layout: adapters on a prompted UNet and on a KL encoder, trained a little."""
    built = OneStepStudent(
        **{
            "unet": prompted_unet(),
            "codec": KLCodec(autoencoder()),
            "lora": LoRA(),
            "encoder_lora": LoRA(),
            "prompt": TinyPrompt(),
            **options,
        }
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


def shift_network(seed: int = 0, **options: Any) -> LatentResShift:
    """ResShift's denoiser on the nano codec."""
    options = {"unet": unet(2 * CHANNELS, seed), "codec": nano_codec(), "schedule": ResShiftSchedule(), **options}
    return LatentResShift(**options)


def flow_network(seed: int = 0, **options: Any) -> FlowNetwork:
    """A flow on the nano codec, σ = 0.5, which restores in two steps."""
    options = {"unet": unet(2 * CHANNELS, seed), "codec": nano_codec(), "sigma": 0.5, "steps": 2, **options}
    return FlowNetwork(**options)


def one_step_flow(seed: int = 0, **options: Any) -> OneStepFlow:
    """The flow in one step."""
    return OneStepFlow(flow_network(seed, **options))


def multi_step_flow(seed: int = 0, **options: Any) -> MultiStepFlow:
    """The flow in its steps."""
    return MultiStepFlow(flow_network(seed, **options))


def few_step(seed: int = 0, **options: Any) -> FewStepStudent:
    """CCSR's student of three steps, on the nano codec, its guide awake."""
    options = {"steps": [999, 667, 583], "between": "posterior", "prediction": "v_prediction", **options}
    options = {"denoiser": shaken(GuidedByInput(unet(seed=seed))), "codec": nano_codec(), **options}
    return FewStepStudent(**options)


def controlled_student(seed: int = 0, **options: Any) -> FewStepStudent:
    """AddSR's student in the full-size layout: a ControlNet on a prompted UNet, which predicts noise."""
    denoiser = GuidedByControlNet(prompted_unet(seed))
    shaken(denoiser.controlnet)
    options = {"steps": [749, 499], "refine": 0.5, "prompt": TinyPrompt(), "denoiser": denoiser, **options}
    return few_step(**{"between": "renoise", "prediction": "epsilon", **options})


def velocity(seed: int = 0, *, awake: bool = False, **options: Any) -> VelocityField:
    """A velocity field; `awake` gives it random weights where it starts at zero."""
    field = VelocityField(**{"unet": unet(seed=seed), **options})
    return shaken(field) if awake else field


def realness_teacher(seed: int = 0) -> OneStepTeacher:
    """T_r on the same weights as `student(seed)`."""
    return OneStepTeacher(student(seed))


def fidelity_teacher(seed: int = 0) -> ResShiftTeacher:
    """T_f on the nano codec."""
    return ResShiftTeacher(shift_network(seed))


class LinearTeacher(Teacher):
    """ε_T(z_t) = slope * z_t + offset: what it does to a gradient is known."""

    def __init__(self, slope: float = 0.7, offset: float = 0.3, scale: int = 4) -> None:
        super().__init__()
        self.slope, self.offset, self.scale = slope, offset, scale

    @property
    def multiple(self) -> int:
        """Any size will do."""
        return self.scale

    def condition(self, lq: Tensor, keys: list[str] | None = None) -> None:
        """Nothing."""

    def targets(
        self,
        student: Noisy,
        gt: Noisy,
        condition: Tensor | None,
        gradient: Gradient,
        normal: Callable[[Tensor], Tensor],
    ) -> TeacherTargets:
        """The linear map, for both terms."""
        return latent_space_targets(lambda noisy: self.slope * noisy.latent + self.offset, student, gt, gradient)

    def restore(self, lq: Tensor, keys: list[str] | None = None) -> Tensor:
        """Nearest-neighbour enlargement."""
        return F.interpolate(lq, scale_factor=self.scale, mode="nearest")


class Quartic(PerceptualDistance):
    """A distance that anyone can compute, smooth enough for finite differences."""

    def __init__(self, name: str = "lpips_toy") -> None:
        super().__init__()
        self._name = name

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean fourth power of the difference of each pair."""
        return (x - y).pow(4).mean(dim=(1, 2, 3))


def reconstruction(name: str = "lpips_toy", **weights: Any) -> Reconstruction:
    """Eq. 1 with the distance that anyone can compute."""
    return Reconstruction(perceptual=Quartic(name), **weights)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """A training's options, those that are `Reconstruction`'s in an object of their own."""
    names = inspect.signature(Reconstruction).parameters.keys() & options.keys()
    rest = {name: value for name, value in options.items() if name not in names}
    return {"reconstruction": reconstruction(**{name: options[name] for name in names}), **rest}


class ToyPairs(Dataset[Batch]):
    """Smooth images and their four times smaller versions, the same on every machine."""

    def __init__(self, count: int = 8, side: int = 32, scale: int = 4) -> None:
        generator = torch.Generator().manual_seed(3)
        coarse = torch.rand(count, 3, side // 4, side // 4, generator=generator)
        self.gt = F.interpolate(coarse, scale_factor=4, mode="bilinear")
        self.lq = F.avg_pool2d(self.gt, scale)

    def __len__(self) -> int:
        return len(self.gt)

    def __getitem__(self, index: int) -> Batch:
        return Batch(self.lq[index], self.gt[index], str(index))  # type: ignore[arg-type]  # collated to a list


def loader(batch_size: int = 2, count: int = 8, **options: Any) -> DataLoader[Batch]:
    """A loader that deals the toy pairs in order."""
    return DataLoader(ToyPairs(count), batch_size=batch_size, shuffle=False, **options)


def batch(size: int = 2, side: int = 32, dtype: torch.dtype = torch.float32) -> Batch:
    """The first toy pairs as a batch."""
    pairs = ToyPairs(size, side)
    return Batch(pairs.lq.to(dtype), pairs.gt.to(dtype), [str(i) for i in range(size)])


def fit(module: LightningModule, train: DataLoader[Batch] | None = None, **options: Any) -> Trainer:
    """Train on the toy pairs with a quiet trainer on the CPU; `ckpt_path` resumes."""
    ckpt_path = options.pop("ckpt_path", None)
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "limit_val_batches": 0,
    }
    trainer = Trainer(**{**quiet, **options})
    trainer.fit(module, train or loader(), loader(), ckpt_path=ckpt_path)
    return trainer
