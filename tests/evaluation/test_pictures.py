"""The picture of a comparison: a row for each image, a column for each method."""

import pytest
import torch

from ctsr_lightning.evaluation.methods import Method, Restoration
from ctsr_lightning.evaluation.pictures import GAP, LETTERS, Examples
from ctsr_lightning.images import read_image

KINDS = (("bicubic", "bicubic"), ("T_f", "teacher"), ("blend α=0.50", "blend"), ("t=0.00", "ctsr"))


def show(examples, sizes):
    """Images whose columns are told apart by their grey level."""
    for number, (height, width) in enumerate(sizes):
        examples.begin(number, torch.full((1, 3, height // 4, width // 4), 0.1 * number))
        for level, (label, kind) in zip((0.2, 0.4, 0.9, 0.6), KINDS, strict=True):
            examples.add(Restoration(Method(label, kind), torch.full((1, 3, height, width), level), 0.0))
        examples.end(torch.full((1, 3, height, width), 0.8))


def test_columns_are_input_methods_and_ground_truth_without_blends(tmp_path):
    examples = Examples(count=2, side=64)
    show(examples, [(64, 64), (80, 96), (64, 64)])
    assert examples.write(tmp_path / "examples.png")
    picture = read_image(tmp_path / "examples.png")
    assert picture.shape == (3, 2 * LETTERS + 2 * (64 + GAP) - GAP, 5 * (64 + GAP) - GAP)
    for row in range(2):
        middle = 2 * LETTERS + row * (64 + GAP) + 32
        levels = [picture[0, middle, column * (64 + GAP) + 32].item() for column in range(5)]
        assert levels == pytest.approx([0.1 * row, 0.2, 0.4, 0.6, 0.8], abs=2 / 255)


def test_columns_have_their_names_above_them(tmp_path):
    examples = Examples(count=1, side=64)
    show(examples, [(64, 64)])
    examples.write(tmp_path / "examples.png")
    header = read_image(tmp_path / "examples.png")[:, : 2 * LETTERS]
    for column in range(5):
        assert header[..., column * (64 + GAP) : column * (64 + GAP) + 64].min() < 0.3  # letters, dark on white


def test_the_middle_is_shown_and_small_images_decide(tmp_path):
    examples = Examples(count=2, side=64)
    for number, (height, width) in enumerate(((96, 96), (32, 48))):
        gt = torch.zeros(1, 3, height, width)
        gt[..., height // 2 - 16 : height // 2 + 16, width // 2 - 24 : width // 2 + 24] = 1.0
        examples.begin(number, torch.zeros(1, 3, height // 4, width // 4))
        examples.end(gt)
    examples.write(tmp_path / "examples.png")
    picture = read_image(tmp_path / "examples.png")
    assert picture.shape[-2:] == (2 * LETTERS + 2 * (32 + GAP) - GAP, 2 * (48 + GAP) - GAP)
    assert picture[:, 2 * LETTERS : 2 * LETTERS + 32, 48 + GAP :].min() == 1.0


def test_images_are_spread(tmp_path):
    examples = Examples(count=2, every=3, side=64)
    show(examples, [(64, 64)] * 7)
    examples.write(tmp_path / "examples.png")
    picture = read_image(tmp_path / "examples.png")
    shown = [picture[0, 2 * LETTERS + row * (64 + GAP) + 32, 32].item() for row in range(2)]
    assert shown == pytest.approx([0.0, 0.3], abs=2 / 255)


def test_no_images_no_picture(tmp_path):
    examples = Examples(count=0)
    show(examples, [(64, 64)])
    assert not examples.write(tmp_path / "examples.png")
    assert not list(tmp_path.iterdir())
