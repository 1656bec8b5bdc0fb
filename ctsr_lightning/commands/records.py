"""What the results of `ctsr upscale` say about how they were made, and what those that are there already say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ctsr_lightning.commands.jobs import Job
from ctsr_lightning.files import file_hash
from ctsr_lightning.inference.settings import AUTO, OWN_SIZE, OutputSize, Space

MISSING: Final = "missing"
"""State of a result that is to be written."""
DONE: Final = "done"
"""State of a result that is there, made as it would be made now."""


@dataclass(frozen=True)
class Settings:
    """What determines a result beside the image.

    Args:
        controls: Values of t, one per result.
        model: What tells the model from others.
        color: Correction of colours.
        precision: Type to compute in.
        profile: What becomes of a colour profile.
        strip: Leave metadata out.
        overwrite: Replace results that are there.
        prompt: The prompt of an image by its key, in one word.
        size: Size of the result.
        space: Where t acts.
        control_map: `auto`, or the file of a map of t; None for the numbers in `controls`.
        save_map: Write that map beside the result.
        page: Write a page for each image as well.
    """

    controls: tuple[float, ...]
    model: str
    color: str
    precision: str
    profile: str
    strip: bool
    overwrite: bool
    prompt: Callable[[str], str]
    size: OutputSize = OWN_SIZE
    space: Space = "latent"
    control_map: str | Path | None = None
    save_map: bool = False
    page: bool = False

    def record(self, t: float, job: Job) -> str:
        """What a result says about how it was made, in words that `unlike` compares.

        Args:
            t: The control.
            job: The image.

        Raises:
            OSError: If the image cannot be read.
        """
        return (
            f"ctsr t={self._control(t)} size={self.size} space={self.space} model={self.model} color={self.color} "
            f"precision={self.precision} profile={self.profile} "
            f"strip={'yes' if self.strip else 'no'} prompt={self.prompt(job.key)} source={file_hash(job.source)[:16]}"
        )

    def _control(self, t: float) -> str:
        if self.control_map is None:
            return repr(t)
        return AUTO if self.control_map == AUTO else f"map:{file_hash(Path(self.control_map))[:16]}"

    def states(self, job: Job) -> list[str]:
        """State of each result of an image: `MISSING`, `DONE`, or how else it was made."""
        return [self._state(t, target, job) for t, target in zip(self.controls, job.targets, strict=True)]

    def _state(self, t: float, target: Path, job: Job) -> str:
        from ctsr_lightning.images import read_record

        try:
            there = not self.overwrite and target.exists()
            return unlike(read_record(target), self.record(t, job)) if there else MISSING
        except OSError:  # reading the image, or writing, will tell what is wrong
            return MISSING


def unlike(found: str | None, wanted: str) -> str:
    """`DONE` for a result that was made as it would be made now, or else how it was.

    Args:
        found: What the file says; None if it says nothing.
        wanted: What it would say now.
    """
    if found == wanted:
        return DONE
    then, now = (dict(word.partition("=")[::2] for word in (text or "").split()) for text in (found, wanted))
    if "t" not in then:
        return "and does not say how it was made"
    other = [name for name in now if then.get(name) != now[name]]
    if "source" in other:
        return "made from another image"
    shown = (f"{name} {unquote(then.get(name, 'unknown'))} in place of {unquote(now[name])}" for name in other)
    return "made with " + ", ".join(shown)
