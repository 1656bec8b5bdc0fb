"""Devices: by name, the precisions that they multiply, and their names in records."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

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
    return any(bool(_cpu_capabilities().get(name)) for name in _INSTRUCTIONS["bfloat16"])


_INSTRUCTIONS: Final = {"bfloat16": ("avx512_bf16", "amx_bf16"), "float16": ("avx512_fp16", "amx_fp16")}


def _cpu_capabilities() -> dict[str, object]:
    import torch

    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return found


def cpu_emulates(half: Literal["bfloat16", "float16"]) -> bool:
    """Whether the CPU is known to have no instructions for a half-precision type, in which float32 is then faster.

    Args:
        half: The type.
    """
    found = _cpu_capabilities()
    return found.get("architecture") == "x86_64" and not any(found.get(name) for name in _INSTRUCTIONS[half])


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


def synchronize(device: torch.device) -> None:
    """Wait until a device has done its work, so that times are those of the work.

    Args:
        device: The device.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): sets the peak of resident memory to what is resident now


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes since `reset_peak_memory`: allocated on a GPU by this process, else resident.

    Args:
        device: The device.

    Returns:
        The peak; None where the system does not count it, as Windows without a GPU.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu" or sys.platform == "win32":
        return None
    if _STATUS.is_file():  # Linux: unlike ru_maxrss, not the peak of the process that started this one
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_memory(device: torch.device) -> None:
    """Count the peak from now on, where the system allows it.

    Args:
        device: The device.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with suppress(OSError):  # no Linux, or not allowed: the peak is then that of the whole run so far
            _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
