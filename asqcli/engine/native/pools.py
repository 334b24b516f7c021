"""The windows of pools, as the native kernels take them."""

from __future__ import annotations

import math

import numpy as np

from asqcli.arithmetic.windows import adaptive_windows, sliding_windows
from asqcli.artifact.nodes import AdaptiveAvgPool, AvgPool, MaxPool
from asqcli.engine.interface import NotNative
from asqcli.engine.native.bindings import MOST_ROWS, Pool

MOST_WINDOW = 2**12  # numbers, each read for every window; NumPy's way, sums of rows first, is faster with larger ones

Pair = tuple[int, int]


def max_pool(node: MaxPool, height: int, out_h: int, out_w: int) -> Pool:
    """Return the pool of an image of `height` rows, without memory for its rows.

    Raises:
        NotNative: a window has more than MOST_ROWS rows.
    """
    (kernel_h, kernel_w), (stride_h, stride_w), (dilation_h, dilation_w) = node.kernel_size, node.stride, node.dilation
    if kernel_h > MOST_ROWS:
        raise NotNative(f"a pool of {kernel_h} rows (`{node.name}`)")
    return Pool(
        kernel_h=kernel_h, kernel_w=kernel_w, stride_h=stride_h, stride_w=stride_w, dilation_h=dilation_h,
        dilation_w=dilation_w, top=node.padding[0], left=node.padding[1], out_h=out_h, out_w=out_w,
        ring=min(height, (kernel_h - 1) * dilation_h + 1),
    )  # fmt: skip


def average_windows(node: AvgPool | AdaptiveAvgPool, image: Pair, out: Pair) -> tuple[np.ndarray, int]:
    """Return the windows inside an image, and by which number sums are divided.

    Args:
        image, out: (height, width) of the input and of the output.
    Returns:
        (first, end) of the windows of each row of the output, then of each column, int32; and the number, or 0 for as
        many as a window holds.
    Raises:
        NotNative: a window has more than MOST_WINDOW numbers.
    """
    if isinstance(node, AdaptiveAvgPool):
        sides = [adaptive_windows(*sizes) for sizes in zip(image, out, strict=True)]
        return np.array(sides[0] + sides[1], np.int32), 0
    if math.prod(node.kernel_size) > MOST_WINDOW:
        raise NotNative(f"a pool of {node.kernel_size[0]}x{node.kernel_size[1]} (`{node.name}`)")
    sides = [sliding_windows(*side) for side in zip(image, node.kernel_size, node.stride, node.padding, strict=True)]
    with_border = node.count_include_pad or node.padding == (0, 0)
    return np.array(sides[0] + sides[1], np.int32), math.prod(node.kernel_size) if with_border else 0
