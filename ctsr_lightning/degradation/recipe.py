"""The second-order degradation of Real-ESRGAN as a recipe: sample a plan, then apply it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ctsr_lightning.degradation.operators import RESIZE_MODES
from ctsr_lightning.degradation.plan import (
    BicubicPlan,
    DegradationPlan,
    KernelFamily,
    KernelPlan,
    NoisePlan,
    OrderPlan,
    Plan,
    apply_plans,
)

Range = tuple[float, float]

FAMILIES: tuple[KernelFamily, ...] = ("gaussian", "generalized", "plateau")
KERNELS = tuple((family, isotropic) for family in FAMILIES for isotropic in (True, False))
"""Order of `DegradationOrder.kernel_prob`: (family, isotropic)."""


def _check_probability(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"Expected `{name}` in [0, 1], found {value}.")


@dataclass(frozen=True)
class DegradationOrder:
    """One pass of blur, resize, noise and JPEG: what is drawn from. Defaults: first order of Real-ESRGAN.

    Pairs are the two ends of a uniform distribution.

    Args:
        blur_prob: Probability that there is a blur at all.
        kernel_size: Least and greatest kernel size in pixels; odd sizes in between are equally likely.
        kernel_prob: Probabilities of the six families: isotropic and anisotropic Gaussian, isotropic and anisotropic
            generalized Gaussian, isotropic and anisotropic plateau.
        sinc_prob: Probability of a sinc kernel in place of the six families.
        sigma: Scale of the kernels in pixels.
        beta_generalized: Shape of the generalized Gaussian; half of the draws are below 1, half above.
        beta_plateau: Shape of the plateau kernels; half of the draws are below 1, half above.
        resize_prob: Probabilities of enlarging, shrinking and keeping the size.
        resize_range: Least and greatest factor, around 1.
        gaussian_noise_prob: Probability of Gaussian noise; otherwise the noise is Poisson.
        gaussian_sigma: Standard deviation of Gaussian noise in levels of 0..255.
        poisson_scale: Strength of Poisson noise.
        grey_noise_prob: Probability that the noise is the same in all channels.
        jpeg_quality: JPEG quality.
    """

    blur_prob: float = 1.0
    kernel_size: tuple[int, int] = (7, 21)
    kernel_prob: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    sigma: Range = (0.2, 3.0)
    beta_generalized: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: Range = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    grey_noise_prob: float = 0.4
    jpeg_quality: Range = (30.0, 95.0)

    def __post_init__(self) -> None:
        """Refuse settings that cannot be drawn from."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in {"kernel_prob", "resize_prob"}:
                if min(value) < 0.0 or not math.isclose(sum(value), 1.0, abs_tol=1e-6):
                    raise ValueError(f"Expected `{field.name}` to sum to 1, found {list(value)}.")
            elif field.name.endswith("_prob"):
                _check_probability(field.name, value)
            elif value[0] > value[1]:
                raise ValueError(f"Expected `{field.name}` as [least, greatest], found {list(value)}.")
        if self.kernel_size[0] < 1 or any(size % 2 == 0 for size in self.kernel_size):
            raise ValueError(f"Expected odd sizes in `kernel_size`, found {list(self.kernel_size)}.")
        if not 0.0 < self.resize_range[0] <= 1.0 <= self.resize_range[1]:
            raise ValueError(f"Expected `resize_range` around 1, found {list(self.resize_range)}.")
        if not (self.jpeg_quality[0] >= 1.0 and self.jpeg_quality[1] <= 100.0):
            raise ValueError(f"Expected `jpeg_quality` in 1..100, found {list(self.jpeg_quality)}.")
        if min(self.sigma[0], self.beta_generalized[0], self.beta_plateau[0]) <= 0.0:
            raise ValueError("Expected positive `sigma`, `beta_generalized` and `beta_plateau`.")


# Real-ESRGAN, options/train_realesrgan_x4plus.yml, second degradation process.
REALESRGAN_SECOND = DegradationOrder(
    blur_prob=0.8,
    sigma=(0.2, 1.5),
    resize_prob=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    gaussian_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)
REALESRGAN_FIRST = DegradationOrder()

# The milder setting of SeeSR, AddSR and PiSA-SR (src/datasets/params.yml): less noise, finer JPEG, less shrinking.
LIGHT_FIRST = DegradationOrder(
    resize_range=(0.3, 1.5), gaussian_sigma=(1.0, 15.0), poisson_scale=(0.05, 2.0), jpeg_quality=(60.0, 95.0)
)
LIGHT_SECOND = DegradationOrder(
    blur_prob=0.5,
    sigma=(0.2, 1.5),
    resize_prob=(0.3, 0.4, 0.3),
    resize_range=(0.6, 1.2),
    gaussian_sigma=(1.0, 12.0),
    poisson_scale=(0.05, 1.0),
    jpeg_quality=(60.0, 100.0),
)


class Degradation:
    """Second-order degradation: two passes of blur, resize, noise and JPEG, then a sinc filter at the final size.

    Real-ESRGAN, Wang et al. 2021, section 3. The defaults are its x4plus training, every number of it. `sample` makes
    all random choices, `apply` makes none.

    Args:
        first: The first pass; its resize is relative to the ground truth.
        second: The second pass; its resize is relative to ground truth / scale.
        final_sinc_prob: Probability of the final sinc filter, which draws ringing.
        final_kernel_size: Least and greatest size of the final sinc filter in pixels, odd.
        jpeg_last_prob: Probability that the last compression comes after the final resize and filter, not before.
    """

    def __init__(
        self,
        first: DegradationOrder = REALESRGAN_FIRST,
        second: DegradationOrder = REALESRGAN_SECOND,
        final_sinc_prob: float = 0.8,
        final_kernel_size: tuple[int, int] = (7, 21),
        jpeg_last_prob: float = 0.5,
    ) -> None:
        _check_probability("final_sinc_prob", final_sinc_prob)
        _check_probability("jpeg_last_prob", jpeg_last_prob)
        if any(size % 2 == 0 for size in final_kernel_size) or not 1 <= final_kernel_size[0] <= final_kernel_size[1]:
            raise ValueError(f"Expected odd sizes in `final_kernel_size`, found {list(final_kernel_size)}.")
        self.first = first
        self.second = second
        self.final_sinc_prob = final_sinc_prob
        self.final_kernel_size = final_kernel_size
        self.jpeg_last_prob = jpeg_last_prob

    def sample(self, generator: torch.Generator, scale: int = 4) -> Plan:
        """Draw all random choices for one image.

        Args:
            generator: Source of randomness, on the CPU.
            scale: Ratio of the ground truth's size to the low-quality size, at least 1.
        """
        if scale < 1:
            raise ValueError(f"Expected an integer scale of at least 1, found {scale}.")
        dice = _Dice(generator)
        first = _sample_order(self.first, dice)
        second = _sample_order(self.second, dice)
        kernel = None
        if dice.chance(self.final_sinc_prob):
            size = dice.odd(self.final_kernel_size)
            kernel = KernelPlan("sinc", size, cutoff=dice.uniform((math.pi / 3.0, math.pi)))
        mode = RESIZE_MODES[dice.integer(len(RESIZE_MODES))]
        return DegradationPlan(scale, first, second, kernel, mode, jpeg_last=dice.chance(self.jpeg_last_prob))

    apply = staticmethod(apply_plans)


def realesrgan(**kwargs: Any) -> Degradation:
    """The degradation of Real-ESRGAN x4plus, which OSEDiff, HYPIR and CTSR train with.

    Args:
        **kwargs: Arguments of `Degradation`, whose defaults it has.
    """
    return Degradation(**kwargs)


def light(first: DegradationOrder = LIGHT_FIRST, second: DegradationOrder = LIGHT_SECOND, **kwargs: Any) -> Degradation:
    """The milder degradation of SeeSR, AddSR and PiSA-SR: less noise, finer JPEG, less shrinking.

    Args:
        first: The first pass.
        second: The second pass.
        **kwargs: Further arguments of `Degradation`.
    """
    return Degradation(first, second, **kwargs)


class MixedDegradation(Degradation):
    """Some images degraded by one recipe, the others by another.

    Args:
        most: The recipe of most images.
        some: The recipe of some.
        share: The share of `some`, in [0, 1].
    """

    def __init__(self, most: Degradation, some: Degradation, share: float) -> None:
        _check_probability("share", share)
        self.most, self.some, self.share = most, some, share

    def sample(self, generator: torch.Generator, scale: int = 4) -> Plan:
        """Draw which recipe, then all random choices of it; see `Degradation.sample`."""
        recipe = self.some if _Dice(generator).chance(self.share) else self.most
        return recipe.sample(generator, scale)


def mixed(light_share: float = 0.3, clean_share: float = 0.0) -> Degradation:
    """`realesrgan` for most images (from the web), `light` for some (today's cameras), `bicubic` for others (reduced).

    A network that has seen no picture that is merely small takes its finest structure, such as eyes, for damage.

    Args:
        light_share: The share of `light`, in [0, 1].
        clean_share: The share of `bicubic`, in [0, 1].

    Raises:
        ValueError: If a share leaves [0, 1], or both together do.
    """
    if clean_share == 0.0:
        return MixedDegradation(realesrgan(), light(), light_share)
    if not (clean_share > 0.0 and light_share >= 0.0 and light_share + clean_share <= 1.0):
        raise ValueError(f"Expected shares of at most 1 together, found {light_share} and {clean_share}.")
    rest = MixedDegradation(realesrgan(), light(), light_share / (1.0 - clean_share) if clean_share < 1.0 else 0.0)
    return MixedDegradation(rest, bicubic(), clean_share)


class BicubicDegradation(Degradation):
    """The classical degradation: bicubic shrinking, nothing drawn."""

    def __init__(self) -> None:
        """Nothing to set."""

    def sample(self, generator: torch.Generator, scale: int = 4) -> Plan:  # noqa: ARG002  # the recipes' interface
        """The same plan for every image; see `Degradation.sample`."""
        if scale < 1:
            raise ValueError(f"Expected an integer scale of at least 1, found {scale}.")
        return BicubicPlan(scale)


def bicubic() -> Degradation:
    """Bicubic shrinking with antialiasing, as in MATLAB, then rounding to 8 bits: "DIV2K bicubic" of the field."""
    return BicubicDegradation()


def _sample_order(order: DegradationOrder, dice: _Dice) -> OrderPlan:
    kernel = _sample_kernel(order, dice) if dice.chance(order.blur_prob) else None
    direction = dice.choice(order.resize_prob)
    least, greatest = order.resize_range
    factor = (dice.uniform((1.0, greatest)), dice.uniform((least, 1.0)), 1.0)[direction]
    mode = RESIZE_MODES[dice.integer(len(RESIZE_MODES))]
    gaussian = dice.chance(order.gaussian_noise_prob)
    noise = NoisePlan(
        kind="gaussian" if gaussian else "poisson",
        level=dice.uniform(order.gaussian_sigma if gaussian else order.poisson_scale),
        grey=dice.chance(order.grey_noise_prob),
        seed=dice.integer(2**31),
    )
    return OrderPlan(kernel, factor, mode, noise, quality=round(dice.uniform(order.jpeg_quality)))


def _sample_kernel(order: DegradationOrder, dice: _Dice) -> KernelPlan:
    size = dice.odd(order.kernel_size)
    if dice.chance(order.sinc_prob):
        # Small kernels cannot hold a narrow pass band (Real-ESRGAN, realesrgan_dataset.py).
        lowest = math.pi / 3.0 if size < 13 else math.pi / 5.0
        return KernelPlan("sinc", size, cutoff=dice.uniform((lowest, math.pi)))
    family, isotropic = KERNELS[dice.choice(order.kernel_prob)]
    sigma_x = dice.uniform(order.sigma)
    sigma_y = sigma_x if isotropic else dice.uniform(order.sigma)
    rotation = 0.0 if isotropic else dice.uniform((-math.pi, math.pi))
    beta = 1.0
    if family != "gaussian":
        lowest, highest = order.beta_generalized if family == "generalized" else order.beta_plateau
        beta = dice.uniform((lowest, 1.0)) if dice.chance(0.5) else dice.uniform((1.0, highest))
    return KernelPlan(family, size, sigma_x, sigma_y, rotation, beta)


class _Dice:
    """Plain Python numbers from a torch generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, ends: Range) -> float:
        """A number between the two ends."""
        low, high = ends
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform((0.0, 1.0)) < probability

    def integer(self, below: int) -> int:
        """A whole number from 0 to below - 1."""
        return int(torch.randint(below, (), generator=self.generator))

    def odd(self, ends: tuple[int, int]) -> int:
        """An odd number between two odd ends."""
        return ends[0] + 2 * self.integer((ends[1] - ends[0]) // 2 + 1)

    def choice(self, probabilities: Sequence[float]) -> int:
        """An index with these probabilities."""
        draw = self.uniform((0.0, sum(probabilities)))
        for index, probability in enumerate(probabilities):
            draw -= probability
            if draw < 0.0 < probability:
                return index
        return max(index for index, probability in enumerate(probabilities) if probability > 0.0)
