"""Photographs that people have handed to a server: in memory, each known to its owner alone, within a bound."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from torch import Tensor

from ctsr_lightning.inference.photos import Photo
from ctsr_lightning.inference.settings import Color
from ctsr_lightning.inference.trajectory import Trajectory


class GoneError(KeyError):
    """A photo that is not held, or no longer."""

    def __str__(self) -> str:
        return "This photo is no longer held here. Drop it again."


@dataclass
class HeldPhoto:
    """A photo and what was computed of it.

    Args:
        name: Its file's name.
        data: Its file.
        photo: The photo.
        part: How it was made smaller, `shrink` or `middle`; empty for the whole.
        trajectory: Its path over t, once it is restored.
        seconds: How long that took.
        ends: Restorations at both ends of t as files that browsers show, and the seconds that decoding each took.
        color: Their correction of colours.
        dropped: Whether its owner has left.
    """

    name: str
    data: bytes
    photo: Photo
    part: str = ""
    trajectory: Trajectory | None = None
    seconds: float = 0.0
    ends: dict[float, tuple[bytes, float]] = field(default_factory=dict)
    color: Color | None = None
    dropped: bool = False

    def stop_if_dropped(self) -> None:
        """End what is computed on it once nobody waits for that any more.

        Raises:
            GoneError: If its owner has left.
        """
        if self.dropped:
            raise GoneError(self.name)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        tensors: list[Tensor | None] = [self.photo.colours, self.photo.picture.alpha]
        if self.photo.picture.colours is not self.photo.colours:
            tensors.append(self.photo.picture.colours)
        if self.trajectory is not None:
            tensors += [self.trajectory.state, self.trajectory.lq]
        files = len(self.data) + sum(len(file) for file, _ in self.ends.values())
        return files + sum(x.numel() * x.element_size() for x in tensors if x is not None)


class PhotoStore:
    """Photos by keys that nobody can guess; where they take too much, those unused for longest go.

    Args:
        limit: Bytes that they may take together; the last one used stays whatever it takes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[str, HeldPhoto] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, photo: HeldPhoto) -> str:
        """Hold a photo.

        Args:
            photo: The photo.

        Returns:
            Its key, 256 random bits.
        """
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._held[key] = photo
        self.make_room()
        return key

    def get(self, key: str) -> HeldPhoto:
        """A photo by its key.

        Args:
            key: From `add`.

        Raises:
            GoneError: If it is not held.
        """
        with self._lock:
            if key not in self._held:
                raise GoneError(key)
            self._held.move_to_end(key)
            return self._held[key]

    def drop(self, key: str) -> None:
        """Forget a photo, if it is held.

        Args:
            key: From `add`.
        """
        with self._lock:
            photo = self._held.pop(key, None)
        if photo is not None:
            photo.dropped = True

    def clear(self) -> None:
        """Forget all photos."""
        for key in list(self._held):
            self.drop(key)

    def make_room(self) -> None:
        """Forget photos unused for longest until the others are within the limit."""
        with self._lock:
            taken = sum(photo.size for photo in self._held.values())
            while taken > self.limit and len(self._held) > 1:
                _, photo = self._held.popitem(last=False)
                photo.dropped = True
                taken -= photo.size
