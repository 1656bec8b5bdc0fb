"""Low-rank adapters with OSEDiff's layout: the only place that knows peft."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ctsr_lightning.diffusion.parametrization import at_least_float32
from ctsr_lightning.networks.sharing import Network, over_the_same_weights, part_from_original
from ctsr_lightning.weights.one_step_files import Adapter
from ctsr_lightning.weights.reading import give_own_weights

UNET_TARGETS = (
    "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out",
    "proj_out", "proj_in", "ff.net.2", "ff.net.0.proj",
)  # fmt: skip
"""Name endings of the adapted UNet modules (OSEDiff)."""

ENCODER_TARGETS = (
    "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0", "quant_conv",
)  # fmt: skip
"""Name endings of the adapted modules of an autoencoder's encoder (OSEDiff)."""


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation W + (alpha / rank) B A (Hu et al., 2022).

    The names of the adapters and the default `alpha` are OSEDiff's, so that its weights import unchanged. Its alpha is
    peft's default of 8 at rank 4: with alpha = rank the same file would act at half strength.
    """

    rank: int = 4
    """Rank of the update (paper: 4)."""
    alpha: int = 8
    """Scale of the update times the rank."""
    sets: tuple[str, ...] = ()
    """Several adapters side by side, told apart by these endings of their names. None is OSEDiff's single set;
    `[pix, sem]` are PiSA-SR's two, `[pix]` is its faithful half alone."""

    def __post_init__(self) -> None:
        """Refuse sets that peft could not tell apart.

        Raises:
            ValueError: If a name occurs twice or is no plain word.
        """
        if len(set(self.sets)) < len(self.sets) or not all(name.isidentifier() for name in self.sets):
            raise ValueError(
                f"Expected different plain words as the names of adapter sets, found {list(self.sets)}. Rename them."
            )

    def names(self, adapter: str) -> tuple[str, ...]:
        """The adapters that one of the layout's names stands for: itself, or one per set."""
        return tuple(f"{adapter}_{name}" for name in self.sets) or (adapter,)

    def config(self, targets: list[str]) -> LoraConfig:
        """Describe an adapter on exactly these modules to peft: A is Gaussian, B zero."""
        return LoraConfig(r=self.rank, lora_alpha=self.alpha, init_lora_weights="gaussian", target_modules=targets)


def adapters_of(module: nn.Module) -> dict[str, Adapter]:
    """The adapters that a network carries, by name.

    Args:
        module: The network; modules are named as seen from it, in its own order.
    """
    found: dict[str, Adapter] = {}
    for name, child in module.named_modules():
        if isinstance(child, BaseTunerLayer):
            for adapter in child.lora_A:
                before = found[adapter].modules if adapter in found else ()
                rank = int(child.r[adapter])
                found[adapter] = Adapter((*before, name), rank, float(child.scaling[adapter] * rank))
    return found


def _matching(module: nn.Module, endings: tuple[str, ...]) -> list[str]:
    return [
        name
        for name, child in module.named_modules()
        if isinstance(child, (nn.Conv2d, nn.Linear)) and any(name == e or name.endswith(f".{e}") for e in endings)
    ]


def _inject(module: nn.Module, lora: LoRA, adapters: dict[str, list[str]]) -> None:
    for adapter, targets in adapters.items():
        for name in lora.names(adapter) if targets else ():
            with warnings.catch_warnings():  # several adapters side by side are the layout, not a mistake
                warnings.filterwarnings("ignore", ".*multiple adapters in the model.*", UserWarning)
                inject_adapter_in_model(lora.config(targets), module, adapter_name=name)
    active = [name for adapter in adapters for name in lora.names(adapter)]
    for child in module.modules():
        if isinstance(child, BaseTunerLayer):
            child.set_adapter([name for name in active if name in child.lora_A])


def add_unet_adapters(unet: nn.Module, lora: LoRA, *, train_conv_in: bool = True) -> None:
    """Freeze a UNet and add OSEDiff's three adapters to it, once per set.

    Down blocks and `conv_in` carry `default_encoder`, up blocks and `conv_out` `default_decoder`, the rest
    `default_others`: 94, 148 and 16 modules on Stable Diffusion 2.1. With a single set the base `conv_in` stays
    trainable, as in OSEDiff's generator; with named sets it is frozen, as in PiSA-SR.

    Args:
        unet: The UNet, changed in place.
        lora: Rank, scale and sets.
        train_conv_in: Whether the base `conv_in` stays trainable with a single set; not in OSEDiff's regulariser.
    """
    unet.requires_grad_(False)
    groups: dict[str, list[str]] = {"default_encoder": [], "default_decoder": [], "default_others": []}
    for name in _matching(unet, UNET_TARGETS):
        if "down_blocks" in name or "conv_in" in name:
            groups["default_encoder"].append(name)
        elif "up_blocks" in name or "conv_out" in name:
            groups["default_decoder"].append(name)
        else:
            groups["default_others"].append(name)
    _inject(unet, lora, groups)
    if train_conv_in and not lora.sets:
        conv_in = unet.get_submodule("conv_in")
        trained = conv_in.base_layer if isinstance(conv_in, BaseTunerLayer) else conv_in
        assert isinstance(trained, nn.Module)
        give_own_weights(trained)  # the base may be shared with networks that are not to be trained
        trained.requires_grad_(True)


def add_named_adapter(unet: nn.Module, lora: LoRA, name: str) -> None:
    """Freeze a UNet and add one adapter on OSEDiff's targets.

    Args:
        unet: The UNet, changed in place.
        lora: Rank and scale.
        name: The adapter's name.
    """
    unet.requires_grad_(False)
    _inject(unet, lora, {name: _matching(unet, UNET_TARGETS)})


def keep_adapters_of(unet: nn.Module, other: nn.Module) -> None:
    """Let a UNet begin as another one over the same base: give it the other's adapters, frozen, beside its own.

    The first convolution, which OSEDiff's layout trains beside its adapters, comes along.

    Args:
        unet: The UNet with adapters of its own, which stay the only trained ones; changed in place.
        other: The UNet whose adapters are copied; it keeps them.

    Raises:
        ValueError: If the other has no adapters, or both have some of the same name.
    """
    own, kept = adapters_of(unet), adapters_of(other)
    if not own or not kept or own.keys() & kept.keys():
        raise ValueError(
            f"Expected two UNets over one base, each with adapters of names of its own, found {sorted(own) or 'none'} "
            f"and {sorted(kept) or 'none'}. Without adapters, start from all weights of the other instead."
        )
    for name, adapter in kept.items():
        _inject(unet, LoRA(adapter.rank, round(adapter.alpha)), {name: list(adapter.modules)})
    values = {name: value for name, value in other.named_parameters() if ".lora_" in name}
    for child in unet.modules():
        if isinstance(child, BaseTunerLayer):
            child.set_adapter(list(child.lora_A))
    for name, parameter in unet.named_parameters():
        if name in values:
            parameter.requires_grad_(False).data.copy_(values[name].data)
    first, others = (network.get_submodule("conv_in") for network in (unet, other))
    bases = [layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer for layer in (first, others)]
    give_own_weights(bases[0])
    bases[0].load_state_dict(bases[1].state_dict())


def add_encoder_adapters(autoencoder: nn.Module, lora: LoRA) -> None:
    """Freeze an autoencoder and add OSEDiff's adapter `default_encoder` to its encoder and `quant_conv`.

    Args:
        autoencoder: The autoencoder, changed in place; its decoder stays as it is.
        lora: Rank and scale.

    Raises:
        ValueError: If no module of the encoder matches.
    """
    autoencoder.requires_grad_(False)
    names = [
        name
        for name in _matching(autoencoder, ENCODER_TARGETS)
        if ("encoder" in name or name == "quant_conv") and name != "post_quant_conv"
    ]
    if not names:
        raise ValueError(
            f"No module of {type(autoencoder).__name__}'s encoder can carry OSEDiff's adapters "
            f"(expected names ending in {', '.join(ENCODER_TARGETS)}). Set encoder_lora to null."
        )
    _inject(autoencoder, lora, {"default_encoder": names})


def without_adapters(module: Network) -> Network:
    """The base beneath a network's adapters, as a network of its own over the same weights.

    Unlike with `adapters_off` nothing is switched, so gradients and their recomputation work as with any network.

    Args:
        module: A network with adapters, which keeps them.
    """
    bare = over_the_same_weights(module)
    for name, child in list(bare.named_modules()):
        if isinstance(child, BaseTunerLayer):
            bare.set_submodule(name, child.get_base_layer())
    return bare


@torch.no_grad()
def merged(module: Network) -> Network:
    """The same function without adapters, as a network of its own: W + (alpha / rank) B A in place of W.

    Weights that no adapter changes are the module's own, the merged ones float32 or better. Base weights that nobody
    else has are freed with the module.

    Args:
        module: A network with or without adapters, which keeps them.
    """
    plain = over_the_same_weights(module)
    part_from_original(plain)
    for name, child in list(plain.named_modules()):
        if isinstance(child, BaseTunerLayer):
            base = child.get_base_layer()
            deltas = [at_least_float32(child.get_delta_weight(adapter)) for adapter in child.active_adapters]
            weight = sum(deltas, at_least_float32(base.weight))
            base.weight = nn.Parameter(weight, requires_grad=False)
            plain.set_submodule(name, base)
    return plain


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Within this context the module computes with its base weights alone.

    Only for passes without gradients: a recomputation under gradient checkpointing would happen outside. For others
    there is `without_adapters`.

    Args:
        module: A module that may or may not carry adapters.
    """
    layers = [child for child in module.modules() if isinstance(child, BaseTunerLayer)]
    layers = [layer for layer in layers if not layer.disable_adapters]  # those of an outer context stay off after this
    states = [(layer, {n: p.requires_grad for n, p in layer.named_parameters()}) for layer in layers]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer, flags in states:
            layer.enable_adapters(True)  # peft also touches requires_grad here, so it is put back
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(flags[name])
