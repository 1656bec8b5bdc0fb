"""What the page of `ctsr serve` does with photographs, without a word about the web."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from torch import Tensor

from ctsr_lightning.images import (
    Picture,
    encode_image,
    image_size,
    over_white,
    read_picture,
    resize_bicubic,
    upsample,
    write_picture,
)
from ctsr_lightning.inference.devices import synchronize
from ctsr_lightning.inference.photos import Photo
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.inference.settings import Color
from ctsr_lightning.inference.trajectory import Trajectory
from ctsr_lightning.serve.painted import Painted
from ctsr_lightning.serve.photos import HeldPhoto, PhotoStore

Part = Literal["", "shrink", "middle"]
"""The whole of a photo, the whole made smaller, or its middle."""
LARGEST: Final = 50_000_000
"""Pixels of a photo beyond which it is not even decoded to be made smaller."""
EXACT: Final = 1 << 22
"""Restorations of up to this many pixels are shown as PNG, larger ones as JPEG; downloads are not concerned."""

Record = Callable[[Path, str, float | str, Color], str]
"""What a download says about how it was made, of its source file, the name for prompts, t or the name of a map, and
the colour correction."""


class TooLargeError(ValueError):
    """A photo with more pixels than are restored at once, which could be made smaller."""


class Studio:
    """Restores photos of several people with one model, one pass after another.

    Args:
        restorer: The model.
        record: What downloads say about how they were made.
        max_bytes: Largest file.
        max_pixels: Largest photo that is restored.
        memory: Bytes that photos may take together.
    """

    def __init__(
        self, restorer: Restorer, record: Record, *, max_bytes: int, max_pixels: int, memory: int = 1 << 31
    ) -> None:
        self.restorer, self.record = restorer, record
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self.store = PhotoStore(memory)
        self._reading, self._computing = threading.Lock(), threading.Lock()

    @property
    def paintable(self) -> bool:
        """Whether t may differ from place to place."""
        return self.restorer.model.control_kind == "map"

    def close(self) -> None:
        """Forget all photos and end what is computed on them: a process that ended amid a tile would abort."""
        self.store.clear()
        with self._computing:
            pass

    def take(self, data: bytes, name: str, part: Part = "") -> str:
        """Read a photo and hold it.

        Args:
            data: Its file.
            name: Its file's name.
            part: How to make it smaller, if it has more pixels than are restored.

        Returns:
            Its key.

        Raises:
            TooLargeError: If it has too many pixels, and no part is named.
            ValueError: If it is no image, or has more bytes or pixels than are read.
        """
        if len(data) > self.max_bytes:
            raise ValueError(f"Expected a file of at most {self.max_bytes / 1e6:g} MB, found {len(data) / 1e6:.1f} MB.")
        if part not in get_args(Part):
            raise ValueError(f"Expected a part, one of shrink and middle, found '{part}'.")
        with self._reading, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / safe_name(name)
            path.write_bytes(data)
            try:
                picture = self._read(path, part)
            except (ValueError, OSError) as error:
                raise type(error)(str(error).replace(f"{folder}/", "")) from error
        return self.store.add(HeldPhoto(safe_name(name), data, Photo.of(picture), part))

    def _read(self, path: Path, part: Part) -> Picture:
        height, width = image_size(path)
        pixels, most = height * width, self.max_pixels
        found = f"{width} × {height} pixels, {pixels / 1e6:.1f} million"
        if pixels > LARGEST:
            raise ValueError(f"'{path.name}' has {found}. Photos of up to {LARGEST / 1e6:g} million are read here.")
        if pixels > most and not part:
            raise TooLargeError(
                f"'{path.name}' has {found}. Up to {most / 1e6:g} million are enlarged here; `ctsr upscale` takes any."
            )
        picture = read_picture(path)
        return smaller(picture, part, most) if pixels > most else picture

    def describe(self, key: str) -> dict[str, Any]:
        """What the page shows of a photo at first.

        Args:
            key: The photo.
        """
        held = self.store.get(key)
        height, width = held.photo.colours.shape[-2:]
        scale = self.restorer.scale
        return {
            "id": key, "name": held.name, "width": scale * width, "height": scale * height,
            "input": [width, height], "notes": list(held.photo.picture.notes),
        }  # fmt: skip

    def restore(self, key: str, color: Color = "none") -> Iterator[dict[str, Any]]:
        """Run the networks on a photo and decode both ends of t, as far as that was not done.

        Args:
            key: The photo.
            color: Correction of colours.

        Yields:
            Tiles `done` of `total`, and `seconds` so far.

        Raises:
            GoneError: If it is not held, or its owner leaves.
        """
        held = self.store.get(key)
        rows, columns = held.photo.colours.shape[-2:]
        ends = (0.0, 1.0) if self.restorer.controllable else (0.0,)
        total = self.restorer.tiles(rows, columns, len(ends) if held.color != color else 0)
        if held.trajectory is not None:
            total -= self.restorer.tiles(rows, columns, 0)
        done = 0
        ticks = queue.SimpleQueue[BaseException | bool]()

        def tick() -> None:
            held.stop_if_dropped()
            ticks.put(True)

        def work() -> None:
            try:
                with self._computing:
                    tick()
                    start = time.perf_counter()
                    if held.trajectory is None:
                        held.trajectory = self.restorer.trajectory(held.photo.colours, [Path(held.name).stem], tick)
                        synchronize(self.restorer.device)
                        held.seconds = time.perf_counter() - start
                    if held.color != color:
                        found = {t: self._point(held, held.trajectory, t, color, tick) for t in ends}
                        held.ends = {t: (self._shown(image), seconds) for t, (image, seconds) in found.items()}
                        held.color = color
                self.store.make_room()
                ticks.put(False)
            except BaseException as error:  # raised again where the photo was asked for
                ticks.put(error)

        threading.Thread(target=work, daemon=True).start()
        start = time.perf_counter()
        while (last := ticks.get()) is True:
            yield {"done": min(done, total), "total": total, "seconds": time.perf_counter() - start}
            done += 1
        if isinstance(last, BaseException):
            raise last
        yield {"done": total, "total": total, "seconds": held.seconds}

    def enlarged(self, key: str) -> bytes:
        """The input enlarged by bicubic interpolation, as a file.

        Args:
            key: The photo.
        """
        held = self.store.get(key)
        return self._shown(held.photo.restored(upsample(held.photo.colours[None], self.restorer.scale)[0]))

    def image(self, key: str, t: float, color: Color, painted: Painted | None = None) -> tuple[bytes, float]:
        """A restoration as a file that browsers show, and the seconds that decoding it took.

        Args:
            key: The photo, restored.
            t: The control.
            color: Correction of colours.
            painted: A map of it; None for the same t everywhere.
        """
        held = self.store.get(key)
        if painted is None and held.color == color and t in held.ends:
            return held.ends[t]
        picture, seconds = self._decode(held, t, color, painted)
        return self._shown(picture), seconds

    def file(
        self, key: str, suffix: Literal["png", "jpg"], t: float, color: Color, painted: Painted | None = None
    ) -> tuple[str, bytes, list[str]]:
        """A restoration as `ctsr upscale` writes it.

        Args:
            key: The photo, restored.
            suffix: Format of the file.
            t: The control.
            color: Correction of colours.
            painted: A map of it; None for the same t everywhere.

        Returns:
            Name of the file, its bytes, and notes about what it cannot hold.
        """
        if suffix not in {"png", "jpg"}:
            raise ValueError(f"Expected a download as png or jpg, found '{suffix}'.")
        held = self.store.get(key)
        picture, _ = self._decode(held, t, color, painted)
        stem = Path(held.name).stem
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / held.name, Path(folder) / f"result.{suffix}"
            source.write_bytes(held.data)
            record = self.record(source, stem, painted.name if painted else t, color)
            notes = write_picture(target, picture, f"{record}:{held.part}" if held.part else record)
            return f"{stem}.{suffix}", target.read_bytes(), notes

    def _decode(self, held: HeldPhoto, t: float, color: Color, painted: Painted | None) -> tuple[Picture, float]:
        if held.trajectory is None:
            raise ValueError("Expected a restored photo, found one whose restoration has not ended. Wait for it.")
        control = t if painted is None else painted.control(t, held.trajectory.size)
        with self._computing:
            return self._point(held, held.trajectory, control, color, held.stop_if_dropped)

    def _point(
        self,
        held: HeldPhoto,
        trajectory: Trajectory,
        control: float | Tensor,
        color: Color,
        done: Callable[[], None],
    ) -> tuple[Picture, float]:
        start = time.perf_counter()
        self.restorer.color = color
        image = self.restorer.decode(trajectory, control, done=done)[0].cpu()
        return held.photo.restored(image), time.perf_counter() - start

    def _shown(self, picture: Picture) -> bytes:
        image = picture.colours if picture.alpha is None else over_white(picture.colours, picture.alpha)
        exact = image.shape[-2] * image.shape[-1] <= EXACT
        return encode_image(image, "png" if exact else "jpeg", picture.metadata.profile)


def safe_name(name: str) -> str:
    """A file's name without folders and without letters that file systems do not take, of at most 100.

    Args:
        name: As the browser tells it.
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter for letter in last if letter.isprintable() and letter not in '<>:"|?*').strip(" .")
    stem, dot, suffix = kept.rpartition(".")
    return f"{stem[:90]}{dot}{suffix[:9]}" if stem else kept[:100] or "photo"


def smaller(picture: Picture, part: Part, pixels: int) -> Picture:
    """A picture with fewer pixels of the same proportions.

    Args:
        picture: The picture.
        part: `shrink` for all of it, by antialiased bicubic resampling, or `middle`.
        pixels: How many it may have.
    """
    rows, columns = picture.colours.shape[-2:]
    factor = (pixels / (rows * columns)) ** 0.5
    height, width = max(1, int(rows * factor)), max(1, int(columns * factor))
    top, left = (rows - height) // 2, (columns - width) // 2

    def reduced(planes: Tensor) -> Tensor:
        if part == "shrink":
            return resize_bicubic(planes[None], (height, width))[0]
        return planes[..., top : top + height, left : left + width].clone()

    what = "made smaller" if part == "shrink" else "cut to its middle"
    notes = (*picture.notes, f"it was {what}, {width} × {height} of its {columns} × {rows} pixels")
    alpha = None if picture.alpha is None else reduced(picture.alpha)
    return replace(picture, colours=reduced(picture.colours), alpha=alpha, notes=notes)
