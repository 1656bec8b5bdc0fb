"""Devices: by name, the precisions that they multiply, and their names in records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def torch_device(accelerator: str) -> str:
    """The device that Lightning's name of an accelerator means.

    Args:
        accelerator: auto, cpu, gpu, cuda or mps.
    """
    return {"gpu": "auto"}.get(accelerator, accelerator)


def computes_bfloat16(accelerator: str) -> bool:
    """Whether a device multiplies bfloat16 natively; where it is emulated, float32 is as fast or faster.

    Args:
        accelerator: Lightning's name of it: auto, cpu, gpu, cuda or mps.
    """
    import torch

    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator not in {"auto", "cpu"} or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def describe_device(device: torch.device) -> str:
    """A device for the record of a measurement: the model of a GPU, or the number of threads on a CPU.

    Args:
        device: The device.
    """
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {device}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else str(device)


def pick_device(name: str | torch.device) -> torch.device:
    """Find a device.

    Args:
        name: `auto` for CUDA, else Apple's MPS, else the CPU; or a torch device such as `cuda:1`.

    Raises:
        ValueError: If it is not there.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        found = [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), "cpu"]
        raise ValueError(
            f"The device '{name}' cannot be used ({str(error).splitlines()[0]}). Expected auto or one of "
            f"{', '.join(found)}."
        ) from error
    return torch.empty(0, device=device).device
