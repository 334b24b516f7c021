"""Pools to operators: largest values, and means that are summed in double and rounded once."""

from __future__ import annotations

from functools import reduce

import numpy as np

from asqcli.arithmetic.windows import adaptive_windows
from asqcli.artifact import nodes
from asqcli.export.onnx.scope import DOUBLE, FLOAT, Scope

Window = tuple[int, int]  # first pixel, end


def max_pool(scope: Scope, node: nodes.MaxPool) -> str:
    (x,), padding = scope.inputs, node.padding
    if any(border >= side for border, side in zip(padding, node.kernel_size * 2, strict=True)):
        # More border than runtimes take with the pool itself.
        x = scope.pad_safely(x, (0, *padding[:2]), (0, *padding[2:]), np.float32(-np.inf))
        padding = (0, 0, 0, 0)
    return scope.add(
        "MaxPool",
        x,
        name="largest",
        kernel_shape=node.kernel_size,
        strides=node.stride,
        pads=padding,
        dilations=node.dilation,
    )


def avg_pool(scope: Scope, node: nodes.AvgPool) -> str:
    sides = list(zip(scope.shapes[0][1:], node.kernel_size, node.stride, node.padding, strict=True))
    heights, widths = ([(i, i + k) for i in range(0, n + 2 * p - k + 1, s)] for n, k, s, p in sides)
    counted = [heights, widths]
    if not node.count_include_pad:  # the part of each window that lies in the image
        counted = [
            [(max(a, p), max(a, p, min(b, p + n))) for a, b in windows]
            for windows, (n, _, _, p) in zip((heights, widths), sides, strict=True)
        ]
    # A window that lies in the border altogether holds nothing: 0 / 1.
    sizes = np.maximum(_sizes(*counted), 1.0)
    border = (0, *node.padding) if any(node.padding) else None
    return _means(scope, heights, widths, sizes, border)


def adaptive_avg_pool(scope: Scope, node: nodes.AdaptiveAvgPool) -> str:
    sides = zip(scope.shapes[0][1:], node.output_size, strict=True)
    heights, widths = (adaptive_windows(pixels, windows) for pixels, windows in sides)
    return _means(scope, heights, widths, _sizes(heights, widths))


def channel_means(scope: Scope) -> str:
    """Return the means over all pixels of the node's input, (N, C, 1, 1)."""
    heights, widths = ([(0, side)] for side in scope.shapes[0][1:])
    return _means(scope, heights, widths, _sizes(heights, widths))


def _means(
    scope: Scope,
    heights: list[Window],
    widths: list[Window],
    sizes: np.ndarray,
    border: tuple[int, ...] | None = None,
) -> str:
    """Return the means over windows of the node's input: summed in double, along rows and then down, rounded once.

    Args:
        sizes: what to divide by, double, (1 or windows down, 1 or windows across).
        border: of zeros, on both sides of channels, height and width.
    """
    x = scope.cast(scope.inputs[0], DOUBLE, name="double")
    if border is not None:
        x = scope.pad(x, border, border, np.float64(0))
    sums = x
    for axis, windows in ((3, widths), (2, heights)):
        if windows == [(0, scope.shapes[0][axis - 1])] and border is None:
            sums = scope.add("ReduceSum", sums, scope.integers("axis", axis), name="sum")
        else:
            sums = _sums(scope, sums, axis, windows)
    quotient = scope.add("Div", sums, scope.constant("sizes", sizes), name="quotient")
    return scope.cast(quotient, FLOAT, name="mean")


def _sums(scope: Scope, x: str, axis: int, windows: list[Window]) -> str:
    """Return the sum over each window along one axis.

    Overlapping windows of one size and distance are added pixel by pixel, all windows at once; others are reduced one
    by one and joined. Those of one pixel are picked.
    """
    if all(b - a == 1 for a, b in windows):
        return scope.add("Gather", x, scope.integers("pixels", *[a for a, _ in windows]), name="pixels", axis=axis)
    (start, end), last = windows[0], windows[-1][0]
    size, step = end - start, max(1, windows[1][0] - start) if len(windows) > 1 else 1
    regular = windows == [(i, i + size) for i in range(start, last + 1, step)]
    if regular and size <= len(windows):
        taps = (scope.slice(x, axis, start + pixel, last + pixel + 1, step) for pixel in range(size))
        return reduce(lambda total, tap: scope.add("Add", total, tap, name="sum"), taps)
    axes = scope.integers("axis", axis)
    parts = [scope.add("ReduceSum", scope.slice(x, axis, *window, 1), axes, name="sum") for window in windows]
    return parts[0] if len(parts) == 1 else scope.add("Concat", *parts, name="sums", axis=axis)


def _sizes(heights: list[Window], widths: list[Window]) -> np.ndarray:
    """Return the pixels of each window, double; one number where all have the same."""
    down, across = (np.array([b - a for a, b in windows], np.float64) for windows in (heights, widths))
    sizes = down[:, None] * across
    return sizes[:1, :1] if np.all(sizes == sizes[0, 0]) else sizes
