"""Colours that nobody sees do not bleed into those that are seen."""

from __future__ import annotations

import torch

from ctsr_lightning.images import fill_transparent


def test_hidden_colours_become_those_around() -> None:
    colours, alpha = torch.zeros(3, 13, 17), torch.zeros(1, 13, 17)
    colours[:, 2:9, 3:8], alpha[:, 2:9, 3:8] = torch.tensor([0.9, 0.5, 0.1])[:, None, None], 0.5
    filled = fill_transparent(colours, alpha)
    assert torch.allclose(filled, torch.tensor([0.9, 0.5, 0.1])[:, None, None].expand_as(filled), atol=1e-5)


def test_seen_colours_stay() -> None:
    colours, alpha = torch.rand(3, 5, 1), torch.tensor([0.0, 0.1, 1.0, 0.0, 0.0]).view(1, 5, 1)
    filled = fill_transparent(colours, alpha)
    assert torch.equal(filled[:, 1:3], colours[:, 1:3])
    assert filled.min() >= 0
    assert filled.max() <= 1
    for everywhere in (torch.ones_like(alpha), torch.zeros_like(alpha)):
        assert torch.equal(fill_transparent(colours, everywhere), colours)
