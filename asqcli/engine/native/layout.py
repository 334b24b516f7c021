"""How the codes and weights of a convolution lie in memory (see csrc/kernel.h)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from asqcli.arithmetic.constants import ADAPTER_LANES
from asqcli.artifact.nodes import Conv, Linear
from asqcli.engine.native.bindings import BLOCK, DEPTH, LAYOUT_PIXELS, LAYOUT_PLANES, LAYOUT_ROW_QUADS, ConvOp
from asqcli.engine.native.winograd import TILE, dimensions_of, transform_weights

OUTPUT_NUMBERS = 6  # compensation, scales, bias and batch norm
INT16_MAX = 2**15 - 1
MOST_POOLED_WEIGHTS = 2**15  # bytes: they stay in the first cache while a pool takes row after row


@dataclass(frozen=True)
class Layout:
    """The layout of one convolution; a linear layer is one of 1x1 on one pixel.

    Args:
        kind: LAYOUT_PIXELS, LAYOUT_PLANES or LAYOUT_ROW_QUADS.
        channels, height, width: the image's.
        kernel, dilation: (rows, columns).
        padding: top, left, bottom, right.
        winograd: dimensions of Winograd's form (see winograd.py), or 0.
    """

    kind: int
    channels: int
    height: int
    width: int
    outputs: int
    groups: int
    kernel: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    winograd: int = 0

    def in_winograd_form(self, dimensions: int) -> Layout:
        """Return the same with a border that completes the last tiles."""
        top, left, bottom, right = self.padding
        right += self.columns % TILE
        if dimensions == 2:
            bottom += self.rows % TILE
        return replace(self, padding=(top, left, bottom, right), winograd=dimensions)

    @property
    def transforms(self) -> int:
        return 4**self.winograd

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles, of the transformed image: of every row of the image in one dimension."""
        return (self.rows - TILE) // TILE if self.winograd == 2 else self.rows, (self.columns - TILE) // TILE

    @property
    def plane(self) -> int:
        """Bytes of one transform of the codes; not a multiple of what a cache would map to the same lines."""
        size = self.tiles[0] * self.tiles[1] * self.channels
        return size + 2 * BLOCK * DEPTH * (size % 1024 == 0)

    @property
    def transformed_bytes(self) -> int:
        return self.transforms * self.plane + BLOCK * DEPTH if self.winograd else 0

    @property
    def per_group(self) -> int:
        return self.channels // self.groups

    @property
    def rows(self) -> int:
        """Rows of the padded image."""
        return self.padding[0] + self.height + self.padding[2]

    @property
    def columns(self) -> int:
        """Columns of the padded image."""
        return self.padding[1] + self.width + self.padding[3]

    @property
    def row_is_contiguous(self) -> bool:
        """Do the codes of one window row lie next to each other?"""
        return self.kind == LAYOUT_PIXELS and self.groups == self.dilation[1] == 1

    @property
    def by_rows(self) -> bool:
        """Are the weights so few that they may be read again for every row of the output?"""
        weights = self.outputs * self.per_group * self.kernel[0] * self.kernel[1]
        return self.groups == 1 and not self.winograd and weights <= MOST_POOLED_WEIGHTS

    @property
    def group_stride(self) -> int:
        """Bytes from the codes of a group to those of the next."""
        return self.per_group if self.row_is_contiguous else padded(self.per_group, DEPTH)

    @property
    def code_bytes(self) -> int:
        """Bytes of the padded image, with the block after the last code that a kernel may read."""
        if self.kind == LAYOUT_PIXELS:
            codes = self.rows * self.columns * self.groups * self.group_stride
        else:
            codes = padded(self.rows, DEPTH if self.kind == LAYOUT_ROW_QUADS else 1) * self.columns * self.channels
        return codes + BLOCK * DEPTH

    def codes(self, memory: np.ndarray) -> np.ndarray:
        """Return the codes above qmin inside the border, (height, width, channels); `memory` begins with them."""
        if self.kind == LAYOUT_ROW_QUADS:
            quads = memory[: padded(self.rows, DEPTH) * self.columns * self.channels]
            quads = quads.reshape(-1, self.columns, self.channels, DEPTH)
            image = quads.transpose(0, 3, 1, 2).reshape(-1, self.columns, self.channels)
        elif self.kind == LAYOUT_PLANES:
            image = memory[: self.rows * self.columns * self.channels]
            image = image.reshape(self.rows, self.channels, self.columns).transpose(0, 2, 1)
        else:
            image = memory[: self.rows * self.columns * self.groups * self.group_stride]
            image = image.reshape(self.rows, self.columns, self.groups, self.group_stride)[..., : self.per_group]
        top, left = self.padding[:2]
        image = image[top : top + self.height, left : left + self.width]
        return image.reshape(self.height, self.width, self.channels)

    def gap_bytes(self, taps: int) -> int:
        """Return the bytes that the packed weights take more than the weights, with the numbers of each output.

        Args:
            taps: their number in a window.
        """
        parts = 1 if self.kind == LAYOUT_ROW_QUADS else self.groups
        outputs = parts * padded(self.outputs // parts, BLOCK)
        packed = outputs * DEPTH * taps * (DEPTH if self.kind == LAYOUT_ROW_QUADS else self.transforms)
        weights = self.outputs * self.per_group * self.kernel[0] * self.kernel[1]
        return packed - weights + 4 * (taps + OUTPUT_NUMBERS * outputs)

    def offsets(self) -> np.ndarray:
        """Return the taps of a window, int32: bytes from its first four codes to each, in the order of `pack`."""
        rows = np.arange(self.kernel[0])[:, None, None] * self.dilation[0]
        columns = np.arange(self.kernel[1])[:, None] * self.dilation[1]
        if self.winograd:
            rows = np.arange(self.kernel[0] if self.winograd == 1 else 1)[:, None]
            offsets = rows * self.tiles[1] * self.channels + _steps(self.channels)
        elif self.kind == LAYOUT_ROW_QUADS:
            quads = np.arange(self.row_quads)[:, None] * self.columns
            offsets = (quads + columns[:, 0]) * self.channels * DEPTH
        elif self.kind == LAYOUT_PLANES:
            planes = np.arange(self.channels)[:, None]
            offsets = (rows * self.channels + planes) * self.columns + _steps(self.kernel[1])
        elif self.row_is_contiguous:
            offsets = rows * self.columns * self.channels + _steps(self.kernel[1] * self.channels)
        else:
            pixel = self.groups * self.group_stride
            offsets = (rows * self.columns + columns) * pixel + _steps(self.per_group)
        return offsets.reshape(-1).astype(np.int32)

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights in the order of their use; `weights`: (outputs, channels / groups, *kernel), int8."""
        if self.kind == LAYOUT_ROW_QUADS:
            return self._pack_row_quads(weights)
        if self.winograd:
            transforms = transform_weights(weights, self.winograd)
            packed = [_pack_blocks(transform, groups=1) for transform in transforms]
            return np.stack(packed, axis=2)  # [group][block][transform]..
        if self.kind == LAYOUT_PLANES:
            weights = weights.transpose(0, 3, 2, 1)  # numbers that lie side by side come first
        elif self.row_is_contiguous:
            weights = weights.transpose(0, 3, 1, 2).reshape(self.outputs, -1, self.kernel[0], 1)
        return _pack_blocks(weights, self.groups)

    @property
    def _reach(self) -> int:
        """Rows from the first of a window to its last, both counted."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1

    @property
    def row_quads(self) -> int:
        """Quads of rows that a window touches at most: it may begin at the last row of one."""
        return padded(DEPTH - 1 + self._reach, DEPTH) // DEPTH

    def _pack_row_quads(self, weights: np.ndarray) -> np.ndarray:
        blocks = np.zeros((padded(self.outputs, BLOCK), DEPTH, self.row_quads * DEPTH, self.kernel[1]), np.int8)
        for first in range(DEPTH):
            blocks[: self.outputs, first, first : first + self._reach : self.dilation[0]] = weights[:, 0]
        blocks = blocks.reshape(-1, BLOCK, DEPTH, self.row_quads, DEPTH, self.kernel[1])
        return blocks.transpose(0, 2, 3, 5, 1, 4)


def layout_of(
    node: Conv | Linear, image: tuple[int, int, int], table: np.ndarray, *, planar: bool, winograd: bool
) -> Layout:
    """Return the layout of a node's codes and weights.

    Args:
        image: (channels, height, width) of its input.
        table: its levels.
        planar: does the image come channels first?
        winograd: may it have Winograd's form?
    """
    channels, height, width = image
    outputs, _, *kernel = node.weights.shape
    if isinstance(node, Linear):
        return Layout(LAYOUT_PIXELS, channels, height, width, outputs, 1, (1, 1), (1, 1), (0, 0, 0, 0))
    kind = LAYOUT_PLANES if planar else LAYOUT_ROW_QUADS if node.groups == channels == outputs > 1 else LAYOUT_PIXELS
    layout = Layout(
        kind, channels, height, width, outputs, node.groups, (kernel[0], kernel[1]), node.dilation, node.padding
    )
    if kind == LAYOUT_ROW_QUADS and layout.row_quads > kernel[0]:  # rows far apart: most products would be with zeros
        layout = replace(layout, kind=LAYOUT_PIXELS)
    if winograd and layout.row_is_contiguous and kernel == [3, 3] and node.stride == node.dilation == (1, 1):
        code_range = node.activations.qmax - node.activations.qmin
        dimensions = dimensions_of(table, channels, code_range)
        if dimensions:
            return layout.in_winograd_form(dimensions)
    return layout


def bare_step(layout: Layout, stride: tuple[int, int], *, qmin: int, qmax: int, largest_level: int) -> ConvOp:
    """Return the step of a convolution but for all that it points to: taps, weights, scales and scratch.

    Args:
        stride: (rows, columns).
        qmin, qmax: bounds of the activations' codes.
        largest_level: magnitude of a weight's.
    """
    top, left, bottom, right = layout.padding
    return ConvOp(
        top=top, left=left, bottom=bottom, right=right, kernel_h=layout.kernel[0], kernel_w=layout.kernel[1],
        stride_h=stride[0], stride_w=stride[1], dilation_h=layout.dilation[0], dilation_w=layout.dilation[1],
        groups=layout.groups, qmin=qmin, qmax=qmax, layout=layout.kind, group_stride=layout.group_stride,
        int16_taps=int16_taps(qmax - qmin, largest_level), winograd=layout.winograd, plane=layout.plane,
    )  # fmt: skip


def int16_taps(code_range: int, largest_level: int) -> int:
    """Return how many taps' pair sums, of two products each, fit in int16 together.

    Args:
        code_range: the largest code less the smallest.
        largest_level: magnitude of a weight.
    """
    return INT16_MAX // max(1, 2 * code_range * largest_level)


def _pack_blocks(weights: np.ndarray, groups: int) -> np.ndarray:
    """Return [group][block][row][column][depth / DEPTH][BLOCK outputs][DEPTH], zeros in the gaps.

    Args:
        weights: (outputs, depth, height, width).
    """
    outputs, depth, height, width = weights.shape
    per_group = outputs // groups
    blocks = np.zeros((groups, padded(per_group, BLOCK), padded(depth, DEPTH), height, width), weights.dtype)
    blocks[:, :per_group, :depth] = weights.reshape(groups, per_group, depth, height, width)
    blocks = blocks.reshape(groups, -1, BLOCK, blocks.shape[2] // DEPTH, DEPTH, height, width)
    return blocks.transpose(0, 1, 5, 6, 3, 2, 4)


def _steps(count: int) -> np.ndarray:
    return np.arange(0, count, DEPTH)


def pack_adapter(weight: np.ndarray) -> np.ndarray:
    """Return the weights of an adapter's layer, (outputs, inputs), in the order of their use."""
    outputs, inputs = (padded(n, to) for n, to in zip(weight.shape, (DEPTH, ADAPTER_LANES), strict=True))
    rows = np.zeros((outputs, inputs), weight.dtype)
    rows[: weight.shape[0], : weight.shape[1]] = weight
    return rows.reshape(-1, DEPTH, inputs // ADAPTER_LANES, ADAPTER_LANES).transpose(0, 2, 1, 3)


def by_group(values: np.ndarray, groups: int) -> np.ndarray:
    """Return one number for each output, those of each group padded to BLOCK with zeros; groups 0: as one."""
    rows = values.reshape(max(1, groups), -1)
    count, size = rows.shape
    grouped = np.zeros((count, padded(size, BLOCK)), values.dtype)
    grouped[:, :size] = rows
    return grouped


def padded(n: int, to: int) -> int:
    return -(-n // to) * to
