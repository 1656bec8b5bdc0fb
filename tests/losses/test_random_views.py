"""Random views: both images are looked at in the same way, and patterns do not survive many views."""

import pytest
import torch
from torch.nn import functional as F

from ctsr_lightning.losses.random_views import random_symmetry, random_view

MANY = 40


@pytest.fixture
def images():
    return torch.rand(2, 3, 3, 32, 48, dtype=torch.float64)


def view(images, seed):
    return random_view(*images, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(MANY))
def test_both_images_are_seen_alike(images, seed):
    same = view((images[0], images[0].clone()), seed)
    assert torch.equal(*same)
    restored, gt = view(images, seed)
    assert restored.shape == gt.shape == same[0].shape
    assert torch.equal(restored, same[0])
    assert 0.0 <= restored.min() <= restored.max() <= 1.0


def test_a_seed_is_a_view_and_seeds_differ(images):
    assert torch.equal(view(images, 3)[0], view(images, 3)[0])
    seen = [view(images, seed)[0] for seed in range(MANY)]
    shapes = {tuple(x.shape[-2:]) for x in seen}
    assert any(h > w for h, w in shapes)
    assert any(h < w for h, w in shapes)
    assert min(min(shape) for shape in shapes) >= 14
    assert max(max(shape) for shape in shapes) <= 48


def test_colours_change_places_and_contrast():
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1.0
    brightest = {
        int(random_view(red, red, torch.Generator().manual_seed(s))[0].mean((0, 2, 3)).argmax()) for s in range(MANY)
    }
    assert brightest == {0, 1, 2}


def test_gradients_reach_the_restored_image(images):
    restored = images[0].requires_grad_()
    for seed in range(8):
        seen, gt = random_view(restored, images[1], torch.Generator().manual_seed(seed))
        (gradient,) = torch.autograd.grad((seen - gt).square().sum(), restored)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_a_view_of_a_smooth_image_is_the_image_in_other_words(images):
    """Mirroring, turning and shifting keep the spread of an image; colours may only lose contrast."""
    smooth = F.interpolate(images[0][..., ::8, ::8], scale_factor=8, mode="bicubic").clamp(0, 1)
    for seed in range(MANY):
        seen = view((smooth, smooth), seed)[0]
        assert seen.std() < 1.3 * smooth.std()
        assert seen.std() > 0.3 * smooth.std()


def test_symmetries_are_the_eight_of_the_square_and_alike_for_all():
    small = torch.arange(9.0).view(1, 1, 3, 3)
    large = F.interpolate(small, scale_factor=2)
    seen = set()
    for seed in range(MANY):
        x, y = random_symmetry([small, large], torch.Generator().manual_seed(seed))
        assert torch.equal(y, F.interpolate(x, scale_factor=2))
        seen.add(tuple(x.flatten().tolist()))
    expected = [torch.rot90(image, k, (-1, -2)) for image in (small, small.flip(-1)) for k in range(4)]
    assert seen == {tuple(x.flatten().tolist()) for x in expected}
