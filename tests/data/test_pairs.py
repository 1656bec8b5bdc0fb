"""Pairs of low-quality images and ground truth: folders, numbers, sizes."""

import shutil

import pytest
import torch

from ctsr_lightning.data.files import ImageCache, Skipped
from ctsr_lightning.data.pairing.folders import PairFolder, find_pairs
from ctsr_lightning.data.splits import find_files
from ctsr_lightning.images import write_image
from ctsr_lightning.images.index import SizeIndex
from helpers.drawn_photos import draw_photo
from helpers.reference import SHARED


def _found(folder, scale=4, least=1):
    index = SizeIndex(None, print)
    return find_files([], [folder], scale, least, ImageCache(0), Skipped(), verify=True, index=index)


def test_pairs_are_matched_by_stem(pairs):
    lq, gt = pairs
    found = find_pairs(PairFolder(lq, gt), 4, 48, Skipped())
    assert [pair.gt.key for pair in found] == [f"p{i}" for i in range(6)]
    assert all(pair.lq.path.stem == pair.gt.path.stem and not pair.upsampled for pair in found)
    assert found[0].native_size(4) == (12, 16)


def test_prefixes_and_suffixes_are_taken_off(pairs):
    lq, gt = pairs
    for path in list(lq.iterdir()):
        path.rename(lq / f"cam_{path.stem}_LR4.png")
    for path in list(gt.iterdir()):
        path.rename(gt / f"{path.stem}_HR.png")
    folder = PairFolder(lq, gt, lq_prefix="cam_", lq_suffix="_LR4", gt_suffix="_HR")
    notes = []
    assert [pair.gt.key for pair in find_pairs(folder, 4, 1, Skipped(), notes)] == [f"p{i}" for i in range(6)]
    assert not notes, "what the user has set is not worth a message"
    assert [pair.gt.key for pair in find_pairs(PairFolder(lq, gt), 4, 1, Skipped(), notes)] == [
        f"p{i}" for i in range(6)
    ]
    (note,) = notes
    assert note.startswith(
        "low-quality names carry the prefix 'cam_' and the suffix '_LR4', ground-truth names carry the"
    )
    assert note.endswith(f" suffix '_HR'; that is taken off to match '{lq}' with '{gt}'.")
    with pytest.raises(ValueError, match=r"0 pairs and 12 files .* set `lq_prefix`, `lq_suffix`, `gt_prefix`, `gt_suf"):
        find_pairs(PairFolder(lq, gt, lq_prefix="cam_"), 4, 1, Skipped())


def test_unreadable_half_takes_the_pair_out(pairs):
    lq, gt = pairs
    (lq / "p3.png").write_text("no image")
    skipped = Skipped()
    assert [pair.gt.key for pair in find_pairs(PairFolder(lq, gt), 4, 1, skipped)] == ["p0", "p1", "p2", "p4", "p5"]
    assert list(skipped.reasons) == [lq / "p3.png"]


@pytest.mark.parametrize(("upsampled", "scale", "message"), [(True, 4, "as large as"), (None, 2, "1/2 of the ground")])
def test_sizes_that_contradict_the_settings_are_refused(pairs, upsampled, scale, message):
    with pytest.raises(ValueError, match=message):
        find_pairs(PairFolder(*pairs, upsampled=upsampled), scale, 1, Skipped())


def test_upsampled_pairs_are_recognised_and_may_be_denied(pairs):
    _, gt = pairs
    large = shutil.copytree(gt, gt.parent / "large")
    assert all(pair.upsampled for pair in find_pairs(PairFolder(large, gt), 4, 1, Skipped()))
    with pytest.raises(ValueError, match=r"1/4 the size of the ground truth, as `upsampled: false`"):
        find_pairs(PairFolder(large, gt, upsampled=False), 4, 1, Skipped())
    assert not any(pair.upsampled for pair in find_pairs(PairFolder(large, gt), 1, 1, Skipped())), "scale 1 is native"


def test_truth_with_a_remainder_is_accepted(tmp_path):
    write_image(tmp_path / "gt" / "a.png", draw_photo(50, 67, 0))
    write_image(tmp_path / "lq" / "a.png", draw_photo(12, 16, 0))
    (pair,) = find_pairs(PairFolder(tmp_path / "lq", tmp_path / "gt"), 4, 1, Skipped())
    assert pair.native_size(4) == (12, 16)


@pytest.mark.parametrize(("height", "width"), [(13, 16), (12, 15), (11, 16)])
def test_sizes_a_few_pixels_off_are_refused(pairs, height, width):
    lq, gt = pairs
    write_image(lq / "p4.png", torch.rand(3, height, width))
    with pytest.raises(ValueError, match=rf"found 'p4.png' of {width}x{height} with 'p4.png' of 64x48 pixels"):
        find_pairs(PairFolder(lq, gt), 4, 1, Skipped())


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"lq": "a"}, "`lq`. Set either"),
        ({"gt": "a"}, "`gt`. Set either"),
        ({}, "none of them"),
        ({"lq": "a", "root": "b"}, "`lq` and `root`"),
        ({"lq": "a", "gt": "a", "root": "b"}, "`lq` and `gt` and `root`"),
        ({"root": "b", "count": 0}, "`count` of at least 1, or null, found 0"),
    ],
)
def test_folders_are_named_in_one_way(options, found):
    with pytest.raises(ValueError, match=rf"Expected .*found {found}|Expected {found}"):
        PairFolder(**options)


@pytest.mark.parametrize(("lq_name", "gt_name"), [("test_LR", "test_HR"), ("LR", "HR"), ("lq", "gt")])
def test_benchmarks_are_found_by_their_root(pairs, lq_name, gt_name):
    lq, gt = pairs
    root = lq.parent / "benchmark"
    shutil.move(lq, root / lq_name)
    shutil.move(gt, root / gt_name)
    found = find_pairs(PairFolder(root=str(root), count=6), 4, 1, Skipped())
    assert [(pair.lq.path.parent.name, pair.gt.path.parent.name) for pair in found] == [(lq_name, gt_name)] * 6
    assert not any(pair.upsampled for pair in found)


def test_enlarged_benchmarks_are_recognised(pairs):
    lq, gt = pairs
    root = lq.parent
    lq.rename(root / "test_LR")
    gt.rename(root / "test_HR")
    shutil.copytree(root / "test_HR", root / "test_SR_bicubic")
    assert not any(pair.upsampled for pair in find_pairs(PairFolder(root=root), 4, 1, Skipped())), "native ones win"
    shutil.rmtree(root / "test_LR")
    found = find_pairs(PairFolder(root=root, count=6), 4, 1, Skipped())
    assert all(pair.upsampled and pair.native_size(4) == (12, 16) for pair in found)


def test_ground_truth_alone_is_no_benchmark(pairs):
    lq, gt = pairs
    shutil.rmtree(lq)
    with pytest.raises(
        FileNotFoundError, match=r"low-quality images beside the ground truth 'gt' in .*test_LR with test"
    ):
        find_pairs(PairFolder(root=gt.parent), 4, 1, Skipped())


def test_a_wrong_number_of_pairs_is_refused(pairs):
    lq, gt = pairs
    root = lq.parent
    for count, found in ((7, "likely an incomplete download"), (5, "files of something else are among them")):
        with pytest.raises(ValueError, match=rf"Expected {count} pairs in '{root}', found 6, .*{found}"):
            find_pairs(PairFolder(root=root, count=count), 4, 1, Skipped())
    with pytest.raises(ValueError, match=rf"Expected 7 pairs in '{gt}', found 6"):
        find_pairs(PairFolder(lq, gt, count=7), 4, 1, Skipped())
    (lq / "p1.png").unlink()
    with pytest.raises(ValueError, match=r"1 file without a partner: 'p1.png' in"):
        find_pairs(PairFolder(root=root, count=6), 4, 1, Skipped())


@pytest.mark.parametrize("damage", ["text", "cut", "small"])
def test_a_benchmark_is_not_averaged_without_its_bad_files(pairs, damage):
    lq, gt = pairs
    path = gt / "p3.png"
    if damage == "small":
        write_image(path, draw_photo(40, 64, 0))
        write_image(lq / "p3.png", draw_photo(10, 16, 0))
    else:
        path.write_bytes(b"no image" if damage == "text" else path.read_bytes()[:-200])
    expected = r"all 6 pairs in .* to be usable, as `count` says. 1 of 12 files are left out: '\S*gt/p3.png': "
    with pytest.raises(ValueError, match=expected):
        _found(PairFolder(root=lq.parent, count=6), least=48)
    assert len(_found(PairFolder(lq, gt), least=48)) == 5, "without a number it is left out, and written down"


def test_bad_files_of_other_folders_do_not_matter(pairs, tmp_path):
    lq, gt = pairs
    other = tmp_path / "other"
    for folder in (lq, gt):
        shutil.copytree(folder, other / folder.name)
    (other / "lq" / "p0.png").write_text("no image")
    folders, index = [PairFolder(lq, gt, count=6), PairFolder(root=other)], SizeIndex(None, print)
    files = find_files([], folders, 4, 1, ImageCache(0), Skipped(), verify=True, index=index)
    assert len(files) == 11


@pytest.mark.reference
def test_real_pairs_are_all_matched():
    skipped = Skipped()
    assert len(find_pairs(PairFolder(SHARED / "data/realsr/lq", SHARED / "data/realsr/gt"), 4, 512, skipped)) == 100
    assert not skipped.reasons
