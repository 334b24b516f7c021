"""An adapter as its kernels take it, and what it makes of a batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]  # weight (outputs, inputs) and bias (outputs,) of one or two linear layers


class Answers(NamedTuple):
    """What the adapter made of a batch.

    Attributes:
        scale: adapted step sizes, (N, 1, .., 1).
        beta: (N, 1).
        means: over each channel, (N, C).
        hidden: (N, units), units 0 where there is one layer.
    """

    scale: Tensor
    beta: Tensor
    means: Tensor
    hidden: Tensor
