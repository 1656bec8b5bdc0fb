"""Published restoration networks of all architectures that spandrel knows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError, canonicalize_state_dict
from torch import Tensor, nn

from ctsr_lightning.weights.reading import named_tensors, read_file
from ctsr_lightning.weights.search import find_weights

EXPECTED: Final = (
    "weights of a restoration network in PyTorch's format (.pth, .safetensors; no ONNX, ncnn, TorchScript)"
)
RGB: Final = 3


class ExpertNetwork(nn.Module):
    """A restorer x̂ = F(x_LR) of images in [0, 1], in float32 or, under autocast, in a half type that it supports.

    Args:
        descriptor: spandrel's network and its description.
        file: Weight file, for messages and tables.
    """

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module], file: Path) -> None:
        super().__init__()
        self.model = descriptor.model.float()
        self._descriptor, self.file = descriptor, file
        self.scale = descriptor.scale

    @property
    def architecture(self) -> str:
        """The architecture's name, as spandrel gives it."""
        return self._descriptor.architecture.name

    @property
    def multiple(self) -> int:
        """Sides of a restored image without padding are multiples of this many pixels."""
        return self.scale * self._descriptor.size_requirements.multiple_of

    def forward(self, lq: Tensor, seed: int = 0) -> Tensor:
        """Restore images one by one, so that a result does not depend on the rest of its batch.

        Images whose sides the architecture cannot take are mirrored up to ones that it can, and cut afterwards.

        Args:
            lq: Images in [0, 1], shape (B, 3, h, w).
            seed: Seed of the network's random numbers; few networks draw any.

        Returns:
            Images in [0, 1], shape (B, 3, scale * h, scale * w), without gradient.
        """
        device = lq.device
        restored = []
        with (
            torch.autocast(device.type, enabled=self._half(device.type)),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            for image in lq:
                torch.manual_seed(seed)
                restored.append(self._descriptor(image[None]))
        return torch.cat(restored).clone().to(lq.dtype)  # a copy, as losses cannot use tensors of inference mode

    def _half(self, device: str) -> bool:
        """Whether autocast is on, in a type that the architecture supports."""
        if not torch.is_autocast_enabled(device):
            return False
        bfloat16 = torch.get_autocast_dtype(device) == torch.bfloat16
        return self._descriptor.supports_bfloat16 if bfloat16 else self._descriptor.supports_half


def read_expert(file: Path) -> ExpertNetwork:
    """Read a restoration network from its published file: Real-ESRGAN, SwinIR, HAT, DAT, SPAN and many more.

    spandrel infers architecture and settings from names and shapes. Averaged weights (`params_ema`) are preferred.

    Args:
        file: The file.

    Raises:
        MissingWeightsError: If there is no such file.
        ValueError: If it is damaged, holds code or no network of whole RGB images that spandrel knows.
    """
    found = find_weights(file)
    contents = read_file(found, EXPECTED)
    if isinstance(contents, dict):
        contents = canonicalize_state_dict(contents)
    state = named_tensors(contents, EXPECTED, found)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of outdated calls in spandrel's architectures
            descriptor: Any = ModelLoader().load_from_state_dict(dict(state))
    except UnsupportedModelError as error:
        raise ValueError(_unknown(found, state)) from error
    except Exception as error:  # KeyError, RuntimeError, AssertionError, … where weights resemble those of a network
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{_unknown(found, state)} They resemble those of one, but do not fit it: {reason}") from error
    _check(descriptor, found)
    return ExpertNetwork(descriptor, found)


def _unknown(file: Path, state: dict[str, Tensor]) -> str:
    names = ", ".join(list(state)[:3])
    return (
        f"Expected weights of a restoration network that spandrel knows (Real-ESRGAN, SwinIR, HAT, DAT, SPAN, …) in "
        f"'{file}', found {len(state)} tensors of another one ({names}, …). Name a file that its authors publish for "
        "restoration; networks of this project are teachers of other classes, such as OneStepTeacher."
    )


def _check(descriptor: Any, file: Path) -> None:
    """Refuse networks of anything but RGB images.

    Raises:
        ValueError: If it is one of those.
    """
    channels = (descriptor.input_channels, descriptor.output_channels)
    name = descriptor.architecture.name
    if not isinstance(descriptor, ImageModelDescriptor) or descriptor.purpose == "FaceSR":
        purpose = "inpainting by a mask" if descriptor.purpose == "Inpainting" else "aligned faces"
        raise ValueError(
            f"Expected a restoration network of whole photographs in '{file}', found {name}, which is made for "
            f"{purpose}. Name another file."
        )
    if channels != (RGB, RGB):
        raise ValueError(
            f"Expected a restoration network of RGB images, {RGB} channels in and out, in '{file}', found {name} with "
            f"{channels[0]} in and {channels[1]} out. Name its release for colour images."
        )
