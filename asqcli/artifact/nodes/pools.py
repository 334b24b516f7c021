"""Nodes that make one number of a window of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from asqcli.artifact.nodes.base import (
    MEAN_PASSES,
    Border,
    Borders,
    Node,
    Pair,
    Shape,
    Windows,
    WithoutTensors,
    Work,
)

POOL_PASSES = 2  # elementwise operations for each tap
RESAMPLE_PASSES = 16  # elementwise operations for each number that an adaptive pool makes, along each side


class Pool(WithoutTensors):
    """What holds for kinds of node that look at an image through `windows`."""

    if TYPE_CHECKING:

        @property
        def windows(self) -> Windows: ...

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        if len(inputs[0]) != 3:
            return "it needs (channels, height, width)"
        return None if self.windows.fit(inputs[0]) else "the window is larger than the padded image"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0], *self.windows.count(inputs[0]))


class MaxPool(Pool, Node):
    op: Literal["max_pool"] = "max_pool"
    kernel_size: Pair
    stride: Pair
    padding: Borders
    dilation: Pair

    @property
    def windows(self) -> Windows:
        return Windows(self.kernel_size, self.stride, self.padding, self.dilation)

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        taps = math.prod(self.kernel_size)
        return self.traffic(inputs, output) + Work(elementwise=math.prod(output) * taps, calls=taps)


class AvgPool(Pool, Node):
    op: Literal["avg_pool"] = "avg_pool"
    kernel_size: Pair
    stride: Pair
    padding: tuple[Border, Border]  # down, across: the same on both sides
    count_include_pad: bool

    @property
    def windows(self) -> Windows:
        return Windows(self.kernel_size, self.stride, (*self.padding, *self.padding))

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        (x,), (down, across) = inputs, self.kernel_size
        padded_height, _ = self.windows.padded(x)
        rows = x[0] * padded_height * output[2]  # sums along the rows come first
        taps = 2 * self.padded_size(x) + rows * across + math.prod(output) * down
        return self.traffic(inputs, output) + Work(elementwise=POOL_PASSES * taps, calls=2 * (down + across))


class AdaptiveAvgPool(WithoutTensors, Node):
    op: Literal["adaptive_avg_pool"] = "adaptive_avg_pool"
    output_size: Pair

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        return None if len(inputs[0]) == 3 else "it needs (channels, height, width)"

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return (inputs[0][0], *self.output_size)

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        (channels, height, width), (down, across) = inputs[0], self.output_size
        traffic, read = self.traffic(inputs, output), channels * height * width
        calls = traffic.calls + 2 * (height + down + width + across)
        if self.output_size == (1, 1):
            return Work(elementwise=(1 + MEAN_PASSES) * read, calls=calls)
        resampled = math.prod(output) + channels * height * across
        elementwise = traffic.elementwise + MEAN_PASSES * read + RESAMPLE_PASSES * resampled
        return Work(elementwise=elementwise, calls=calls)
