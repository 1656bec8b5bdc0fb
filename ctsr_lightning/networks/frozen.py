"""Networks that are used but never trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Frozen(nn.Module, Generic[Network]):
    """A network that follows its owner across devices and precisions, yet is no part of it.

    It is absent from the owner's parameters (optimizers, gradient clipping and DDP do not see it), from its state dict
    (checkpoints do not hold it) and from its copies (a deep copy shares it), and it stays in evaluation mode.

    Args:
        network: The network; its gradients are switched off.
    """

    network: Network

    def __init__(self, network: Network) -> None:
        super().__init__()
        object.__setattr__(self, "network", network.eval().requires_grad_(False))  # past nn.Module's registration

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen[Network]:
        self.network._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen[Network]:
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network."""
        return self.network(*args, **kwargs)
