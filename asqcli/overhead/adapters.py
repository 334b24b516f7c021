"""What the adapter of one layer holds and computes, by the layer's input channels."""

from __future__ import annotations

from itertools import pairwise

from asqcli.quant.adapter import hidden_features, layer_widths


def adapter_widths(channels: int, hidden: int | str = "quarter") -> tuple[int, ...]:
    """Return the widths from an adapter's input to beta; `hidden` as in a recipe.

    >>> adapter_widths(64), adapter_widths(3)
    ((64, 16, 1), (3, 1))
    """
    return tuple(layer_widths(channels, hidden_features(channels, hidden)))


def adapter_parameters(channels: int) -> int:
    """Return the parameters of an adapter of the paper's size, biases included (Eq. 11).

    >>> adapter_parameters(64)
    1057
    """
    return sum(i * o + o for i, o in pairwise(adapter_widths(channels)))


def adapter_products(channels: int) -> int:
    """Return the multiply-adds of its linear layers for one image (Eq. 13).

    >>> adapter_products(64)
    1040
    """
    return sum(i * o for i, o in pairwise(adapter_widths(channels)))
