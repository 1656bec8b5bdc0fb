"""A model's passes as graphs of any height and width, for torch.export and ONNX."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from ctsr_lightning.codecs.codec import signed_to_unit, unit_to_signed
from ctsr_lightning.diffusion.parametrization import to_clean
from ctsr_lightning.images import upsample
from ctsr_lightning.inference.restorer import Restorer
from ctsr_lightning.models import OneStepStudent, TradeOff
from ctsr_lightning.networks.denoiser import run_unet

MANIFEST: Final = "restorer.json"
"""What a program has to know about the graphs."""
NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra `export`."""
TRACED: Final = (3, 4)
"""Height and width that a graph is traced at, in the least input; other sizes are compared with."""
COMPARED: Final = (5, 2)
"""Height and width that graphs are compared at."""

Run = Callable[[Mapping[str, Tensor]], Tensor]


class Graph(NamedTuple):
    """A pass of a model."""

    name: str
    """Its name, and that of its file."""
    module: nn.Module
    """The pass."""
    inputs: tuple[str, ...]
    """Names of its inputs, in order."""
    output: str
    """Name of its output."""


class _Encoder(nn.Module):
    """z_L = E(image), the image in [0, 1]."""

    def __init__(self, student: OneStepStudent) -> None:
        super().__init__()
        self.codec = student.codec

    def forward(self, image: Tensor) -> Tensor:
        return self.codec.encode(unit_to_signed(image))


class _Student(nn.Module):
    """z_0 from z_L: the one step and, with `reencode`, E(D(ẑ)) after it."""

    alpha_bar: Tensor
    embedding: Tensor | None

    def __init__(self, student: OneStepStudent, embedding: Tensor | None, reencode: bool) -> None:
        super().__init__()
        self.unet, self.codec, self.reencode = student.unet, student.codec, reencode
        self.prediction, self.residual, self.timestep = student.prediction, student.residual, student.timestep
        alpha_bar = student.schedule.alpha_bar(torch.tensor([student.timestep]), torch.zeros(1, 1, 1, 1))
        self.register_buffer("alpha_bar", alpha_bar.float())
        self.register_buffer("embedding", embedding)

    def forward(self, lq_latent: Tensor) -> Tensor:
        timestep = torch.full((1,), self.timestep, device=lq_latent.device)
        output = run_unet(self.unet, lq_latent, timestep, self.embedding)
        clean = to_clean(output, lq_latent, self.alpha_bar, self.prediction)
        latent = lq_latent - output if self.residual else clean
        if not self.reencode:
            return latent
        return self.codec.encode(unit_to_signed(signed_to_unit(self.codec.decode(latent)).clamp(0.0, 1.0)))


class _Velocity(nn.Module):
    """v(z_0, 0, c)."""

    embedding: Tensor | None

    def __init__(self, model: TradeOff, embedding: Tensor | None) -> None:
        super().__init__()
        self.field = model.velocity
        self.register_buffer("embedding", embedding)

    def forward(self, latent: Tensor, lq_latent: Tensor | None = None) -> Tensor:
        zero = torch.zeros(1, device=latent.device)
        velocity: Tensor = self.field(latent, zero, self.embedding, latent if lq_latent is None else lq_latent)
        return velocity


class _Decoder(nn.Module):
    """x = D(z), clipped to [0, 1]."""

    def __init__(self, student: OneStepStudent) -> None:
        super().__init__()
        self.codec = student.codec

    def forward(self, latent: Tensor) -> Tensor:
        return signed_to_unit(self.codec.decode(latent)).clamp(0.0, 1.0)


def graphs(restorer: Restorer) -> list[Graph]:
    """The passes of a model: encoder, student, velocity of a stage-2 model, decoder.

    Args:
        restorer: The model, on the CPU.

    Raises:
        ValueError: If it is of another kind, draws random numbers, or its prompt differs from image to image.
    """
    model = restorer.model
    student = model.student if isinstance(model, TradeOff) else model
    if not isinstance(student, OneStepStudent):
        raise ValueError(  # noqa: TRY004  # the model is another, not the call
            f"Expected a model of one step (OneStepStudent, TradeOff) for graphs, found {type(student).__name__}. Use "
            "--format folder or safetensors."
        )
    if student.sample_latent:
        raise ValueError("Expected a model without random numbers for graphs, found `sample_latent: true`. Set false.")
    if student.prompt.varies:
        raise ValueError(
            f"Expected a prompt that is the same for every image, found {type(student.prompt).__name__}: a graph holds "
            "one embedding. Give a text by --prompt."
        )
    reencode = isinstance(model, TradeOff) and model.z0_source == "reencode"
    if reencode and student.base_codec is not None:
        raise ValueError(
            "Expected a model with one encoder for graphs, found `z0_source: reencode` with adapters on the encoder, "
            "which z_0 is encoded without. Use Restorer.save_pretrained."
        )
    prompt = student.prompt(torch.zeros(1, 3, 8, 8))
    embedding = None if prompt is None else prompt.detach().float().clone()
    found = [
        Graph("encoder", _Encoder(student), ("image",), "lq_latent"),
        Graph("student", _Student(student, embedding, reencode), ("lq_latent",), "latent"),
    ]
    if isinstance(model, TradeOff):
        conditioned = model.velocity.lq_projection is not None
        inputs = ("latent", "lq_latent") if conditioned else ("latent",)
        found.append(Graph("velocity", _Velocity(model, embedding), inputs, "velocity"))
    return [*found, Graph("decoder", _Decoder(student), ("latent",), "restored")]


def write_torch(restorer: Restorer, folder: Path) -> dict[str, Run]:
    """Write a model's passes as programs of torch.export, `NAME.pt2`.

    Args:
        restorer: The model, on the CPU.
        folder: An empty folder.

    Returns:
        The passes by name, as they were read again.

    Raises:
        ValueError: As `graphs`.
    """
    found = graphs(restorer)
    for graph, program in _programs(restorer, found):
        with _quiet():
            torch.export.save(program, folder / f"{graph.name}.pt2")
    _write_manifest(restorer, folder, found, "pt2", ("torch",))

    def load(graph: Graph) -> Run:
        with _quiet():
            module = torch.export.load(folder / f"{graph.name}.pt2").module()
        return lambda inputs: module(*(inputs[name] for name in graph.inputs))

    return {graph.name: load(graph) for graph in found}


def write_onnx(restorer: Restorer, folder: Path) -> dict[str, Run]:
    """Write a model's passes as ONNX, `NAME.onnx`.

    Args:
        restorer: The model, on the CPU.
        folder: An empty folder.

    Returns:
        The passes by name, as onnxruntime computes what was written.

    Raises:
        ImportError: If a package is not there.
        ValueError: As `graphs`.
    """
    require_onnx()
    import onnxruntime

    found = graphs(restorer)
    for graph, program in _programs(restorer, found):
        with _quiet():
            exported = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=list(graph.inputs), output_names=[graph.output]
            )
        assert exported is not None
        exported.save(folder / f"{graph.name}.onnx")
    _write_manifest(restorer, folder, found, "onnx", ("torch", *NEEDED))

    def load(graph: Graph) -> Run:
        session = onnxruntime.InferenceSession(folder / f"{graph.name}.onnx", providers=["CPUExecutionProvider"])
        return lambda inputs: torch.from_numpy(
            session.run(None, {name: inputs[name].numpy() for name in graph.inputs})[0]
        )

    return {graph.name: load(graph) for graph in found}


def require_onnx() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        ImportError: If one is not there.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ImportError(
            f"Expected the packages {', '.join(NEEDED)} for --format onnx, found no {', no '.join(missing)}. Install "
            "them: pip install 'ctsr-lightning[export]'."
        )


def restore(runs: Mapping[str, Run], lq: Tensor, scale: int, control: float) -> Tensor:
    """Restore by the passes of a model, without tiles.

    Args:
        runs: The passes by name.
        lq: Low-quality image in [0, 1], shape (1, 3, h, w).
        scale: Enlargement.
        control: t; without a velocity 0.
    """
    lq_latent = runs["encoder"]({"image": upsample(lq, scale)})
    latent = runs["student"]({"lq_latent": lq_latent})
    if control and "velocity" in runs:
        latent = latent + control * runs["velocity"]({"latent": latent, "lq_latent": lq_latent})
    return runs["decoder"]({"latent": latent})


def multiple(restorer: Restorer) -> int:
    """Pixels that the sides of a low-quality image are to be a multiple of."""
    return restorer.model.multiple // math.gcd(restorer.model.multiple, restorer.scale)


@torch.no_grad()
def _programs(restorer: Restorer, found: list[Graph]) -> Iterator[tuple[Graph, Any]]:
    """Each graph with its program, traced on a small image of random pixels."""
    dim = torch.export.Dim.AUTO
    height, width = (multiple(restorer) * count for count in TRACED)
    lq = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    known: dict[str, Tensor] = {"image": upsample(lq, restorer.scale)}
    for graph in found:
        graph.module.eval()
        inputs = tuple(known[name] for name in graph.inputs)
        with _quiet():
            program = torch.export.export(graph.module, inputs, dynamic_shapes=tuple({2: dim, 3: dim} for _ in inputs))
        known[graph.output] = graph.module(*inputs)
        yield graph, program


def _write_manifest(
    restorer: Restorer, folder: Path, found: list[Graph], suffix: str, packages: tuple[str, ...]
) -> None:
    """Tell what a program has to know about the graphs."""
    manifest = {
        "scale": restorer.scale,
        "multiple": multiple(restorer),
        "control": restorer.model.control_kind,
        "graphs": {
            graph.name: {"file": f"{graph.name}.{suffix}", "inputs": list(graph.inputs), "output": graph.output}
            for graph in found
        },
        "versions": {name: version(name) for name in packages},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context the exporters do not tell of their own passes."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
