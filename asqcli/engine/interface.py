"""The interface between the engine's parts: a layer and a kernel in NumPy, an observer, a network that is not native.

A NumPy kernel computes accumulators, nothing else: sums of products of activation codes and integer weights, which are
whole numbers, so that every kernel gives the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Observer = Callable[[str, np.ndarray, np.ndarray], None]  # hears (layer's name, codes, accumulators)


class NotNative(Exception):
    """The network has something that the native kernels do not do; the text says what."""


@dataclass(frozen=True)
class Layer:
    """A convolution as kernels see it; a linear layer is one of 1x1 on one pixel.

    Attributes:
        weights: whole numbers, (C_out, C_in / groups, height, width) int8.
        stride, dilation: (down, across).
        padding: (top, left, bottom, right), of zeros.
        groups: C_in and C_out are divided among them.
        qmin, qmax: bounds of the codes.
        largest_sum: bound on the magnitude of every partial sum.
    """

    weights: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    qmin: int
    qmax: int
    largest_sum: int

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Return (height, width) of the window."""
        return self.weights.shape[2], self.weights.shape[3]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the output for an input of that size."""
        top, left, bottom, right = self.padding
        padded = height + top + bottom, width + left + right
        down, across = (
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(padded, self.dilation, self.kernel_size, self.stride, strict=True)
        )
        return down, across


class Kernel(Protocol):
    """A NumPy kernel."""

    name: str

    def pack(self, layer: Layer) -> Any:
        """Return the layer's weights in the order that suits the kernel; called once, at load."""
        ...

    def accumulate(self, codes: np.ndarray, layer: Layer, packed: Any) -> np.ndarray:
        """Return the accumulators, (N, C_out, H_out, W_out): whole numbers, int32 or a float that holds them exactly.

        Args:
            codes: (N, C_in, H, W), whole numbers in float32 within the layer's bounds; not to be changed.
            packed: what `pack` returned.
        """
        ...
