"""How a convolution goes over its input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Geometry:
    """How a convolution goes over its input.

    Attributes:
        stride, dilation: vertical and horizontal.
        padding: vertical and horizontal; or `same` or `valid`.
        groups: of channels.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Geometry:
        """Return that of a layer's own attributes."""
        return cls(layer.stride, layer.padding, layer.dilation, layer.groups)
