"""Pictures to make small folders of."""

import torch

from ctsr_lightning.images import quantize


def draw_photo(height, width, seed):
    """A smooth 8-bit picture (3, H, W)."""
    rough = torch.rand(1, 3, max(2, height // 8), max(2, width // 8), generator=torch.Generator().manual_seed(seed))
    return quantize(torch.nn.functional.interpolate(rough, size=(height, width), mode="bicubic"))[0]
