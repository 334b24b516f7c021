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


def pack_depthwise(levels: np.ndarray, dilation: int) -> np.ndarray:
    """Return [block][first row % DEPTH][rows / DEPTH][column][BLOCK outputs][DEPTH rows], int8, zeros in the gaps.

    Args:
        levels: (outputs, 1, height, width), int8.
        dilation: rows from one of the window to the next.
    """
    outputs, _, height, width = levels.shape
    reach = (height - 1) * dilation + 1
    blocks = np.zeros((padded(outputs, BLOCK), DEPTH, padded(DEPTH - 1 + reach, DEPTH), width), np.int8)
    for phase in range(DEPTH):
        blocks[:outputs, phase, phase : phase + reach : dilation] = levels[:, 0]
    blocks = blocks.reshape(-1, BLOCK, DEPTH, blocks.shape[2] // DEPTH, DEPTH, width)
    return blocks.transpose(0, 2, 3, 5, 1, 4)


def tap_offsets(kernel: tuple[int, int], dilation: tuple[int, int], image: tuple[int, int]) -> np.ndarray:
    """Return where the codes of each (rows of DEPTH, column) of a depthwise window lie, int32, from those of the first.

    Args:
        image: columns of the padded image, channels.
    """
    reach = (kernel[0] - 1) * dilation[0] + 1
    columns, channels = image
    rows = np.arange(padded(DEPTH - 1 + reach, DEPTH) // DEPTH)[:, None] * columns
    return ((rows + np.arange(kernel[1]) * dilation[1]) * channels * DEPTH).astype(np.int32)


def by_group(values: np.ndarray, groups: int) -> np.ndarray:
    """Return one number for each output, those of each group padded to BLOCK with zeros; groups 0: as one."""
    rows = values.reshape(max(1, groups), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK)))


def padded(n: int, to: int) -> int:
    return -(-n // to) * to
