"""`ctsr serve`: a page in the browser, for one's own photos."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import importlib.util
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ctsr_lightning.commands.jobs import Job
from ctsr_lightning.commands.options import load_restorer, model_identity, prompt_words
from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.commands.records import Settings
from ctsr_lightning.inference.settings import Color, Precision


def serve(
    checkpoint: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    tile: int | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    color: Color = "none",
    prompt: str | None = None,
    max_mb: float = 50.0,
    max_pixels: int = 1_000_000,
    memory_mb: float = 2048.0,
) -> int:
    """Restore photos in the browser: drop one, drag the divider, choose t by a slider, download the result.

    While the slider moves, the browser blends both ends of t; where it rests, the exact restoration takes their place.
    Models that take maps can be told by a brush where to be faithful and where realistic. Downloads are what ctsr
    upscale writes. Photos are held in memory until their page is closed, nothing is kept on disk, and the page loads
    nothing from elsewhere. It ends with Ctrl-C.

    Example:
        ctsr serve --checkpoint runs/stage2

    Args:
        checkpoint: A checkpoint, a model folder or a hub id; without it, nano, the model that comes with this package.
        host: Address to listen at. By default this machine alone reaches it; 0.0.0.0 is for all that reach the machine,
            and nobody is asked for a password.
        port: Port to listen at.
        tile: Side of a tile in input pixels; by default 768 output pixels, 0 never tiles.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: Type to compute in.
        color: Correction of colours that the page begins with: none, adain or wavelet.
        prompt: Text for every image in place of the model's own prompt, or a caption file.
        max_mb: Largest file that is taken, in MB.
        max_pixels: Largest photo that is enlarged; larger ones can be made smaller on the page.
        memory_mb: Memory for photos, in MB; where they need more, those unused for longest are forgotten.

    Returns:
        0.

    Raises:
        ImportError: If Gradio is not installed.
        ValueError: If the port is taken, or a limit is not above 0.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError(
            "Expected Gradio, which `ctsr serve` needs, found none. Run `pip install 'ctsr-lightning[serve]'`."
        )
    for name, value in (("max_mb", max_mb), ("max_pixels", max_pixels), ("memory_mb", memory_mb)):
        if value <= 0:
            raise ValueError(f"Expected a --{name} above 0, found {value}.")
    from ctsr_lightning.inference.pretrained import describe_model
    from ctsr_lightning.serve.running import LOOPBACK, serving
    from ctsr_lightning.serve.studio import Studio

    restorer = load_restorer(checkpoint, tile=tile, device=device, precision=precision, color=color, prompt=prompt)
    studio = Studio(
        restorer,
        recorder(checkpoint, precision, prompt),
        max_bytes=int(max_mb * 1e6),
        max_pixels=max_pixels,
        memory=int(memory_mb * 1e6),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and leaves nothing behind either
    with serving(studio, f"CTSR: {describe_model(restorer.source)}", host, port) as url:
        everyone = "" if host in LOOPBACK else ", open to all that reach this machine"
        tell(f"Serving at {url}{everyone}; Ctrl-C ends it.")
        result(url=url)
        threading.Event().wait()
    return 0


def recorder(
    checkpoint: str | Path | None, precision: Precision, prompt: str | None
) -> Callable[[Path, str, float | str, Color], str]:
    """What downloads say about how they were made: the same as the results of `ctsr upscale`.

    Args:
        checkpoint: Name of the model.
        precision: Type to compute in.
        prompt: A text, or a caption file.

    Returns:
        A function of the source file, its key, t or the name of a map, and the colour correction.
    """
    base = Settings(
        (0.0,), model_identity(checkpoint), "none", precision, "srgb", strip=False, overwrite=False,
        prompt=prompt_words(prompt),
    )  # fmt: skip

    def record(source: Path, key: str, control: float | str, color: Color) -> str:
        number = 0.0 if isinstance(control, str) else control
        text = replace(base, color=color).record(number, Job(source, (), key))
        return text.replace(f"t={number!r} ", f"t={control} ", 1) if isinstance(control, str) else text

    return record
