"""Published weight files of metrics: their names, where they are published, and their hashes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class WeightFile:
    """A published weight file.

    Args:
        names: Accepted file names; the first is the published one.
        url: Where it is published.
        folder: Its folder below `torch.hub.get_dir()`.
        sha256: Its hash, or as much of the beginning as is published; empty if nothing is.
        note: Description, for messages.
    """

    names: tuple[str, ...]
    url: str
    folder: str = "checkpoints"
    sha256: str = ""
    note: str = ""

    def place(self) -> Path:
        """The default place of the file, which follows `TORCH_HOME`."""
        return Path(torch.hub.get_dir()) / self.folder / self.names[0]


_TORCHVISION = "https://download.pytorch.org/models"
_PYIQA = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
_CLIP = "https://openaipublic.azureedge.net/clip/models"
_INCEPTION = "inception-2015-12-05-6726825d.pth"
_INCEPTION_HASH = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_RN50_HASH = "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"

ALEXNET = WeightFile(
    ("alexnet-owt-7be5be79.pth",),
    f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
    sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    note="torchvision's AlexNet, ImageNet",
)
VGG16 = WeightFile(
    ("vgg16-397923af.pth",),
    f"{_TORCHVISION}/vgg16-397923af.pth",
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    note="torchvision's VGG-16, ImageNet",
)
SQUEEZENET = WeightFile(
    ("squeezenet1_1-b8a52dc0.pth",),
    f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth",
    sha256="b8a52dc0",
    note="torchvision's SqueezeNet 1.1, ImageNet",
)
INCEPTION = WeightFile(  # torch-fidelity's release v0.2.0; the same bytes as the next
    (f"weights-{_INCEPTION}", f"pt_{_INCEPTION}"),
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-{_INCEPTION}",
    sha256=_INCEPTION_HASH,
    note="Inception-v3 of the Fréchet distance, torch-fidelity's name",
)
CLEAN_INCEPTION = WeightFile(
    (f"pt_{_INCEPTION}", f"weights-{_INCEPTION}"),
    f"{_PYIQA}/pt_{_INCEPTION}",
    folder="pyiqa",
    sha256=_INCEPTION_HASH,
    note="Inception-v3 of the Fréchet distance, pytorch-fid's name",
)
NIQE_MODEL = WeightFile(
    ("niqe_modelparameters.mat", "niqe_pris_params.npz"),
    f"{_PYIQA}/niqe_modelparameters.mat",
    folder="pyiqa",
    note="NIQE's model of pristine images",
)
MUSIQ_KONIQ = WeightFile(
    ("musiq_koniq_ckpt-e95806b9.pth",),
    f"{_PYIQA}/musiq_koniq_ckpt-e95806b9.pth",
    folder="pyiqa",
    sha256="e95806b9eae5f3814c410f574ba8e552362bd5bc63d758ed5b97860f5d6185aa",
    note="MUSIQ trained on KonIQ-10k",
)
MANIQA_PIPAL = WeightFile(
    ("MANIQA_PIPAL-ae6d356b.pth",),
    f"{_PYIQA}/MANIQA_PIPAL-ae6d356b.pth",
    folder="pyiqa",
    sha256="ae6d356b",
    note="MANIQA trained on PIPAL",
)
CLIP_RN50 = WeightFile(
    ("RN50.pt",), f"{_CLIP}/{_RN50_HASH}/RN50.pt", folder="clip", sha256=_RN50_HASH, note="OpenAI's CLIP, ResNet-50"
)
