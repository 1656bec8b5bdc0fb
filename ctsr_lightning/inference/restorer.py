"""Restoration of images of any size, without a trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, get_args, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.diffusion.sampling import generator_by_content
from ctsr_lightning.images import pad_to_multiple, upsample
from ctsr_lightning.inference.color import correct
from ctsr_lightning.inference.devices import pick_device
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.precision import HALF, for_inference, inference_precision
from ctsr_lightning.inference.pretrained import find_model, save_model
from ctsr_lightning.inference.settings import Color
from ctsr_lightning.inference.tiling import Window, blend, windows
from ctsr_lightning.models.restoration_model import RestorationModel

TILE_PIXELS = 768
"""Default side of a tile in pixels of the output: 96 x 96 latents at f = 8, what OSEDiff uses."""


class Trajectory(NamedTuple):
    """The path over t on which every restoration of an image lies: in CTSR the straight line z_0 + t v (Eq. 6)."""

    state: Tensor
    """What the model goes on from at every t (`RestorationModel.advance`), shape (B, C, H / f, W / f); in CTSR z_0 and
    v(z_0, 0, c) along the channels."""
    size: tuple[int, int]
    """Height and width of the restored image; the latents may reach beyond, as networks need certain multiples."""
    lq: Tensor
    """The input, RGB in [0, 1], shape (B, 3, h, w), whose colours a correction takes over at every t."""


class RestorationError(ValueError):
    """An image on which the networks fail."""


class Restorer:
    """Restores images of any size: one pass per image for all that values of t share, then the rest of each.

        model = Restorer.from_pretrained()
        realistic, faithful = model(read_image("photo.jpg"), t=[0, 1])

    Same input, same bits, on one device with as many threads: where the model draws random numbers, they come from
    `seed`.

    Args:
        model: The model; a stage-1 student knows t = 0 only. It is copied, adapters merged (`for_inference`); weights
            that stay the same are shared with it.
        device: Where to compute; `auto` takes CUDA, else Apple's MPS, else the CPU.
        dtype: Type that the networks have and compute in; closed forms and blending stay in float32. For one step at
            t = 999 take float16: bfloat16 is so coarse that encoder and UNet of that step stay in float32.
        tile: Side of a tile in pixels of the input; larger images are computed in overlapping tiles. None takes 768
            pixels of the output, 0 never tiles.
        seed: Seed of a model that draws random numbers: noise follows it and the image's content, so that an image's
            does not depend on its batch or tiles; only a student that samples its latent draws it tile by tile.
        color: Correction of colours by the enlarged input, over the whole image after tiles were joined: `none`,
            `adain` (mean and contrast of each channel) or `wavelet` (low frequencies).

    Raises:
        ValueError: If the device is not there, the tile is negative, or there is no such correction.
    """

    def __init__(
        self,
        model: RestorationModel,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        tile: int | None = None,
        seed: int = 0,
        color: Color = "none",
    ) -> None:
        self.device, self.dtype, self.seed, self.color = pick_device(device), dtype, seed, color
        self._half = dtype in HALF
        self.model = for_inference(model, dtype).to(self.device).eval()
        if tile is not None and tile < 0:
            raise ValueError(f"Expected a tile of 0 (never tile) or more pixels, found {tile}.")
        self.tile = TILE_PIXELS // self.scale if tile is None else tile
        self.source: Path | None = None
        """The file that the model was read from."""
        self.prompt: str | None = None
        """Text, or caption file, in place of the model's own prompt."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "nano",
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        tile: int | None = None,
        seed: int = 0,
        color: Color = "none",
        prompt: str | None = None,
    ) -> Restorer:
        """Read a trained model by name; other arguments as in the class.

        Weight files that the training names by relative paths are looked up in the model's folder and upwards, then in
        the current directory. Teachers are never built, averages are preferred to raw weights.

        Args:
            name: `nano`, the small model that comes with this package; a Lightning checkpoint; a `weights.safetensors`
                with its `config.yaml` beside it, or the folder of both; or a hub id `owner/name` of such a folder.
            device: Where to compute.
            dtype: Type to compute in.
            tile: Side of a tile in pixels of the input.
            seed: Seed of a model that draws random numbers.
            color: Correction of colours by the enlarged input.
            prompt: A text for every image, or a caption file (.json, .tsv, .txt) with one for each key, in place of the
                prompt that the model was trained with; its text encoder has to be in reach.

        Raises:
            FileNotFoundError: If there is no such model, or a weight file that it builds on is not there.
            ValueError: If it is damaged, or belongs to a training without a student.
        """
        path = find_model(name)
        restorer = cls(load_model(path, prompt), device, dtype, tile, seed, color)
        restorer.source, restorer.prompt = path, prompt
        return restorer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model so that `from_pretrained` reads it anywhere: its weights, configuration and trained parts.

        Base models that its configuration names (Stable Diffusion) stay references.

        Args:
            folder: A new or empty folder, or one that this has written before.

        Raises:
            ValueError: If the model was built in memory, not read from a file, or the folder holds other files.
        """
        if self.source is None:
            raise ValueError(
                "Expected a model that was read by `from_pretrained`: one that was built in "
                "memory has no configuration to write. Save a checkpoint of its training instead."
            )
        save_model(self.source, Path(folder))

    @property
    def scale(self) -> int:
        """Enlargement."""
        return self.model.scale

    @property
    def color(self) -> Color:
        """Correction of colours; it may change between two decodes of one trajectory."""
        return self._color

    @color.setter
    def color(self, color: Color) -> None:
        if color not in get_args(Color):
            raise ValueError(f"Expected one of {', '.join(get_args(Color))} as colour correction, found '{color}'.")
        self._color = color

    @property
    def controllable(self) -> bool:
        """Whether values of t other than 0 are available."""
        return self.model.control_kind != "none"

    @overload
    def __call__(self, lq: Tensor, t: float | Tensor = 0.0, keys: list[str] | None = None) -> Tensor: ...

    @overload
    def __call__(self, lq: Tensor, t: Sequence[float], keys: list[str] | None = None) -> list[Tensor]: ...

    def __call__(
        self, lq: Tensor, t: float | Tensor | Sequence[float] = 0.0, keys: list[str] | None = None
    ) -> Tensor | list[Tensor]:
        """Restore images.

        Args:
            lq: RGB in [0, 1], shape (3, h, w) or (B, 3, h, w).
            t: Control, from 0 (realness) to 1 (fidelity); or a map of it in pixels of the output, shape
                (scale * h, scale * w); or a list of values, which share one pass.
            keys: Names of the images as in `Batch.key`, for prompts by name.

        Returns:
            RGB in [0, 1], shape (..., 3, scale * h, scale * w), on this restorer's device; a list for a list.

        Raises:
            ValueError: If an argument is out of range, the model does not take such a t, or the result is not finite.
        """
        several = isinstance(t, Sequence)
        controls = list(t) if isinstance(t, Sequence) else [t]
        for value in controls:
            self.check_control(value)
        trajectory = self.trajectory(lq, keys)
        images = [self.decode(trajectory, value) for value in controls]
        if lq.dim() == 3:
            images = [image[0] for image in images]
        return images if several else images[0]

    @torch.no_grad()
    def trajectory(
        self, lq: Tensor, keys: list[str] | None = None, done: Callable[[], None] | None = None
    ) -> Trajectory:
        """Run the networks once; `decode` then restores at any t.

        Args:
            lq: RGB in [0, 1], shape (3, h, w) or (B, 3, h, w).
            keys: Names of the images as in `Batch.key`, for prompts by name.
            done: Called after each of the tiles that `tiles` counts.
        """
        images = self._check_image(lq)
        size = (images.shape[-2] * self.scale, images.shape[-1] * self.scale)
        padded = pad_to_multiple(images, self._unit, least=2)  # one latent a side is too few for group normalisation
        cover = windows(padded.shape[-2], padded.shape[-1], self.tile, self._unit)
        ratio = Fraction(self.scale, self.model.codec.factor)
        with self.computing():
            shared = blend(cover, lambda window: self.model.shared(window.crop(padded), keys), ratio, done)
            state = self._begin(shared, images)
            if self.model.advances:
                begun = state
                state = blend(
                    cover, lambda w: self.model.advance(w.crop(begun, ratio), w.crop(padded), keys), ratio, done
                )
        if not bool(torch.isfinite(state).all()):
            raise RestorationError(self._not_finite())
        return Trajectory(state, size, images)

    def tiles(self, height: int, width: int, values: int = 1) -> int:
        """Tiles that a restoration is computed in, over all passes.

        Args:
            height: Rows of the input.
            width: Columns of the input.
            values: Number of values of t.
        """
        rows, columns = (max(2, math.ceil(side / self._unit)) * self._unit for side in (height, width))
        ratio = Fraction(self.scale, self.model.codec.factor)
        passes = len(windows(rows, columns, self.tile, self._unit)) * (1 + self.model.advances)
        return passes + values * len(self._decoder_tiles(int(rows * ratio), int(columns * ratio)))

    def _begin(self, shared: Tensor, images: Tensor) -> Tensor:
        """States of images; each image's random numbers follow the seed and its content."""
        if not self.model.random:
            return self.model.begin(shared)
        generators = (generator_by_content(image, self.seed) for image in images)
        return torch.cat([self.model.begin(one, g) for one, g in zip(shared.split(1), generators, strict=True)])

    @torch.no_grad()
    def decode(self, trajectory: Trajectory, t: float | Tensor = 0.0, done: Callable[[], None] | None = None) -> Tensor:
        """Decode one point of a trajectory, and correct its colours if this restorer does.

        Args:
            trajectory: The result of `trajectory`.
            t: Control, or a map of it in pixels of the output.
            done: Called after each of the tiles that `tiles` counts.

        Returns:
            RGB in [0, 1], shape (B, 3, scale * h, scale * w).
        """
        self.check_control(t)
        state, (height, width), lq = trajectory
        factor = self.model.codec.factor
        full = (state.shape[-2] * factor, state.shape[-1] * factor)
        if isinstance(t, Tensor) and t.dim() > 0:
            t = self._padded_map(t, (height, width), full)
        cover = self._decoder_tiles(*state.shape[-2:])

        def point(window: Window) -> Tensor:
            control = window.crop(t, Fraction(factor)) if isinstance(t, Tensor) and t.dim() > 0 else t
            return self.model.at(window.crop(state), control)

        with self.computing():
            image = blend(cover, point, Fraction(factor), done)
        if not bool(torch.isfinite(image).all()):
            raise RestorationError(self._not_finite())
        image = image[..., :height, :width].clamp_(0.0, 1.0)  # in place: it may be the largest thing in memory
        return image if self.color == "none" else correct(image, upsample(lq, self.scale), self.color)

    def check_control(self, control: float | Tensor) -> None:
        """Refuse values of t that this model cannot restore at.

        Args:
            control: t, or a map of it.

        Raises:
            ValueError: If t leaves [0, 1], or the model takes other values of it (`RestorationModel.control_kind`).
        """
        self.model.check_control(control)

    def _decoder_tiles(self, height: int, width: int) -> list[Window]:
        """Tiles of the decoder on a grid of latents."""
        return windows(height, width, math.ceil(self.tile * self.scale / self.model.codec.factor), self.model.cell)

    @property
    def _unit(self) -> int:
        """Sides of the networks' input are multiples of this many pixels."""
        return self.model.multiple // math.gcd(self.model.multiple, self.scale)

    def computing(self) -> AbstractContextManager[None]:
        """Context of the model's passes: its random numbers come from the seed."""
        return inference_precision(self.device, torch.float32, self.seed if self.model.random else None)

    def _check_image(self, lq: Tensor) -> Tensor:
        return checked_images(lq).to(self.device, torch.float32 if self._half else self.dtype)

    def _padded_map(self, control: Tensor, size: tuple[int, int], full: tuple[int, int]) -> Tensor:
        """A map of t, its borders repeated up to the size of what the latents cover, shape (B, 1, H, W)."""
        if control.dim() not in {2, 3, 4} or tuple(control.shape[-2:]) != size:
            raise ValueError(
                f"Expected a map of t with the output's height and width {size}, found shape {tuple(control.shape)}."
            )
        planes = control.to(self.device, torch.float32).reshape(-1, 1, *size)
        return F.pad(planes, (0, full[1] - size[1], 0, full[0] - size[0]), mode="replicate")

    def _not_finite(self) -> str:
        remedy = "Compute in float32." if self._half else "The weights are damaged, or diverged in training."
        return f"The model produced NaN or infinite pixels. {remedy}"


def checked_images(lq: Tensor) -> Tensor:
    """Images as a batch, shape (B, 3, h, w).

    Args:
        lq: RGB in [0, 1], shape (3, h, w) or (B, 3, h, w).

    Raises:
        ValueError: If shape, type or range are others.
    """
    if lq.dim() not in {3, 4} or lq.shape[-3] != 3 or 0 in lq.shape:
        raise ValueError(f"Expected images of shape (3, h, w) or (B, 3, h, w), found {tuple(lq.shape)}.")
    if not lq.is_floating_point():
        raise ValueError(f"Expected floating-point images in [0, 1], found {lq.dtype}. Divide bytes by 255.")
    low, high = float(lq.min()), float(lq.max())
    if not (low >= 0.0 and high <= 1.0):  # also false for NaN
        raise ValueError(f"Expected images in [0, 1], found values from {low} to {high}.")
    return lq if lq.dim() == 4 else lq[None]
