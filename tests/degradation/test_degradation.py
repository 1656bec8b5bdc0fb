"""The recipe: presets are the published tables, plans are plain, applying is deterministic."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctsr_lightning.degradation.plan import BicubicPlan, KernelPlan
from ctsr_lightning.degradation.recipe import (
    KERNELS,
    Degradation,
    DegradationOrder,
    bicubic,
    light,
    mixed,
    realesrgan,
)
from ctsr_lightning.images import quantize


def _photo(height=64, width=96, seed=0):
    rough = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(rough, scale_factor=8, mode="bicubic").clamp(0, 1)


def _plans(recipe, count, scale=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [recipe.sample(generator, scale) for _ in range(count)]


def test_realesrgan_is_the_published_table():
    first, second = realesrgan().first, realesrgan().second
    assert first == DegradationOrder(
        blur_prob=1.0,
        kernel_size=(7, 21),
        kernel_prob=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        sinc_prob=0.1,
        sigma=(0.2, 3.0),
        beta_generalized=(0.5, 4.0),
        beta_plateau=(1.0, 2.0),
        resize_prob=(0.2, 0.7, 0.1),
        resize_range=(0.15, 1.5),
        gaussian_noise_prob=0.5,
        gaussian_sigma=(1.0, 30.0),
        poisson_scale=(0.05, 3.0),
        grey_noise_prob=0.4,
        jpeg_quality=(30.0, 95.0),
    )
    assert second == replace(
        first,
        blur_prob=0.8,
        sigma=(0.2, 1.5),
        resize_prob=(0.3, 0.4, 0.3),
        resize_range=(0.3, 1.2),
        gaussian_sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
    )
    assert vars(realesrgan()) == vars(Degradation())
    assert (realesrgan().final_sinc_prob, realesrgan().jpeg_last_prob) == (0.8, 0.5)


def test_light_is_milder_in_every_range():
    for heavy, mild in zip((realesrgan().first, realesrgan().second), (light().first, light().second), strict=True):
        assert mild.gaussian_sigma[1] < heavy.gaussian_sigma[1]
        assert mild.poisson_scale[1] < heavy.poisson_scale[1]
        assert mild.jpeg_quality[0] > heavy.jpeg_quality[0]
        assert mild.resize_range[0] > heavy.resize_range[0]
    assert light().second.blur_prob == 0.5


def test_draws_follow_their_probabilities():
    plans = _plans(realesrgan(), 4000)
    count = len(plans)

    def share(condition):
        return sum(map(condition, plans)) / count

    tolerance = 4 * math.sqrt(0.25 / count)
    assert share(lambda p: p.jpeg_last) == pytest.approx(0.5, abs=tolerance)
    assert share(lambda p: p.kernel is not None) == pytest.approx(0.8, abs=tolerance)
    assert share(lambda p: p.second.kernel is not None) == pytest.approx(0.8, abs=tolerance)
    assert share(lambda p: p.first.kernel.family == "sinc") == pytest.approx(0.1, abs=tolerance)
    assert share(lambda p: p.first.noise.kind == "gaussian") == pytest.approx(0.5, abs=tolerance)
    assert share(lambda p: p.first.noise.grey) == pytest.approx(0.4, abs=tolerance)
    assert share(lambda p: p.first.factor < 1.0) == pytest.approx(0.7, abs=tolerance)
    assert share(lambda p: p.first.factor == 1.0) == pytest.approx(0.1, abs=tolerance)
    for mode in ("area", "bilinear", "bicubic"):
        assert share(lambda p, mode=mode: p.first.mode == mode) == pytest.approx(1 / 3, abs=tolerance)
    for (family, isotropic), probability in zip(KERNELS, realesrgan().first.kernel_prob, strict=True):

        def drawn(plan, family=family, isotropic=isotropic):
            kernel = plan.first.kernel
            return kernel.family == family and (kernel.sigma_x == kernel.sigma_y) == isotropic

        assert share(drawn) == pytest.approx(0.9 * probability, abs=tolerance)


def test_draws_stay_in_their_ranges():
    for plan in _plans(realesrgan(), 1000):
        assert {plan.first.kernel.size % 2, 7 <= plan.first.kernel.size <= 21} == {1}
        assert 0.2 <= plan.first.kernel.sigma_x <= 3.0
        assert 0.15 <= plan.first.factor <= 1.5
        assert 30 <= plan.first.quality <= 95
        low, high = {"gaussian": (1.0, 30.0), "poisson": (0.05, 3.0)}[plan.first.noise.kind]
        assert low <= plan.first.noise.level <= high
        if plan.first.kernel.family == "sinc":
            lowest = math.pi / 3 if plan.first.kernel.size < 13 else math.pi / 5
            assert lowest <= plan.first.kernel.cutoff <= math.pi
        if plan.kernel is not None:
            assert math.pi / 3 <= plan.kernel.cutoff <= math.pi
    sizes = {plan.first.kernel.size for plan in _plans(realesrgan(), 500)}
    assert sizes == {7, 9, 11, 13, 15, 17, 19, 21}


def test_half_of_the_shapes_are_below_one():
    recipe = Degradation(first=DegradationOrder(kernel_prob=(0, 0, 1, 0, 0, 0), sinc_prob=0.0))
    betas = np.array([plan.first.kernel.beta for plan in _plans(recipe, 1000)])
    assert np.mean(betas < 1) == pytest.approx(0.5, abs=0.07)
    assert 0.5 <= betas.min() < 1 < 3 < betas.max() <= 4


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("preset", [realesrgan, light])
def test_size_is_that_of_gt_over_scale(preset, scale):
    gt = _photo(48, 72)
    lq = preset().apply(gt.expand(4, -1, -1, -1), _plans(preset(), 4, scale))
    assert lq.shape == (4, 3, 48 // scale, 72 // scale)
    np.testing.assert_array_equal(lq, quantize(lq))


def test_indivisible_size_is_refused():
    with pytest.raises(ValueError, match="divisible by the scale 4, found 98x64"):
        realesrgan().apply(torch.rand(1, 3, 64, 98), _plans(realesrgan(), 1))


def test_same_plan_gives_same_bits_alone_in_a_batch_and_on_more_threads():
    gt = torch.cat([_photo(seed=seed) for seed in range(6)])
    plans = _plans(realesrgan(), 6)
    together = realesrgan().apply(gt, plans)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        alone = torch.cat([realesrgan().apply(gt[i : i + 1], [plans[i]]) for i in range(6)])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together, alone)
    assert torch.equal(together, realesrgan().apply(gt, plans))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_gives_the_image_of_the_cpu():
    gt = torch.cat([_photo(seed=seed) for seed in range(8)])
    plans = _plans(realesrgan(), 8)
    difference = realesrgan().apply(gt.cuda(), plans).cpu() - realesrgan().apply(gt, plans)
    # A pixel may round to the next level before JPEG; the picture stays.
    assert difference.abs().mean() < 0.5 / 255


def test_seed_decides_the_plan():
    assert _plans(realesrgan(), 3, seed=5) == _plans(realesrgan(), 3, seed=5)
    assert _plans(realesrgan(), 3, seed=5) != _plans(realesrgan(), 3, seed=6)


def test_final_order_matters():
    gt = _photo()
    (plan,) = _plans(realesrgan(), 1)
    plan = replace(plan, kernel=KernelPlan("sinc", 13, cutoff=1.5))
    last, first = replace(plan, jpeg_last=True), replace(plan, jpeg_last=False)
    assert not torch.equal(last.apply(gt), first.apply(gt))


def test_nothing_to_do_gives_the_image_back():
    silent = DegradationOrder(
        blur_prob=0.0, resize_prob=(0, 0, 1), gaussian_noise_prob=1.0, gaussian_sigma=(0, 0), jpeg_quality=(100, 100)
    )
    recipe = Degradation(silent, silent, final_sinc_prob=0.0)
    grey = _photo().mean(dim=1, keepdim=True).expand(-1, 3, -1, -1).contiguous()  # no chroma for JPEG to subsample
    lq = recipe.apply(grey, _plans(recipe, 1, scale=1))
    assert (lq - grey).abs().max() < 3 / 255


def test_realesrgan_destroys_more_than_light():
    gt = _photo(96, 96)

    def loss(preset):
        lq = preset().apply(gt.expand(40, -1, -1, -1), _plans(preset(), 40))
        clean = torch.nn.functional.interpolate(gt, size=lq.shape[-2:], mode="area")
        return float((lq - clean).square().mean())

    assert loss(realesrgan) > 1.3 * loss(light) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_prob": (1, 1, 0, 0, 0, 0)}, "`kernel_prob` to sum to 1"),
        ({"blur_prob": 1.5}, r"`blur_prob` in \[0, 1\], found 1.5"),
        ({"sigma": (3.0, 0.2)}, "`sigma` as"),
        ({"sigma": (0.0, 0.2)}, "positive `sigma`"),
        ({"kernel_size": (6, 20)}, "odd sizes"),
        ({"resize_range": (1.1, 1.5)}, "`resize_range` around 1"),
        ({"jpeg_quality": (0, 95)}, "`jpeg_quality` in 1..100"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DegradationOrder(**settings)


def test_impossible_recipe_is_refused():
    with pytest.raises(ValueError, match="final_kernel_size"):
        Degradation(final_kernel_size=(8, 20))
    with pytest.raises(ValueError, match="final_sinc_prob"):
        Degradation(final_sinc_prob=-0.1)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        realesrgan().sample(torch.Generator(), scale=0)


def test_mixed_degrades_a_share_of_the_images_by_the_milder_recipe():
    def coarsest(recipe, seeds=400):
        plans = [recipe.sample(torch.Generator().manual_seed(seed)) for seed in range(seeds)]
        return sum(min(plan.first.quality, plan.second.quality) < 60 for plan in plans) / seeds  # never so in `light`

    most = coarsest(realesrgan())
    assert coarsest(light()) == 0.0
    assert coarsest(mixed(0.3)) == pytest.approx(0.7 * most, abs=0.07)
    assert (coarsest(mixed(1.0)), coarsest(mixed(0.0))) == (0.0, pytest.approx(most, abs=0.07))
    with pytest.raises(ValueError, match=r"`share` in \[0, 1\], found 1.5"):
        mixed(1.5)


def test_mixed_leaves_a_share_of_the_images_merely_small():
    def share(recipe, kind):
        plans = [recipe.sample(torch.Generator().manual_seed(seed)) for seed in range(400)]
        return sum(isinstance(plan, kind) for plan in plans) / 400

    recipe = mixed(light_share=0.5, clean_share=0.2)
    assert share(recipe, BicubicPlan) == pytest.approx(0.2, abs=0.06)
    both = [
        plan for plan in (recipe.sample(torch.Generator().manual_seed(s)) for s in range(400)) if hasattr(plan, "first")
    ]
    heavy = sum(min(plan.first.quality, plan.second.quality) < 60 for plan in both) / 400
    every = [realesrgan().sample(torch.Generator().manual_seed(s)) for s in range(400)]
    assert heavy == pytest.approx(0.3 * sum(min(p.first.quality, p.second.quality) < 60 for p in every) / 400, abs=0.06)
    assert share(mixed(0.0, 1.0), BicubicPlan) == 1.0
    with pytest.raises(ValueError, match=r"at most 1 together, found 0\.9 and 0\.3"):
        mixed(0.9, 0.3)


def test_bicubic_shrinks_and_nothing_else():
    gt = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    plans = _plans(bicubic(), 2)
    assert plans[0] == plans[1]
    found = bicubic().apply(gt, plans)
    expected = torch.nn.functional.interpolate(gt, (8, 12), mode="bicubic", antialias=True)
    assert torch.equal(found, quantize(expected))
    with pytest.raises(ValueError, match="Expected a size divisible by the scale 4, found 48x31"):
        bicubic().apply(gt[..., :31, :], plans)
    with pytest.raises(ValueError, match="Expected an integer scale of at least 1, found 0"):
        _plans(bicubic(), 1, scale=0)
