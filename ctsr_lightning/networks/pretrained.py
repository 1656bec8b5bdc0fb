"""Weights that this package has trained, and the UNet at laptop size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ctsr_lightning.networks.weight_file import differences, named_tensors, read_file

_search_roots: ContextVar[tuple[Path, ...]] = ContextVar("search_roots", default=())


@contextmanager
def searching(*roots: Path) -> Iterator[None]:
    """Within this context relative weight paths are looked up below these folders first, in this order.

    A model and the files that it builds on are found together so, whatever files of the same names the current
    directory holds.
    """
    token = _search_roots.set(roots)
    try:
        yield
    finally:
        _search_roots.reset(token)


def find_weights(path: str | Path) -> Path:
    """Find a weight file: below the folders of `searching`, else as given.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If it is in none of them.
    """
    wanted = Path(path).expanduser()
    candidates = [*(root / wanted for root in _search_roots.get() if not wanted.is_absolute()), wanted]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"Expected a weight file (.safetensors, .ckpt or .pkl) at '{wanted}', found "
        f"{'a folder' if wanted.is_dir() else 'nothing'} (current directory: '{Path.cwd()}'). "
        "Run the training that writes it first, or correct the path."
    )


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file or of a Lightning checkpoint, without executing anything.

    A checkpoint that carries an exponential moving average answers with the averages in place of the raw weights.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is neither of the two formats.
    """
    found = find_weights(path)
    if found.suffix == ".safetensors":
        return named_tensors(read_file(found, "a safetensors file"), "a safetensors file", found)
    checkpoint = read_checkpoint(found)
    state: dict[str, Tensor] = dict(checkpoint["state_dict"])
    state.update(averages(checkpoint))
    return state


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a Lightning checkpoint with `weights_only=True`.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a Lightning checkpoint, or is damaged.
    """
    found = find_weights(path)
    checkpoint: dict[str, Any] = read_file(found, "a Lightning checkpoint or safetensors file")
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"Expected a Lightning checkpoint at '{found}', found a file without a 'state_dict'.")
    return checkpoint


def averages(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The moving averages that the EMA callback left in a checkpoint, by parameter name; empty without one."""
    for name, state in checkpoint.get("callbacks", {}).items():
        if name.split("{")[0].rsplit(".", maxsplit=1)[-1] == "EMA":
            return dict(state.get("averages", {}))
    return {}


def load_weights(module: nn.Module, path: str | Path, prefix: str = "", *, only_trainable: bool = False) -> None:
    """Load weights into a module, strictly.

    Args:
        module: The module to fill.
        path: A safetensors file or a Lightning checkpoint.
        prefix: Keys below this prefix are taken, without it: `student.unet.` fills a UNet from a stage's checkpoint.
        only_trainable: The file holds only those weights that require a gradient (adapters on a frozen base).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If names or shapes differ; the message lists the first differences.
    """
    state = {k.removeprefix(prefix): v for k, v in read_state(path).items() if k.startswith(prefix)}
    wanted = {k: v.shape for k, v in module.state_dict().items()}
    if only_trainable:
        names = {k for k, p in module.named_parameters() if p.requires_grad}
        wanted = {k: s for k, s in wanted.items() if k in names}
    if problems := differences(state, wanted):
        raise ValueError(
            f"The weights '{path}' (keys below '{prefix}') do not fit {type(module).__name__}: {problems}. "
            "Use the configuration that the weights were trained with, or another file."
        )
    module.load_state_dict(state, strict=not only_trainable)


def nano_unet(
    latent_channels: int = 12,
    in_channels: int | None = None,
    widths: tuple[int, ...] = (32, 64, 96),
    layers: int = 1,
    weights: Path | None = None,
    prefix: str = "student.unet.",
) -> UNet2DConditionModel:
    """Build diffusers' UNet at laptop size: convolutions only, no prompt.

    Args:
        latent_channels: Channels of its output.
        in_channels: Channels of its input; null for as many as the output.
        widths: Channels per resolution, each a multiple of 8.
        layers: Residual blocks per resolution.
        weights: A checkpoint or safetensors file to start from.
        prefix: Where in that file the UNet is.
    """
    unet = UNet2DConditionModel(
        in_channels=in_channels or latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        mid_block_type=None,
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=8,  # no block attends to it
    )
    if weights is not None:
        load_weights(unet, weights, prefix=prefix)
    return unet
