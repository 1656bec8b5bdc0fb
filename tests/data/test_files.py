"""Which files are usable, and their names."""

import numpy as np
import pytest
import torch
from PIL import Image

from ctsr_lightning.data.files import (
    ImageCache,
    Skipped,
    decodable,
    to_tensor,
)
from ctsr_lightning.data.pairing.folders import PairFolder, find_pairs
from ctsr_lightning.data.splits import Files, Source, hold_out
from ctsr_lightning.images import image_size, read_image, write_image
from ctsr_lightning.images.samples import train_samples, val_samples
from helpers.found import found_files, found_photos


def _usable(folder, least=1):
    skipped = Skipped()
    return found_photos(folder, least=least, skipped=skipped), skipped


def test_keys_are_paths_below_the_folder(photos):
    usable, skipped = _usable(photos)
    assert [file.key for file in usable] == [*(f"{i:02d}" for i in range(10)), "sub/10", "sub/11"]
    assert {(file.height, file.width) for file in usable} == {(48, 64)}
    assert (skipped.total, skipped.reasons, skipped.unnamed) == (12, {}, 0)


def test_equal_names_are_told_apart(tmp_path):
    for name in ("one/a.png", "two/a.png", "one/b.png", "one/b.jpg"):
        write_image(tmp_path / name, torch.rand(3, 4, 4))
    keys = [file.key for file in found_files(tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.png").photos]
    assert len(set(keys)) == len(keys)
    assert {"two/a", "one/b.jpg", "one/b.png"} <= set(keys)


def test_small_and_unreadable_files_are_written_down(photos):
    write_image(photos / "small.png", torch.rand(3, 20, 64))
    (photos / "text.jpg").write_text("no image")
    usable, skipped = _usable(photos, least=32)
    assert len(usable) == 12
    assert skipped.total == 14
    message = skipped.message("photos", shown=1)
    assert message.startswith("2 of 14 photos are left out: '")
    assert message.endswith("small.png': 64x20 pixels, less than the 32 needed; and 1 more.")
    assert "unreadable" in skipped.reasons[photos / "text.jpg"]


def test_damage_shows_when_decoding(photos):
    path = photos / "00.png"
    path.write_bytes(path.read_bytes()[:-200])
    usable, skipped = _usable(photos)
    assert [decodable(file, ImageCache(0), skipped) for file in usable] == [False, *[True] * 11]
    assert "damaged" in skipped.reasons[path]


def test_cache_keeps_what_fits(photos):
    size = 48 * 64 * 3
    cache = ImageCache(2 * size)
    paths = sorted(photos.glob("*.png"))
    first = cache.pixels(paths[0])
    cache.pixels(paths[1])
    assert cache.free == 0
    assert cache.pixels(paths[0]) is first
    assert cache.pixels(paths[2]) is not cache.pixels(paths[2])
    assert torch.equal(to_tensor(first), read_image(paths[0]))
    usable, _ = _usable(photos)
    assert not cache.fits(usable)
    assert cache.fits([usable[0], usable[1]]), "they are kept already"


def test_deep_images_are_kept_deep(tmp_path):
    levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(levels).save(tmp_path / "deep.png")
    pixels = ImageCache(2**20).pixels(tmp_path / "deep.png")
    assert torch.equal(to_tensor(pixels), read_image(tmp_path / "deep.png"))
    tensor = to_tensor(pixels)
    tensor.zero_()
    assert pixels.max() > 0, "what is handed out is a copy"


def test_holding_out_depends_on_names_only(photos):
    files = _files(photos)
    train, held = hold_out(files, 3, 16)
    assert (len(train), len(held)) == (10, 2), "at most a fifth"
    assert not train.paths & held.paths
    source = files.sources[0]
    again = hold_out(Files([source.take(range(len(source))[::-1])]), 3, 16)[1]
    assert held.photos == again.photos
    assert len(hold_out(files, 1, 16)[1]) == 1
    assert hold_out(files, 0, 16) == (files, Files())


def _files(folder):
    return Files([Source("photos", _usable(folder)[0])])


def test_holding_out_pairs_where_there_are_no_photos(pairs):
    files = Files([Source("pairs", pairs=find_pairs(PairFolder(*pairs), 4, 1, Skipped()))])
    train, held = hold_out(files, 8, 16)
    assert (len(train.pairs), len(held.pairs)) == (5, 1)


def test_holding_out_needs_enough_images(photos):
    one = Files([_files(photos).sources[0].take([0])])
    for files, least in ((one, 16), (_files(photos), 64)):
        with pytest.raises(ValueError, match="Expected enough images to hold out"):
            hold_out(files, 8, least)


def test_sample_photos_are_there_and_apart():
    train, val = train_samples(), val_samples()
    assert (len(train), len(val)) == (8, 2)
    assert not set(train) & set(val)
    assert min(min(image_size(path)) for path in [*train, *val]) == 300


def test_missing_scikit_image_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "ctsr-lightning\[demo\]"'):
        train_samples()
