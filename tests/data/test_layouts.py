"""Where benchmarks keep their images."""

import re

import pytest

from ctsr_lightning.data.pairing.layouts import LAYOUTS, benchmark_folders, gt_folder, known_layouts


@pytest.fixture
def made(tmp_path):
    """Makes folders of a benchmark."""

    def make(*names):
        for name in names:
            (tmp_path / name).mkdir(parents=True)
        return tmp_path

    return make


@pytest.mark.parametrize(("lq", "gt"), [*LAYOUTS, ("lr", "hr"), ("LQ", "GT"), ("Test_lr", "test_hr")])
def test_known_layouts_are_found(made, lq, gt):
    root = made(lq, gt, "results")
    assert benchmark_folders(str(root)) == (root / lq, root / gt)
    assert gt_folder(str(root)) == root / gt


def test_native_images_win_over_enlarged_ones(made):
    root = made("test_SR_bicubic", "test_LR", "test_HR")
    assert benchmark_folders(root) == (root / "test_LR", root / "test_HR")


def test_ground_truth_may_stand_alone(made):
    root = made("HR", "results")
    assert benchmark_folders(root) == (None, root / "HR")
    assert gt_folder(root) == root / "HR"


def test_a_whole_benchmark_wins_over_ground_truth_alone(made):
    root = made("gt", "LR", "HR")
    assert benchmark_folders(root) == (root / "LR", root / "HR")


def test_several_truths_are_refused(made):
    root = made("lq", "gt", "LR", "HR")
    for find in (benchmark_folders, gt_folder):
        with pytest.raises(ValueError, match=r"Expected one folder of ground truth in .*, found HR and gt"):
            find(root)


@pytest.mark.parametrize(
    ("names", "found"), [((), "found no folder"), (("lq", "truth"), "found the folders lq, truth. "),
                         ([f"f{i}" for i in range(9)], r"found the folders f0, .*, f7 \.\.\.")]
)  # fmt: skip
def test_unknown_layouts_are_listed(made, names, found):
    root = made(*names)
    with pytest.raises(FileNotFoundError, match=rf"folders of a benchmark in .*{re.escape(known_layouts())}.*{found}"):
        benchmark_folders(root)
    assert gt_folder(root) == root, "its images may lie deeper"


def test_a_folder_of_images_is_the_ground_truth_itself(made):
    root = made("gt", "lq")
    (root / ".hidden.png").touch()
    assert gt_folder(root) == root / "gt"
    (root / "a.PNG").touch()
    assert gt_folder(root) == root
    assert benchmark_folders(root) == (root / "lq", root / "gt")


@pytest.mark.parametrize("find", [benchmark_folders, gt_folder])
def test_missing_folders_are_refused(tmp_path, find):
    (tmp_path / "file").touch()
    for name, found in (("missing", "nothing"), ("file", "a file")):
        with pytest.raises(FileNotFoundError, match=f"Expected a folder at '.*{name}', found {found}"):
            find(tmp_path / name)
