"""Winograd's form of 3x3 convolutions, exact in whole numbers: which have one, and their weights.

The other half is csrc/winograd.h.
"""

from __future__ import annotations

import numpy as np

TILE = 2  # outputs along a dimension
FEWEST_CHANNELS = (
    32  # below, cutting the image into tiles and putting the outputs together costs what the products save
)
MOST_CHANNELS = 4096  # so that a sum of 4 * 63 * 127 for each of 9 channels' sums fits in 32 bits

# Twice Winograd's weights, whole numbers: transforms of three weights.
WEIGHTS = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
# What becomes of the products: outputs of a tile from transforms.
OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
PLUS = 1  # the transform of codes that has no minus sign


def dimensions_of(levels: np.ndarray, code_range: int) -> int:
    """Return 2 for F(2x2, 3x3), 1 for F(2, 3), 0 where neither fits in 8 bits.

    Args:
        levels: (outputs, channels, 3, 3), int8.
        code_range: the largest code less the smallest.
    """
    if not FEWEST_CHANNELS <= levels.shape[1] <= MOST_CHANNELS or levels.shape[1] % 4:
        return 0
    for dimensions in (2, 1):
        weights = transform_weights(levels, dimensions)
        if 2 * dimensions * code_range <= 255 and -128 <= weights.min() and weights.max() <= 127:
            return dimensions
    return 0


def transform_weights(levels: np.ndarray, dimensions: int) -> np.ndarray:
    """Return (transforms, outputs, channels, rows, 1), int32: three rows in one dimension, one in two."""
    levels = levels.astype(np.int32)
    if dimensions == 1:
        return np.einsum("tj,ocij->toci", WEIGHTS, levels)[..., None]
    squares = np.einsum("si,tj,ocij->stoc", WEIGHTS, WEIGHTS, levels)
    return squares.reshape(len(WEIGHTS) ** 2, *levels.shape[:2], 1, 1)


def compensation(levels: np.ndarray, dimensions: int, qmin: int, code_range: int) -> np.ndarray:
    """Return what to add to each output of a tile before its halving, (outputs of a tile, outputs), int32.

    Codes are counted from qmin, and the transforms that may be negative have a constant added.
    """
    sums = transform_weights(levels, dimensions).sum(axis=(2, 3, 4), dtype=np.int64)
    if dimensions == 1:
        constants = np.full(len(WEIGHTS), code_range)
        constants[PLUS] = 0
        added = OUTPUTS @ (constants[:, None] * sums)
    else:
        constants = np.full((len(WEIGHTS),) * 2, 2 * code_range)
        constants[PLUS, PLUS] = 0
        sums = constants[:, :, None] * sums.reshape(*constants.shape, -1)
        added = np.einsum("us,vt,sto->uvo", OUTPUTS, OUTPUTS, sums).reshape(TILE**2, -1)
    return (2**dimensions * qmin * levels.sum(axis=(1, 2, 3), dtype=np.int64) - added).astype(np.int32)
