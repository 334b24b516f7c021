"""Nodes that only move numbers: slices, pads, concatenations, channel shuffles, and what flattens an image."""

from __future__ import annotations

from asqcli.artifact import nodes
from asqcli.engine.interface import NotNative
from asqcli.engine.native.bindings import OP_COPY, CopyOp, Int
from asqcli.engine.native.values import Values

COPIES = (nodes.Slice, nodes.Pad, nodes.Concat)  # nodes whose input may lie anywhere

Box = tuple[int, int, int]
View = tuple[int, list[int]]  # where a value begins in its storage, and the strides of its rows, columns and channels


class Copies:
    """Adds the steps of such nodes, as few as there can be.

    Attributes:
        views: value -> where it lies among the numbers of another.
        shuffled: channel shuffles: 4-D value -> (3-D value whose memory it aliases, are its first two axes swapped?)
    """

    def __init__(self, values: Values) -> None:
        self.values = values
        self.views: dict[int, View] = {}
        self.shuffled: dict[int, tuple[int, bool]] = {}

    def add(self, node: nodes.AnyNode, result: int) -> None:
        """Add the steps of a node that makes the value `result`.

        Raises:
            NotNative: it moves numbers in a way that there is no step for.
        """
        source, shapes = node.inputs[0], self.values.shapes
        match node:
            case nodes.Reshape() | nodes.Transpose() if 4 in (len(shapes[source]), len(shapes[result])):
                self._shuffle(node, source, result)
            case nodes.Reshape() if len(node.shape) == 1:
                self._flatten(source, result)
            case nodes.Reshape() if shapes[source][0] == shapes[result][0]:
                self._regroup_pixels(source, result)
            case nodes.Slice():
                self._slice(node, source, result)
            case nodes.Transpose() if len(shapes[source]) == 3:
                self._transpose(node, source, result)
            case nodes.Concat():
                self._concat(node, result)
            case nodes.Pad() if len(node.before) == 3:
                self._pad(node, source, result)
            case _:
                raise NotNative(f"`{node.op}` (`{node.name}`)")

    def _flatten(self, source: int, result: int) -> None:
        _, height, width = self.values.image(source)
        if height * width == 1:
            self.values.alias(result, source)
        else:
            self._copy(source, result, to_stride=(width, 1, height * width))

    def _regroup_pixels(self, source: int, result: int) -> None:
        """Add a node that gives the pixels of an image in rows of another length: channels last, nothing moves."""
        channels, _, width = self.values.image(source)
        if self.values.image(source) == self.values.image(result):
            self.values.alias(result, source)
        else:  # a copy all the same, since sums of rows are kept beside an image
            self._copy(source, result, to_stride=(width * channels, channels, 1))

    def _shuffle(self, node: nodes.Reshape | nodes.Transpose, source: int, result: int) -> None:
        """Add a node of a channel shuffle: (C, H, W) to (groups, C / groups, H, W), which are exchanged, and back.

        In memory a value of four dimensions stays the one of three that it was, until the channels are copied.
        """
        shape, before = self.values.shapes[result], self.values.shapes[source]
        origin, swapped = self.shuffled.get(source, (source, False))
        if isinstance(node, nodes.Transpose):
            fits, swapped = sorted(node.axes) == [0, 1], not swapped
        else:
            fits = sorted((len(shape), len(before))) == [3, 4] and shape[-2:] == before[-2:]
        if not fits:
            raise NotNative(f"`{node.op}` of {before} to {shape} (`{node.name}`)")
        if len(shape) == 3 and swapped:
            each, groups, height, width = before
            self._copy(
                origin, result, view=(0, [each * groups, each, 1]), box=(height * width, groups, each),
                to_stride=(each * groups, 1, groups),
            )  # fmt: skip
            return
        self.values.alias(result, source)
        if len(shape) == 4:
            self.shuffled[result] = origin, swapped

    def _slice(self, node: nodes.Slice, source: int, result: int) -> None:
        values = self.values
        channels, height, width = values.image(result)
        at, stride = self._view(source)
        axis = {0: 2, 1: 0, 2: 1}[node.axis]  # axes of (C, H, W) among (rows, columns, channels)
        at += node.start * stride[axis]
        stride = [step * (node.step if k == axis else 1) for k, step in enumerate(stride)]
        if result < len(values.nodes) and all(isinstance(values.nodes[k], COPIES) for k in values.consumers[result]):
            values.alias(result, source)
            self.views[result] = at, stride
        else:
            self._copy(source, result, view=(at, stride), box=(height, width, channels))

    def _transpose(self, node: nodes.Transpose, source: int, result: int) -> None:
        stride, (first, second) = self._axis_strides(result), node.axes
        stride[first], stride[second] = stride[second], stride[first]
        self._copy(source, result, to_stride=(stride[1], stride[2], stride[0]))

    def _concat(self, node: nodes.Concat, result: int) -> None:
        at, stride = 0, self._axis_strides(result)[node.axis]
        for source in node.inputs:
            channels, height, width = self.values.image(source)
            self._copy(source, result, box=(height, width, channels), to_at=at)
            at += self.values.shapes[source][node.axis] * stride

    def _axis_strides(self, value: int) -> list[int]:
        """Return how far neighbours along (channels, height, width) lie from each other, channels last."""
        channels, _, width = self.values.image(value)
        return [1, width * channels, channels]

    def _pad(self, node: nodes.Pad, source: int, result: int) -> None:
        channels, height, width = self.values.image(source)
        out_channels, _, out_w = self.values.image(result)
        before_c, before_h, before_w = node.before
        at = (before_h * out_w + before_w) * out_channels + before_c
        self._copy(source, result, box=(height, width, channels), to_at=at)

    def _view(self, value: int) -> View:
        channels, _, width = self.values.image(value)
        return self.views.get(value, (0, [width * channels, channels, 1]))

    def _copy(
        self,
        source: int,
        result: int,
        *,
        view: View | None = None,
        box: Box | None = None,
        to_at: int = 0,
        to_stride: Box | None = None,
    ) -> None:
        """Add a copy of a box of (rows, columns, channels); strides and offsets in numbers, channels last.

        Args:
            view: the source's, where it is not its own.
        """
        values = self.values
        channels, height, width = values.image(source)
        out_channels, _, out_w = values.image(result)
        from_at, from_stride = view or self._view(source)
        if result not in values.storages:
            # Zeros around a box are written once, so the memory cannot be another value's in between.
            values.new(result, reusable=box is None)
        op = values.op(
            OP_COPY, source, result,
            copy=CopyOp(
                box=(Int * 3)(*(box or (height, width, channels))),
                from_stride=(Int * 3)(*from_stride),
                to_stride=(Int * 3)(*(to_stride or (out_w * out_channels, out_channels, 1))),
            ),
        )  # fmt: skip
        op.x = values.address(source) + 4 * from_at
        op.out = values.address(result) + 4 * to_at
        values.add(result, op)
