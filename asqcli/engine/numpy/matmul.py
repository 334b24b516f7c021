"""Whole numbers in floating-point matrix products: exact, because no partial sum leaves the range of the type.

float32 holds every whole number up to 2^24, double up to 2^53. Below those bounds a sum of products is the same in any
order, with or without fused multiply-adds, so the fastest matrix product at hand may be used.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.lib.stride_tricks import as_strided

from asqcli.arithmetic.constants import EXACT_FLOAT32
from asqcli.engine.interface import Layer

LARGEST_PATCHES = 2**21  # numbers copied for one matrix product


class MatmulKernel:
    """Patches of the image, channels last, times the weights as a matrix."""

    name = "matmul"

    def pack(self, layer: Layer) -> np.ndarray:
        """Return (groups, height * width * C_in / groups, C_out / groups); depthwise: (height, width, C_out)."""
        dtype = np.float32 if layer.largest_sum < EXACT_FLOAT32 else np.float64
        if _is_depthwise(layer):
            return layer.weights[:, 0].transpose(1, 2, 0).astype(dtype)
        rows = layer.weights.transpose(0, 2, 3, 1).reshape(layer.groups, len(layer.weights) // layer.groups, -1)
        return np.ascontiguousarray(rows.transpose(0, 2, 1), dtype)

    def accumulate(self, codes: np.ndarray, layer: Layer, packed: np.ndarray) -> np.ndarray:
        image = _padded(codes.transpose(0, 2, 3, 1), layer.padding, packed.dtype)  # (N, H, W, C)
        height, width = layer.output_size(*codes.shape[2:])
        out = np.empty((len(codes), height, width, layer.weights.shape[0]), packed.dtype)
        if _is_depthwise(layer):
            _depthwise(image, layer, packed, out)
        else:
            _grouped(image, layer, packed, out)
        return out.transpose(0, 3, 1, 2)


def _is_depthwise(layer: Layer) -> bool:
    return layer.groups > 1 and layer.weights.shape[1] == 1


def _padded(image: np.ndarray, padding: tuple[int, int, int, int], dtype: np.dtype) -> np.ndarray:
    """Return the image with its border of zeros, contiguous, channels last."""
    top, left, bottom, right = padding
    if not any(padding):
        return np.ascontiguousarray(image, dtype)
    n, height, width, channels = image.shape
    out = np.zeros((n, height + top + bottom, width + left + right, channels), dtype)
    out[:, top : top + height, left : left + width] = image
    return out


def _depthwise(image: np.ndarray, layer: Layer, packed: np.ndarray, out: np.ndarray) -> None:
    repeats = packed.shape[2] // image.shape[3]  # outputs of one input channel
    out[:] = 0
    product = np.empty_like(out)
    for i, j in np.ndindex(*layer.kernel_size):
        y, x = i * layer.dilation[0], j * layer.dilation[1]
        rows = slice(y, y + (out.shape[1] - 1) * layer.stride[0] + 1, layer.stride[0])
        columns = slice(x, x + (out.shape[2] - 1) * layer.stride[1] + 1, layer.stride[1])
        window = image[:, rows, columns]
        if repeats > 1:
            window = window.repeat(repeats, axis=3)
        np.multiply(window, packed[i, j], out=product)
        out += product


def _grouped(image: np.ndarray, layer: Layer, packed: np.ndarray, out: np.ndarray) -> None:
    depth, outputs = packed.shape[1:]
    channels = layer.weights.shape[1]
    n, height, width, _ = out.shape
    # Whole images while their patches fit, else some rows of one, else a part of a row.
    images = max(1, LARGEST_PATCHES // (height * width * depth))
    rows = height if images > 1 else max(1, LARGEST_PATCHES // (width * depth))
    columns = width if rows > 1 else max(1, LARGEST_PATCHES // depth)
    for group in range(layer.groups):
        part = image[..., group * channels : (group + 1) * channels]
        patches = _patches(part, layer, height, width)
        target = out[..., group * outputs : (group + 1) * outputs]
        for first in range(0, n, images):
            for row, column in itertools.product(range(0, height, rows), range(0, width, columns)):
                block = np.s_[first : first + images, row : row + rows, column : column + columns]
                windows = patches[block]
                sums = windows.reshape(-1, depth) @ packed[group]  # the reshape copies what overlaps
                target[block] = sums.reshape(*windows.shape[:3], outputs)


def _patches(image: np.ndarray, layer: Layer, height: int, width: int) -> np.ndarray:
    """Return a view of each window, (N, height, width, kernel height, kernel width, C), overlapping in memory."""
    n, down, across, channel = image.strides
    (stride_y, stride_x), (dilation_y, dilation_x) = layer.stride, layer.dilation
    return as_strided(
        image,
        (len(image), height, width, *layer.kernel_size, image.shape[3]),
        (n, down * stride_y, across * stride_x, down * dilation_y, across * dilation_x, channel),
        writeable=False,
    )
