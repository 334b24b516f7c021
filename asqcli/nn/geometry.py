"""How a convolution goes over its input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from asqcli.arithmetic.torch_mode import pair


@dataclass(frozen=True)
class Geometry:
    """How a convolution goes over its input.

    Attributes:
        stride, dilation: vertical and horizontal.
        padding: vertical and horizontal; or `same` or `valid`.
        groups: of channels.
    """

    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Geometry:
        """Return that of a layer's own attributes, which its author may have set to single numbers."""
        padding = layer.padding if isinstance(layer.padding, str) else pair(layer.padding)
        return cls(pair(layer.stride), padding, pair(layer.dilation), layer.groups)
