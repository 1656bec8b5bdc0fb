"""Restoration of images of any size, without a trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path
from typing import get_args, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from ctsr_lightning.control import check_range
from ctsr_lightning.diffusion.sampling import generator_by_content
from ctsr_lightning.images import pad_to_multiple, resize_bicubic, to_levels, upsample
from ctsr_lightning.inference.color import correct
from ctsr_lightning.inference.devices import pick_device
from ctsr_lightning.inference.loading import load_model
from ctsr_lightning.inference.precision import HALF, for_inference, inference_precision
from ctsr_lightning.inference.pretrained import find_model, save_model
from ctsr_lightning.inference.settings import OWN_SIZE, Color, OutputSize, Space
from ctsr_lightning.inference.tiling import Window, windows
from ctsr_lightning.inference.trajectory import Trajectory, check_finite, checked_images, map_planes
from ctsr_lightning.inference.whole_statistics import WholeStatistics
from ctsr_lightning.models.restoration_model import RestorationModel, extremes

TILE_PIXELS = 768
"""Default side of a tile in pixels of the output: 96 x 96 latents at f = 8, what OSEDiff uses."""


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
        space: Where t acts. `latent`: x(t) = D(z(t)), a decode for each t. `image`: x(t) = (1 - t) x(0) + t x(1) per
            pixel, so that two decodes serve every t and every map, of any model with a slider.

    Raises:
        ValueError: If the device is not there, the tile is negative, or there is no such correction or space.
    """

    def __init__(
        self,
        model: RestorationModel,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        tile: int | None = None,
        seed: int = 0,
        color: Color = "none",
        space: Space = "latent",
    ) -> None:
        self.device, self.dtype, self.seed, self.color = pick_device(device), dtype, seed, color
        self._half = dtype in HALF
        self.model = for_inference(model, dtype).to(self.device).eval()
        self._whole = WholeStatistics(self.model)
        if tile is not None and tile < 0:
            raise ValueError(f"Expected a tile of 0 (never tile) or more pixels, found {tile}.")
        if space not in get_args(Space):
            raise ValueError(f"Expected one of {', '.join(get_args(Space))} as space of t, found '{space}'.")
        self.tile = TILE_PIXELS // self.scale if tile is None else tile
        self.space: Space = space
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
        space: Space = "latent",
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
            space: Where t acts.

        Raises:
            FileNotFoundError: If there is no such model, or a weight file that it builds on is not there.
            ValueError: If it is damaged, or belongs to a training without a student.
        """
        path = find_model(name)
        restorer = cls(load_model(path, prompt), device, dtype, tile, seed, color, space)
        restorer.source, restorer.prompt = path, prompt
        return restorer

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model so that `from_pretrained` reads it anywhere, with a card and the licence.

        Base models that its configuration names (Stable Diffusion) stay references.

        Args:
            folder: A new or empty folder, or one that this has written before.

        Raises:
            ValueError: If the model was built in memory, not read from a file, or the folder holds other files.
        """
        save_model(self.source, Path(folder), self.model)

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
    def __call__(
        self, lq: Tensor, t: float | Tensor = 0.0, keys: list[str] | None = None, size: OutputSize = OWN_SIZE
    ) -> Tensor: ...

    @overload
    def __call__(
        self, lq: Tensor, t: Sequence[float], keys: list[str] | None = None, size: OutputSize = OWN_SIZE
    ) -> list[Tensor]: ...

    def __call__(
        self,
        lq: Tensor,
        t: float | Tensor | Sequence[float] = 0.0,
        keys: list[str] | None = None,
        size: OutputSize = OWN_SIZE,
    ) -> Tensor | list[Tensor]:
        """Restore images.

        Args:
            lq: RGB in [0, 1], shape (3, h, w) or (B, 3, h, w).
            t: Control, from 0 (realness) to 1 (fidelity); or a map of it in the model's pixels, shape
                (scale * h, scale * w); or a list of values, which share one pass.
            keys: Names of the images as in `Batch.key`, for prompts by name.
            size: Size of the results.

        Returns:
            RGB in [0, 1], shape (..., 3, H, W), by default (..., 3, scale * h, scale * w), on this restorer's device; a
            list for a list.

        Raises:
            ValueError: If an argument is out of range, the model does not take such a t, or the result is not finite.
        """
        several = isinstance(t, Sequence)
        controls = list(t) if isinstance(t, Sequence) else [t]
        for value in controls:
            self.check_control(value)
        trajectory = self.trajectory(lq, keys)
        images = [self.decode(trajectory, value, size) for value in controls]
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
        images = checked_images(lq).to(self.device, torch.float32 if self._half else self.dtype)
        size = (images.shape[-2] * self.scale, images.shape[-1] * self.scale)
        padded = pad_to_multiple(images, self._unit, least=2)  # one latent a side is too few for group normalisation
        cover = windows(padded.shape[-2], padded.shape[-1], self.tile, self._unit)
        ratio = Fraction(self.scale, self.model.codec.factor)
        with self.computing():
            shared = self._whole.blend(cover, lambda window: self.model.shared(window.crop(padded), keys), ratio, done)
            state = self._begin(shared, images)
            if self.model.advances:
                begun = state
                state = self._whole.blend(
                    cover, lambda w: self.model.advance(w.crop(begun, ratio), w.crop(padded), keys), ratio, done
                )
        check_finite(state, half=self._half)
        path = Trajectory(state, size, images)
        return self.in_image_space(path, done) if self.space == "image" else path

    @torch.no_grad()
    def in_image_space(self, trajectory: Trajectory, done: Callable[[], None] | None = None) -> Trajectory:
        """A trajectory between the decoded ends x(0) and x(1), on which every t, and any map, costs no network.

        A model without a slider has one point, and keeps its trajectory.

        Args:
            trajectory: The result of `trajectory`.
            done: Called after each of its tiles.
        """
        if trajectory.space == "image" or not self.controllable:
            return trajectory
        realistic = self._decode(trajectory, 0.0, done)
        ends = F.pad(realistic, (0, 0, 0, 0, 0, 3))  # planes of x(1) beside those of x(0)
        del realistic  # one image less at the peak of memory
        ends[:, 3:] = self._decode(trajectory, 1.0, done)
        return trajectory._replace(state=ends, space="image")

    def tiles(self, height: int, width: int, values: int = 1) -> int:
        """Tiles that a restoration is computed in, over all passes.

        Args:
            height: Rows of the input.
            width: Columns of the input.
            values: Number of values of t.
        """
        rows, columns = (max(2, math.ceil(side / self._unit)) * self._unit for side in (height, width))
        passes = self._whole.passes(windows(rows, columns, self.tile, self._unit)) * (1 + self.model.advances)
        latents = [side * self.scale // self.model.codec.factor for side in (rows, columns)]
        decodes = 2 if self.space == "image" and self.controllable else values
        return passes + decodes * self._whole.passes(self._decoder_tiles(latents[0], latents[1]))

    def _begin(self, shared: Tensor, images: Tensor) -> Tensor:
        """States of images; each image's random numbers follow the seed and its content."""
        if not self.model.random:
            return self.model.begin(shared)
        generators = (generator_by_content(image, self.seed) for image in images)
        return torch.cat([self.model.begin(one, g) for one, g in zip(shared.split(1), generators, strict=True)])

    @torch.no_grad()
    def decode(
        self,
        trajectory: Trajectory,
        t: float | Tensor = 0.0,
        size: OutputSize = OWN_SIZE,
        done: Callable[[], None] | None = None,
        *,
        eight_bit: bool = False,
    ) -> Tensor:
        """Decode one point of a trajectory, correct its colours if this restorer does, and resample it.

        Args:
            trajectory: The result of `trajectory`.
            t: Control, or a map of it in the model's pixels, shape (scale * h, scale * w).
            size: Size of the result: the model's enlargement first, then one antialiased bicubic resampling.
            done: Called after each of the tiles that `tiles` counts.
            eight_bit: Round to the values of an 8-bit file, where tiles are joined: a fourth of the memory.

        Returns:
            RGB in [0, 1], or from 0 to 255 in uint8, shape (B, 3, H, W), by default (B, 3, scale * h, scale * w).
        """
        wanted = size.of(trajectory.lq.shape[-2], trajectory.lq.shape[-1], self.scale)
        if trajectory.space == "image":
            image = trajectory.between(t)
        else:
            self.model.check_control(t)
            plain = self.color == "none" and wanted == trajectory.size
            image = self._decode(trajectory, t, done, eight_bit=eight_bit and plain)
        if self.color != "none":
            image = correct(image, upsample(trajectory.lq, self.scale), self.color)
        image = image if wanted == trajectory.size else resize_bicubic(image, wanted)
        return to_levels(image) if eight_bit and image.dtype != torch.uint8 else image

    def _decode(
        self, trajectory: Trajectory, t: float | Tensor, done: Callable[[], None] | None, *, eight_bit: bool = False
    ) -> Tensor:
        """D(z(t)), clipped to [0, 1] or rounded to 8 bits, shape (B, 3, H, W)."""
        state, (height, width), factor = trajectory.state, trajectory.size, self.model.codec.factor
        if isinstance(t, Tensor) and t.dim() > 0:
            beyond = (state.shape[-2] * factor - height, state.shape[-1] * factor - width)
            t = F.pad(map_planes(t, trajectory.size, self.device), (0, beyond[1], 0, beyond[0]), mode="replicate")

        def point(window: Window) -> Tensor:
            control = window.crop(t, Fraction(factor)) if isinstance(t, Tensor) and t.dim() > 0 else t
            return self.model.at(window.crop(state), control)

        def finished(band: Tensor) -> Tensor:
            check_finite(band, half=self._half)
            return to_levels(band) if eight_bit else band.clamp_(0.0, 1.0)

        with self.computing():
            cover = self._decoder_tiles(*state.shape[-2:])
            return self._whole.blend(cover, point, Fraction(factor), done, finished)[..., :height, :width]

    def check_control(self, control: float | Tensor) -> None:
        """Refuse values of t that this restorer cannot restore at.

        Args:
            control: t, or a map of it.

        Raises:
            ValueError: If t leaves [0, 1], or the model takes other values of it (`RestorationModel.control_kind`); in
                the image's space a model with a slider takes maps too.
        """
        if self.space == "image" and self.controllable:
            check_range(extremes(control))
        else:
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
