"""What the adapter that `asq quantize` gives a layer holds and computes: the paper's, but in wide linear layers."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

from asqcli.quant.spec import AdapterSpec


class Adapted(Protocol):
    """A layer: its kind, as in a LayerSpec, and its input's channels."""

    @property
    def kind(self) -> str: ...

    @property
    def in_channels(self) -> int: ...


def adapter_widths(layer: Adapted) -> tuple[int, ...]:
    """Return the widths from the adapter's input to beta."""
    return AdapterSpec().bounded(layer.kind, layer.in_channels).widths(layer.in_channels)


def adapter_parameters(layer: Adapted) -> int:
    """Return the adapter's parameters, biases included (Eq. 11)."""
    return sum(i * o + o for i, o in pairwise(adapter_widths(layer)))


def adapter_products(layer: Adapted) -> int:
    """Return the multiply-adds of its linear layers for one image (Eq. 13)."""
    return sum(i * o for i, o in pairwise(adapter_widths(layer)))
