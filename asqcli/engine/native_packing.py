"""Weights and numbers of outputs in the order of the native kernels (see csrc/kernel.h)."""

from __future__ import annotations

import numpy as np

from asqcli.engine.native_library import BLOCK, DEPTH


def pack(levels: np.ndarray, groups: int) -> np.ndarray:
    """Return [group][block][row][column][channels / DEPTH][BLOCK outputs][DEPTH channels], int8, zeros in the gaps.

    Args:
        levels: (C_out, C_in / groups, height, width), int8.
    """
    outputs, channels, height, width = levels.shape
    per_group = outputs // groups
    blocks = np.zeros((groups, padded(per_group, BLOCK), padded(channels, DEPTH), height, width), np.int8)
    blocks[:, :per_group, :channels] = levels.reshape(groups, per_group, channels, height, width)
    blocks = blocks.reshape(groups, -1, BLOCK, blocks.shape[2] // DEPTH, DEPTH, height, width)
    return blocks.transpose(0, 1, 5, 6, 3, 2, 4)


def pack_depthwise(levels: np.ndarray) -> np.ndarray:
    """Return [block][row][column][BLOCK], int32, zeros in the gaps; `levels`: (outputs, 1, height, width)."""
    outputs, _, height, width = levels.shape
    blocks = np.zeros((padded(outputs, BLOCK), height, width), np.int32)
    blocks[:outputs] = levels[:, 0]
    return blocks.reshape(-1, BLOCK, height, width).transpose(0, 2, 3, 1)


def by_group(values: np.ndarray, groups: int) -> np.ndarray:
    """Return one number for each output, those of each group padded to BLOCK with zeros; groups 0: as one."""
    rows = values.reshape(max(1, groups), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))


def padded(n: int, to: int) -> int:
    return -(-n // to) * to
