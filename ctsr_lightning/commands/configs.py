"""`ctsr configs`: the configurations that come with the package."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
from pathlib import Path
from shutil import copytree

from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.configs import configs_folder


def configs(output: str | Path | None = None, /) -> int:
    """List the configurations that come with the package, or copy them to a folder to be changed.

    Example:
        ctsr configs my_configs && ctsr fit --config my_configs/nano/stage1.yaml

    Args:
        output: The folder to copy to; it must not exist, or be empty. Without it they are listed.

    Returns:
        0.
    """
    source = configs_folder()
    if output is None:
        titles = dict[str, str]()
        for file in sorted(source.rglob("*.yaml")):
            title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
            titles[file.relative_to(source).as_posix()] = title
            tell(f"{file.relative_to(source).as_posix():<36} {title}")
        result(folder=source, configs=titles)
        tell(f"\nctsr fit --config NAME takes them by name. They are in '{source}'; ctsr configs FOLDER copies them.")
        return 0
    folder = Path(output).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"Expected a new or empty folder at '{folder}', found files there. Name another one.")
    copytree(source, folder, dirs_exist_ok=True)
    count = sum(1 for _ in folder.rglob("*.yaml"))
    tell(f"→ {folder} ({count} files)")
    result(output=folder, files=count)
    return 0
