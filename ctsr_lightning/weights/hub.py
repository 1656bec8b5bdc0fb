"""Folders of published models: on disk, in the hub's cache, or fetched from the hub once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

PATIENCE: Final = 5.0
"""Seconds without a response after which this machine counts as offline."""


def model_folder(path: str, wanted: Sequence[str], weights: Sequence[str], what: str) -> Path:
    """Find the folder of a model, or download the needed files from the hub.

    A hub id that is in the cache already is read from there without asking the hub, so a training that has run once
    runs again without network, on the same files.

    Args:
        path: A local folder, or a hub id `owner/name`.
        wanted: Small files, patterns below the folder; the first has to be there, the rest may be.
        weights: Patterns of weight files, best first; only the first kind that the hub has is fetched.
        what: Description of the model, for messages.

    Raises:
        FileNotFoundError: If there is no such folder, or no such model in reach.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise FileNotFoundError(
            f"Expected a model folder in diffusers' layout at '{path}', found nothing (current directory: "
            f"'{Path.cwd()}'). Give such a folder with {what}, or a hub id (owner/name)."
        )
    folder = _download(path, [*wanted, *weights], cached=True)
    if folder is not None and (folder / wanted[0]).is_file() and first_match(folder, weights):
        return folder
    if not _reachable():
        raise FileNotFoundError(
            f"Could not load {what} from '{path}': no such folder here (current directory: "
            f"'{Path.cwd()}'), and as a hub id it is neither in the hub's cache nor can the hub be reached. "
            "Fetch the model on a machine with network and give its folder, correct the path, or copy the hub's cache "
            "(HF_HOME) here."
        )
    for pattern in weights:
        folder = _download(path, [*wanted, pattern], cached=False)
        if folder is not None and first_match(folder, [pattern]):
            return folder
    raise FileNotFoundError(
        f"Could not load {what} from '{path}': the hub's model of this name has none of {', '.join(weights)}, or may "
        "not be read without signing in. Stability's own copies of Stable Diffusion 2 are gone; name another copy."
    )


def first_match(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Files of the first pattern that has any, sorted."""
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _download(name: str, patterns: Sequence[str], *, cached: bool) -> Path | None:
    """The snapshot of a model with some of its files; None if it cannot be had."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), local_files_only=cached))
    except (OSError, ValueError):  # every failure of the hub is an OSError; a malformed id is a ValueError
        return None


def _reachable() -> bool:
    """Whether the hub responds at all; its own client would retry every single file for half a minute."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:  # the client behind the session, and with it the exception, differs between versions
        return False
    return True
