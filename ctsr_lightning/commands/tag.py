"""`ctsr tag`: texts for images, by a recognition network."""

# Annotations are not postponed here: to resolve them for `--help`, jsonargparse would import torch.
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ctsr_lightning.commands.jobs import summary
from ctsr_lightning.commands.output import result, tell
from ctsr_lightning.configs import find_config
from ctsr_lightning.progress import progress
from ctsr_lightning.share import own_device

if TYPE_CHECKING:
    from torch import Tensor

    from ctsr_lightning.prompts.taggers import ImageTagger

INTERVAL = 10.0
"""Seconds after which the caption file is written again."""


class Tagged(NamedTuple):
    """An image to tag: its key, and the image in [0, 1], shape (1, 3, h, w), or what is wrong with it."""

    key: str
    image: "Tensor | None"
    problem: str = ""


def tag(
    folder: str | Path | None = None,
    /,
    output: str | Path = "captions.json",
    ram: str | Path | None = None,
    dape: str | Path | None = None,
    tagger: str | None = None,
    data: str | Path | None = None,
    scale: int | None = None,
    template: str = "{tags}",
    overwrite: bool = False,
    device: str = "auto",
) -> int:
    """Write tags of images to a caption file, which trainings (CaptionPrompt) and --prompt read.

    OSEDiff and the paper train with RAM's tags of the ground truth, and restore with DAPE's (RAM adapted to degraded
    images) of the low-quality image. Images are named as the data and `ctsr upscale` name them: by the path below the
    folder, without suffix. Those that the file names already keep their text, so an interrupted run can be repeated and
    a second folder added. Images that cannot be read are named and skipped; the exit code is then 1.

    Ground truth of a training, for configs/prompt/captions.yaml:
        ctsr tag photos/ --ram ram_swin_large_14m.pth --output captions.json
    Low-quality images, to restore them:
        ctsr tag lq/ --ram ram_swin_large_14m.pth --dape DAPE.pth --template "{tags}, ," --output lq.json
        ctsr upscale lq/ restored/ --checkpoint runs/stage2/last.ckpt --prompt lq.json
    Those of a test set, under the names of its pairs, to evaluate on it:
        ctsr tag --data data/realsr.yaml --ram ram_swin_large_14m.pth --dape DAPE.pth --output realsr.json
        ctsr evaluate --data data/realsr.yaml --checkpoint runs/stage2/last.ckpt --prompt realsr.json

    Args:
        folder: Folder of images, searched recursively.
        output: The caption file: JSON, or lines of image<TAB>text with the suffix .tsv or .txt.
        ram: RAM's weights, ram_swin_large_14m.pth; the package `ram` has to be installed.
        dape: DAPE's weights over RAM's, DAPE.pth.
        tagger: Another tagger in place of RAM: the path of an ImageTagger's class, such as my_package.MyTagger, or a
            YAML file with its class_path and init_args.
        data: Data configuration whose test set's low-quality images are tagged, in place of a folder.
        scale: Bicubic enlargement of what the tagger sees: by default that of the data, 4 with --dape (as OSEDiff's
            test program shows it the image), else 1.
        template: The text around the tags; OSEDiff restores with "{tags}, ,".
        overwrite: Tag images anew that the file names already.
        device: auto, cpu, cuda, cuda:1, mps.

    Returns:
        0, or 1 if an image could not be read.
    """
    if (folder is None) == (data is None):
        raise ValueError(f"Expected a folder of images or --data FILE, found folder={folder}, data={data}.")
    if scale is not None and scale < 1:
        raise ValueError(f"Expected --scale of at least 1, found {scale}.")
    output = Path(output).expanduser()

    from ctsr_lightning.inference.devices import pick_device
    from ctsr_lightning.prompts.captions import CAPTION_SUFFIXES, read_captions, write_captions
    from ctsr_lightning.prompts.taggers import check_template, tagged_texts

    if output.suffix.lower() not in CAPTION_SUFFIXES:
        raise ValueError(f"Expected an --output ending in {', '.join(sorted(CAPTION_SUFFIXES))}, found '{output}'.")
    check_template(template)
    there = read_captions(output) if output.exists() else {}
    known: Mapping[str, str] = {} if overwrite else there
    total, images, enlargement = _of_data(data) if data is not None else _of_folder(Path(str(folder)), known)
    scale = scale or enlargement or (4 if dape is not None else 1)
    network, place = _tagger(ram, dape, tagger), pick_device(own_device(device))
    captions, counts, seconds, written = dict(there), Counter[str](), 0.0, time.monotonic()
    with progress() as bar:
        try:
            for key, image, problem in bar.track(images, total=total, description="tagging"):
                if key in known:
                    counts["there"] += 1
                elif image is None:
                    counts["failed"] += 1
                    bar.console.print(f"ctsr: skipped: {problem}", markup=False, highlight=False, soft_wrap=True)
                else:
                    start = time.perf_counter()
                    captions[key] = tagged_texts(network, image.to(place), template, scale)[0]
                    seconds += time.perf_counter() - start
                    counts["tagged"] += 1
                    if time.monotonic() - written > INTERVAL:
                        write_captions(output, captions)
                        written = time.monotonic()
        finally:
            if counts["tagged"]:
                write_captions(output, captions)
    tell(summary(counts, "tagged", seconds, output))
    result(output=output, tagged=counts["tagged"], there=counts["there"], failed=counts["failed"], seconds=seconds)
    return 1 if counts["failed"] else 0


def _tagger(ram: str | Path | None, dape: str | Path | None, tagger: str | None) -> "ImageTagger":
    """Build the tagger that the options name.

    Raises:
        ValueError: If they name none or two, or it cannot be built.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from ctsr_lightning.prompts.taggers import ImageTagger, RAMTagger

    if (ram is None) == (tagger is None) or (dape is not None and ram is None):
        raise ValueError(
            "Expected a tagger: --ram FILE, with --dape FILE for low-quality images, or --tagger CLASS; found "
            f"ram={ram}, dape={dape}, tagger={tagger}."
        )
    if ram is not None:
        return RAMTagger(Path(ram), None if dape is None else Path(dape))
    named = str(find_config(str(tagger))) if str(tagger).endswith((".yaml", ".yml")) else str(tagger)
    parser = ArgumentParser(parser_mode="omegaconf", exit_on_error=False)
    parser.add_subclass_arguments(ImageTagger, "tagger", required=True)
    try:
        built: ImageTagger = parser.instantiate(parser.parse_args(["--tagger", named])).tagger
    except ArgumentError as error:
        raise ValueError(
            f"Expected the class of an ImageTagger, or a YAML file with class_path and init_args, in --tagger, found "
            f"'{tagger}': {error}"
        ) from error
    return built


def _of_folder(folder: Path, known: Mapping[str, str]) -> tuple[int, Iterator[Tagged], None]:
    """The number of images below a folder, the images, and no enlargement; known ones are not read."""
    from ctsr_lightning.images import read_image
    from ctsr_lightning.images.listing import list_names, named_path, stem, suffix, unique_keys

    root = named_path(folder)
    names = list_names(root)
    keys = unique_keys([stem(name) for name in names], [root] * len(names), [suffix(name) for name in names])
    found = [(key, root / name) for key, name in zip(keys, names, strict=True)]

    def images() -> Iterator[Tagged]:
        for key, path in found:
            if key in known:
                yield Tagged(key, None)
                continue
            try:
                yield Tagged(key, read_image(path)[None])
            except (OSError, ValueError) as error:
                yield Tagged(key, None, str(error))

    return len(found), images(), None


def _of_data(data: str | Path) -> tuple[int, Iterator[Tagged], int]:
    """The number of images of a configuration's test set, the low-quality images, and the enlargement."""
    from ctsr_lightning.evaluation.measuring import load_batches, load_images
    from ctsr_lightning.evaluation.setup import load_data

    module = load_data(data)
    total = load_images(module)
    images = (Tagged(batch.key[0], batch.lq) for batch in load_batches(module, range(total)))
    left_out = (Tagged("", None, remark) for remark in module.remarks.values())
    return total, (tagged for part in (images, left_out) for tagged in part), module.scale
