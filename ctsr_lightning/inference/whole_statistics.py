"""Group normalisation of tiles by the statistics of the whole image, so that tiles do not differ in colour."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial

import torch
from torch import Tensor, nn

from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.inference.tiling import Window, blend


class WholeStatistics:
    """Mean and variance of every group normalisation of some networks, over tiles of one image.

    With statistics of its own, a tile's colours and contrast depend on what is in it. Here a first pass over nine
    tiles at most, evenly spread, takes the statistics, each tile normalised by itself; in the second all tiles are
    normalised by their means. Those of the first layers are exact up to that sample, those of later ones follow from
    tiles that were normalised slightly otherwise.

    Args:
        network: The networks; those without group normalisation are left as they are.
    """

    def __init__(self, network: nn.Module) -> None:
        self.norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
        self._found: dict[tuple[nn.Module, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self._means: dict[tuple[nn.Module, int], tuple[Tensor, Tensor]] = {}
        self._calls = Counter[nn.Module]()

    def sample(self, cover: list[Window]) -> list[Window]:
        """Tiles that statistics are taken of: none where a single tile is the whole, or nothing is normalised.

        Args:
            cover: All tiles.
        """
        if len(cover) == 1 or not self.norms:
            return []
        tops, lefts = (_spread(sorted({window[i] for window in cover})) for i in (0, 1))
        return [window for window in cover if window.top in tops and window.left in lefts]

    def passes(self, cover: list[Window]) -> int:
        """Tiles that `blend` computes.

        Args:
            cover: All tiles.
        """
        return len(cover) + len(self.sample(cover))

    def blend(
        self,
        cover: list[Window],
        compute: Callable[[Window], Tensor],
        ratio: Fraction = Fraction(1),
        done: Callable[[], None] | None = None,
        finish: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`tiling.blend`, all tiles normalised alike; a single tile is the whole, and computed as it is.

        Args:
            cover: Windows that cover a grid, of one size.
            compute: Gives a window's result by passes of the networks, the same ones for each.
            ratio: Pixels of the result per cell of the grid.
            done: Called after each window, those of the sample too.
            finish: Maps finished rows to those of the result.
        """
        sample = self.sample(cover)
        if not sample:
            return blend(cover, compute, ratio, done, finish)

        def counted(window: Window) -> Tensor:
            self._calls.clear()
            return compute(window)

        with self._replaced(self._taken):
            for window in sample:
                counted(window)
                if done is not None:
                    done()
        for place, moments in self._found.items():
            means, variances = (torch.stack(values) for values in zip(*moments, strict=True))
            self._means[place] = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self._found.clear()
        with self._replaced(self._given):
            return blend(cover, counted, ratio, done, finish)

    def _place(self, norm: nn.Module) -> tuple[nn.Module, int]:
        """A layer, and how often it has been passed in this tile."""
        self._calls[norm] += 1
        return norm, self._calls[norm]

    def _taken(self, norm: nn.GroupNorm, features: Tensor) -> Tensor:
        groups = features.reshape(len(features), norm.num_groups, -1)
        variance, mean = torch.var_mean(at_least_float32(groups), dim=-1, correction=0)
        self._found[self._place(norm)].append((mean, variance))
        return nn.GroupNorm.forward(norm, features)

    def _given(self, norm: nn.GroupNorm, features: Tensor) -> Tensor:
        mean, variance = self._means[self._place(norm)]
        each = norm.num_channels // norm.num_groups
        scale = (variance + norm.eps).rsqrt().repeat_interleave(each, dim=1)
        shift = -mean.repeat_interleave(each, dim=1) * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        shape = (*scale.shape, *(1 for _ in features.shape[2:]))
        return torch.addcmul(shift.to(features).view(shape), features, scale.to(features).view(shape))

    @contextmanager
    def _replaced(self, forward: Callable[[nn.GroupNorm, Tensor], Tensor]) -> Iterator[None]:
        """Within this context group normalisations compute by another function."""
        for norm in self.norms:
            norm.forward = partial(forward, norm)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for norm in self.norms:
                del norm.forward


def _spread(places: list[int]) -> set[int]:
    """Three of some places in order, in the middles of equal parts; all of fewer."""
    return {places[part * len(places) // 6] for part in (1, 3, 5)}
