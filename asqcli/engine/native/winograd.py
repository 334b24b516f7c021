"""Winograd's form of 3x3 convolutions, exact in whole numbers: which have one, and their weights.

The other half is csrc/winograd.h.
"""

from __future__ import annotations

import numpy as np

TILE = 2  # outputs along a dimension
FEWEST_CHANNELS = (
    32  # below, cutting the image into tiles and putting the outputs together costs what the products save
)

# Outputs of a tile from the products of its transforms.
OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
PLUS = 1  # the transform of codes that has no minus sign


def dimensions_of(table: np.ndarray, channels: int, code_range: int) -> int:
    """Return 2 for F(2x2, 3x3), 1 for F(2, 3), 0 where neither fits in 8 bits.

    Accumulators need no other look: sums of 32 bits wrap, and before the last halving an output is at most
    2 * dimensions * code_range * sum |w|, which the bound of all artifacts, 255 * sum |w|, covers.

    Args:
        table: the levels of the weights, int8.
        code_range: the largest code less the smallest.
    """
    if channels < FEWEST_CHANNELS or channels % 4:
        return 0
    largest = int(np.abs(table.astype(np.int32)).max())
    for dimensions in (2, 1):
        if 3**dimensions * largest <= 127 and 2 * dimensions * code_range <= 255:
            return dimensions
    return 0


def transform_weights(weights: np.ndarray, dimensions: int) -> np.ndarray:
    """Return (transforms, outputs, channels, rows, 1): three rows in one dimension, one in two.

    Args:
        weights: (outputs, channels, 3, 3), of a type that holds the transforms.
    """
    windows = np.ascontiguousarray(weights.transpose(2, 3, 0, 1))
    transformed = np.stack(_three_to_four(*windows.transpose(1, 0, 2, 3)))  # [column transform][row]
    if dimensions == 1:
        return transformed.transpose(0, 2, 3, 1)[..., None]
    squares = np.stack(_three_to_four(*transformed.transpose(1, 0, 2, 3)))  # [row transform][column transform]
    return squares.reshape(-1, *weights.shape[:2], 1, 1)


def _three_to_four(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return twice Winograd's transforms of three weights, which are whole."""
    return 2 * a, a + b + c, a - b + c, 2 * c


def compensation(weights: np.ndarray, dimensions: int, qmin: int, code_range: int) -> np.ndarray:
    """Return what to add to each output of a tile before its halving, (outputs of a tile, outputs), int32.

    Codes are counted from qmin, and the transforms that may be negative have a constant added.
    """
    windows = weights.sum(axis=1, keepdims=True, dtype=np.int64)
    sums = transform_weights(windows, dimensions).sum(axis=(2, 3, 4))
    if dimensions == 1:
        constants = np.full(OUTPUTS.shape[1], code_range)
        constants[PLUS] = 0
        added = OUTPUTS @ (constants[:, None] * sums)
    else:
        constants = np.full((OUTPUTS.shape[1],) * 2, 2 * code_range)
        constants[PLUS, PLUS] = 0
        sums = constants[:, :, None] * sums.reshape(*constants.shape, -1)
        added = np.einsum("us,vt,sto->uvo", OUTPUTS, OUTPUTS, sums).reshape(TILE**2, -1)
    return (2**dimensions * qmin * windows.sum(axis=(1, 2, 3)) - added).astype(np.int32)
