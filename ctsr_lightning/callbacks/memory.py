"""Memory of a training: every network with its weights, shared ones counted once, and the peak."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from diffusers import ModelMixin
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import LatentCodec
from ctsr_lightning.inference.devices import peak_memory, reset_peak_memory
from ctsr_lightning.metrics.base import PerceptualDistance
from ctsr_lightning.networks.frozen import Frozen
from ctsr_lightning.tables import markdown_table

WHOLE: Final = (ModelMixin, LatentCodec, PerceptualDistance)
"""Networks with a row of their own; modules around them are opened up."""

PER_TRAINABLE: Final = 3
"""Copies of what is trained: its gradient and AdamW's two moments."""

HEADER: Final = ("component", "class", "parameters", "trainable", "separate MB", "held MB", "training MB")


@dataclass(frozen=True)
class Component:
    """A network of a training. Memory is in bytes."""

    name: str
    """Where it is: `student.unet`, `realness.codec`, `reconstruction.perceptual`."""
    kind: str
    """Its class."""
    parameters: int
    """Number of its weights, shared or not."""
    trainable: int
    """Number of trained weights."""
    separate: int
    """Memory of its weights and buffers without sharing."""
    held: int
    """Memory that it adds to the components before it: what they share counts at the first."""
    training: int
    """Gradients and AdamW's state of what is trained here first: an estimate, in the weights' precision."""


class MemorySummary(Callback):
    """Prints a table of all networks of a training or test, and after a training its peak memory.

    Unlike Lightning's `ModelSummary` it also sees the networks that are used and never trained, which are most of what
    a stage holds, and tells what sharing the base (`load_unet(share=True)`) spares. TensorBoard gets the table as the
    text `memory/components` and the peak as `memory/peak_gb`. The peak is that of the first process: of its GPU as
    torch allocates it, or of the whole process without one. Networks of callbacks (metrics) are in the peak alone.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table and begin to measure."""
        self._show(trainer, pl_module)
        device = trainer.strategy.root_device  # where the module is about to be moved
        if device.type == "cuda":
            reset_peak_memory(device)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table."""
        self._show(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print and log the peak."""
        del pl_module
        device = trainer.strategy.root_device
        peak = peak_memory(device)
        if peak is None:
            return
        rank_zero_info(f"Peak memory of the training ({device.type}): {peak / 1e9:.2f} GB.")
        for logger in trainer.loggers:
            logger.log_metrics({"memory/peak_gb": peak / 1e9}, trainer.global_step)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rows = table(components(pl_module))
        rank_zero_info("Networks in memory:\n" + as_text(rows))
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_text"):
                experiment.add_text("memory/components", markdown_table(rows[0], rows[1:]), trainer.global_step)


def components(module: nn.Module) -> list[Component]:
    """The networks of a training in the order in which they are registered, also those inside `Frozen`.

    Args:
        module: The training.
    """
    parts = [part for part in _parts(module, ()) if any(isinstance(t, nn.Parameter) for t in part[2])]
    short = [".".join(name for name in path if name not in {"teachers", "frozen"}) for path, _, _ in parts]
    seen: set[int] = set()
    found = []
    for (path, kind, tensors), brief in zip(parts, short, strict=True):
        name = brief if short.count(brief) == 1 else ".".join(name for name in path if name != "teachers")
        weights = [t for t in tensors if isinstance(t, nn.Parameter)]
        trained = [t for t in weights if t.requires_grad]
        found.append(
            Component(
                name,
                kind.__name__,
                parameters=sum(t.numel() for t in weights),
                trainable=sum(t.numel() for t in trained),
                separate=_bytes(tensors),
                held=_bytes(t for t in tensors if id(t) not in seen),
                training=PER_TRAINABLE * _bytes(t for t in trained if id(t) not in seen),
            )
        )
        seen.update(id(t) for t in tensors)
    return found


def table(rows: list[Component]) -> list[tuple[str, ...]]:
    """Header, one row per component and the totals, as words.

    Parameters add up as they do without sharing; what sharing leaves of them is in the memory held.

    Args:
        rows: The components.
    """
    numbers = [(r.parameters, r.trainable, r.separate, r.held, r.training) for r in rows]
    names = [(r.name, r.kind) for r in rows] + [("total", "")]
    totals = tuple(sum(row[i] for row in numbers) for i in range(5))
    return [
        HEADER,
        *(
            (*name, *(f"{n:,}" for n in row[:2]), *(f"{n / 1e6:,.1f}" for n in row[2:]))
            for name, row in zip(names, [*numbers, totals], strict=True)
        ),
    ]


def as_text(rows: list[tuple[str, ...]]) -> str:
    """A table in aligned columns, words at the left and numbers at the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    formats = [f"{{:{'<' if i < 2 else '>'}{width}}}" for i, width in enumerate(widths)]
    return "\n".join("  ".join(formats).format(*row) for row in rows)


def _parts(module: nn.Module, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type, list[Tensor]]]:
    """Place, class and tensors of the rows below a module that is opened up."""
    if own := _tensors(module, recurse=False):
        yield path or ("own",), type(module), own
    for name, child in module.named_children():
        inner = child.network if isinstance(child, Frozen) else child
        if not isinstance(inner, WHOLE) and any(isinstance(m, WHOLE) for m in _below(inner)):
            yield from _parts(inner, (*path, name))
        else:
            yield (*path, name), type(inner), _tensors(inner)


def _below(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all in it, also inside `Frozen`."""
    for child in module.modules():
        yield child
        if isinstance(child, Frozen):
            yield from _below(child.network)


def _tensors(module: nn.Module, recurse: bool = True) -> list[Tensor]:
    """Parameters and buffers of a module, and of all in it, each once."""
    modules = _below(module) if recurse else [module]
    found = {id(t): t for m in modules for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))}
    return list(found.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
