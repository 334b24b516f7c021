"""A network as a plan of fused steps for the native kernels, with the memory of one image.

Values lie channels last. A convolution takes the batch norm, the sum and the clamp that follow it into its epilogue.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np

from asqcli.artifact import Artifact
from asqcli.artifact import document as doc
from asqcli.engine.native import winograd
from asqcli.engine.native.fusion import Step, fuse
from asqcli.engine.native.layout import Layout, by_group, layout_of, pack_adapter, padded
from asqcli.engine.native.library import (
    AVG_POOL,
    BLOCK,
    CONV,
    COPY,
    ELEMENTWISE,
    FOURS,
    GATE,
    GATES,
    MAX_POOL,
    MEAN,
    MULTIPLY,
    PIXELS,
    ROW_SUMS,
    AdapterLayer,
    Int,
    Op,
)
from asqcli.engine.native.memory import Memory, NotNative, Storage
from asqcli.engine.native.pools import average_windows, max_pool

COPIES = (doc.Slice, doc.Pad, doc.Concat)  # nodes whose input may lie anywhere
INT16_MAX = 2**15 - 1
LARGE = 2**21  # bytes of values that do not stay in a core's second cache
FEW_PLACES = 8  # of a window: products that take less time than to write their sum there and to read it


class Plan:
    """A network's steps with their memory, for one image at a time; execute.py runs them.

    Args:
        artifact: checked.
        shared: packed weights and the like by name, made by the first plan and shared by all.
        winograd: may convolutions take Winograd's form? As the kernel says.
        again: may sums of few products be made again where they are read? As the kernel says.
        threads: that run the plan together, at most.
    Raises:
        NotNative: the network has a node that there is no step for, or needs too much memory.
    """

    def __init__(
        self,
        artifact: Artifact,
        shared: dict[str, np.ndarray],
        *,
        winograd: bool = False,
        again: bool = False,
        threads: int = 1,
    ) -> None:
        self.artifact, self.winograd, self.may_make_again, self.threads = artifact, winograd, again, threads
        self.nodes, self.shapes = artifact.document.nodes, artifact.plan.shapes
        self.consumers: list[list[int]] = [[] for _ in self.shapes]
        for index, node in enumerate(self.nodes):
            for value in node.inputs:
                self.consumers[value].append(index)
        self.memory = Memory(shared)
        self.values: dict[int, Storage] = {}
        # Values that lie among the numbers of another (see `_places`).
        self.views: dict[int, tuple[int, list[int]]] = {}
        # Values of four dimensions: that of three which they lie in memory as, and whether the first two are exchanged.
        self.shuffled: dict[int, tuple[int, bool]] = {}
        self.steps: list[Op] = []
        # Values that are made again where they are read, and the convolution that makes them; it and who reads them.
        self.again: dict[int, Op] = {}
        self.makers: list[tuple[Op, Op]] = []
        self.layers: list[tuple[doc.Conv | doc.Linear, Layout]] = []  # of the steps that are convolutions
        self._new_value(0, reusable=False)
        self.planar = self._takes_planes()
        for step in fuse(self.nodes, self.consumers, lambda index: self._layout(self.nodes[index]).by_rows):
            self._add(step)
        self._add_codes()
        self.input = self.values[0].array
        self.output = self.values[len(self.nodes)].array[: len(artifact.document.classes)]
        self.ops = self._array()
        # The only step that reads the image takes it where it is.
        self.reader = next(op for op in self.ops if op.kind == CONV) if self.planar else None

    def _add(self, step: Step) -> None:
        node = self.nodes[step.index]
        match node:
            case doc.Conv() | doc.Linear():
                self._add_conv(node, step)
            case doc.BatchNorm() | doc.Add() | doc.Clamp():
                self._add_elementwise(node, step)
            case _:
                self._add_other(node, step.result)
        inputs = [set(self.nodes[index].inputs) for index in step.nodes]
        for value in set.union(*inputs) & self.values.keys():
            self.memory.release(self.values[value], sum(value in read for read in inputs))

    def _takes_planes(self) -> bool:
        """Is the image only read by one convolution that takes it as it comes, channels first?"""
        node = self.nodes[self.consumers[0][0]] if len(self.consumers[0]) == 1 else None
        return isinstance(node, doc.Conv) and node.groups == node.dilation[1] == 1 and node.activations.adapter is None

    def _add_codes(self) -> None:
        """Give the convolutions memory for codes, and tell each whose weights are needed next.

        It is the same to all but those that are needed again.
        """
        convs = [op for op in self.steps if op.kind == CONV]
        sizes = [layout.code_bytes for _, layout in self.layers]
        kept = [op in self.again.values() for op in convs]
        shared = self._bytes(max((size for size, keep in zip(sizes, kept, strict=True) if not keep), default=0))
        transformed = self._bytes(max((layout.transformed_bytes for _, layout in self.layers), default=0)).ctypes.data
        self.codes = [self._bytes(size) if keep else shared for size, keep in zip(sizes, kept, strict=True)]
        following = None
        for op, codes in reversed(list(zip(convs, self.codes, strict=True))):
            op.codes, op.transformed, op.next = codes.ctypes.data, transformed, following
            if op.layout != FOURS:
                following = op.packed

    def _bytes(self, size: int) -> np.ndarray:
        self.memory.reserve(size)
        return self.memory.keep(np.zeros(size, np.uint8))

    def _array(self) -> ctypes.Array:
        """Return the steps as C sees them, which say by address whose values they make again."""
        ops = (Op * len(self.steps))(*self.steps)
        for op, reader in self.makers:
            ops[self.steps.index(reader)].again = ctypes.addressof(ops[self.steps.index(op)])
        return ops

    def _new_value(self, value: int, *, reusable: bool = True) -> Storage:
        last = value == len(self.nodes)
        storage = self.memory.store(
            math.prod(self.shapes[value]), len(self.consumers[value]) + last, reusable=reusable and not last
        )
        self.values[value] = storage
        return storage

    def _alias(self, value: int, of: int) -> None:
        storage = self.values[value] = self.values[of]
        storage.uses += len(self.consumers[value]) + (value == len(self.nodes))

    def _row_sums(self, value: int) -> int:
        """Return the address of the sums along a value's rows, from the step that writes it or one more."""
        storage, (channels, height, width) = self.values[value], self._image(value)
        if storage.row_sums is None:
            self.memory.reserve(8 * height * channels)
            storage.row_sums = self.memory.point(np.zeros((height, channels)))
            op = storage.producer
            if op is None:
                op = Op(kind=ROW_SUMS, x=self.values[value].address, height=height, width=width, channels=channels)
                self.steps.append(op)
            op.row_sums = storage.row_sums
        return storage.row_sums

    def _image(self, value: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of a value."""
        shape = self.shapes[value]
        if len(shape) == 1:
            return shape[0], 1, 1
        if len(shape) != 3:
            raise NotNative(f"a value of shape {shape}")
        return shape

    # Steps

    def _op(self, kind: int, source: int, result: int, **settings) -> Op:
        channels, height, width = self._image(source)
        outputs, out_h, out_w = self._image(result)
        x = self.values[source].address
        return Op(
            kind=kind, x=x, height=height, width=width, channels=channels, outputs=outputs, out_h=out_h, out_w=out_w,
            low=-math.inf, high=math.inf, groups=1, **settings,
        )  # fmt: skip

    def _epilogue(self, op: Op, step: Step, groups: int) -> None:
        if step.g is not None:
            tensors = self.artifact.tensors
            op.g = self.memory.share(f"{step.g}/{groups}", lambda: by_group(tensors[step.g], groups))
            op.b = self.memory.share(f"{step.b}/{groups}", lambda: by_group(tensors[step.b], groups))
        op.low, op.high = step.low, step.high
        op.y = None if step.other is None else self.values[step.other].address
        if op.kind == CONV and self._is_made_again(op, step):
            self._make_again(op, step.result)
        else:
            op.out = self._new_value(step.result).address
        self.values[step.result].producer = op
        self.steps.append(op)

    def _is_made_again(self, op: Op, step: Step) -> bool:
        """Would the values of a convolution only go to memory for a depthwise one, until the mean of them is known?"""
        readers = [self.nodes[index] for index in self.consumers[step.result]]
        return (
            self.may_make_again
            and len(readers) == 1
            and isinstance(readers[0], doc.Conv)
            and self._layout(readers[0]).kind == FOURS
            and op.layout == PIXELS
            and op.groups == 1
            and not op.winograd
            and op.places <= FEW_PLACES
            and op.outputs % BLOCK == 0
            and step.other is None
            and step.pool is None
            and 4 * math.prod(self.shapes[step.result]) > LARGE
        )

    def _make_again(self, op: Op, result: int) -> None:
        """Keep the codes of a convolution instead of its values; who reads these makes them again."""
        self.again[result] = op
        self.values[result] = Storage(np.empty(0, np.float32), len(self.consumers[result]), reusable=False)
        strips = self.threads * max(4 * op.out_w * BLOCK, op.outputs)
        self.memory.reserve(4 * strips)
        op.strip = self.memory.point(np.zeros(strips, np.float32))

    def _add_elementwise(self, node, step: Step) -> None:
        op = self._op(ELEMENTWISE, node.inputs[0], step.result)
        self._epilogue(op, step, groups=0)

    def _add_conv(self, node: doc.Conv | doc.Linear, step: Step) -> None:
        activations, weights, tensors = node.activations, node.weights, self.artifact.tensors
        layout, stride = self._layout(node), node.stride if isinstance(node, doc.Conv) else (1, 1)
        self.layers.append((node, layout))
        parts = 0 if layout.kind == FOURS else layout.groups  # of the arrays over outputs
        key = weights.codes

        @cache
        def levels() -> np.ndarray:
            return self.artifact.levels(weights).reshape(layout.outputs, -1, *layout.kernel)

        def compensation() -> np.ndarray:
            if layout.winograd:
                code_range = activations.qmax - activations.qmin
                constants = winograd.compensation(levels(), layout.winograd, activations.qmin, code_range)
                return by_group(constants, len(constants))
            return by_group(activations.qmin * levels().sum(axis=(1, 2, 3), dtype=np.int32), parts)

        def scale() -> np.ndarray:
            return by_group(np.broadcast_to(tensors[weights.scale], layout.outputs), parts)

        offsets = layout.offsets()
        self.memory.reserve(layout.gap_bytes(len(offsets)))
        top, left, bottom, right = layout.padding
        op = self._op(
            CONV, node.inputs[0], step.index + 1,
            top=top, left=left, bottom=bottom, right=right, kernel_h=layout.kernel[0], kernel_w=layout.kernel[1],
            stride_h=stride[0], stride_w=stride[1], dilation_h=layout.dilation[0], dilation_w=layout.dilation[1],
            qmin=activations.qmin, qmax=activations.qmax, step_size=float(tensors[activations.step_size][0]),
            as_printed=activations.dequantize_by == "step_size",
            layout=layout.kind, group_stride=layout.group_stride, places=len(offsets),
            narrow=self._narrow(node), offset=self.memory.point(offsets), winograd=layout.winograd, plane=layout.plane,
            packed=self.memory.share(f"{key}/{layout.kind}", lambda: layout.pack(levels())),
            weight_scale=self.memory.share(weights.scale, scale),
            compensation=self.memory.share(f"{key}/compensation", compensation),
            scale=self.memory.point(np.zeros(padded(layout.outputs, BLOCK) + layout.groups * BLOCK, np.float32)),
        )  # fmt: skip
        op.groups = layout.groups
        if step.pool is not None:
            op.pool = max_pool(step.pool, op.out_h, *self._image(step.result)[1:])
            rows = self.threads * op.pool.ring * op.out_w * op.outputs
            self.memory.reserve(4 * rows)
            op.pool.rows = self.memory.point(np.zeros(rows, np.float32))
        if weights.bias is not None:
            op.bias = self.memory.share(weights.bias, lambda: by_group(tensors[weights.bias], parts))
        if node.inputs[0] in self.again:
            self.makers.append((self.again[node.inputs[0]], op))
        if activations.adapter is not None:
            self._add_adapter(op, node.inputs[0], activations.adapter)
        self._epilogue(op, step, parts)

    def _layout(self, node: doc.Conv | doc.Linear) -> Layout:
        return layout_of(
            node, self._image(node.inputs[0]), self.artifact.tensors[node.weights.levels],
            planar=self.planar and node.inputs[0] == 0, winograd=self.winograd,
        )  # fmt: skip

    def _narrow(self, node: doc.Conv | doc.Linear) -> int:
        """Return of how many places the products, two of each, may be added in 16 bits."""
        largest = int(np.abs(self.artifact.tensors[node.weights.levels].astype(np.int32)).max(initial=0))
        return INT16_MAX // max(1, 2 * (node.activations.qmax - node.activations.qmin) * largest)

    def _add_adapter(self, op: Op, source: int, adapter: doc.Adapter) -> None:
        tensors, inputs = self.artifact.tensors, op.channels
        op.adapter_layers, op.beta_output = len(adapter.layers), adapter.output == "relu"
        for place, layer in enumerate(adapter.layers):
            weight = self.memory.share(layer.weight, lambda w=layer.weight: pack_adapter(tensors[w]))
            quantized = layer.row_scale is not None
            scale = tensors[layer.row_scale] if quantized else np.ones(layer.outputs)
            op.adapter[place] = AdapterLayer(
                codes=weight if quantized else None,
                weight=None if quantized else weight,
                row_scale=self.memory.share(f"{layer.bias}/row_scale", lambda s=scale: s.astype(np.float64)),
                bias=self.memory.share(layer.bias, lambda b=layer.bias: tensors[b].astype(np.float64)),
                inputs=inputs,
                outputs=layer.outputs,
            )
            inputs = layer.outputs
        op.x_sums = self._row_sums(source)
        op.scratch_width = padded(max(op.channels, *(layer.outputs for layer in adapter.layers)), BLOCK)
        scratch = self.threads * op.scratch_width
        self.memory.reserve((2 * 8 + 4) * scratch)
        op.sums = self.memory.point(np.zeros(2 * scratch))
        op.means = self.memory.point(np.zeros(scratch, np.float32))

    def _add_other(self, node, result: int) -> None:
        source = node.inputs[0]
        match node:
            case doc.MaxPool():
                op = self._op(MAX_POOL, source, result)
                op.pool = max_pool(node, op.height, op.out_h, op.out_w)
            case doc.AdaptiveAvgPool() if node.output_size == self._image(source)[1:]:
                return self._alias(result, source)  # windows of one pixel
            case doc.AdaptiveAvgPool() if node.output_size == (1, 1):
                op = self._op(MEAN, source, result)
                op.x_sums = self._row_sums(source)
            case doc.AdaptiveAvgPool() | doc.AvgPool():
                op = self._op(AVG_POOL, source, result)
                windows, op.window_size = average_windows(node, (op.height, op.width), (op.out_h, op.out_w))
                self.memory.reserve(windows.nbytes)
                op.windows = self.memory.point(windows)
            case doc.Gate():
                op = self._op(GATE, source, result, gate=GATES.index(node.op))
            case doc.Mul():
                other = node.inputs[1]
                op = self._op(MULTIPLY, source, result, y=self.values[other].address)
                op.y_is_a_pixel = self.shapes[other] != self.shapes[source]
            case doc.Reshape() | doc.Transpose() if 4 in (len(self.shapes[source]), len(self.shapes[result])):
                return self._add_shuffle(node, source, result)
            case doc.Reshape() if len(node.shape) == 1:
                _, height, width = self._image(source)
                if height * width == 1:
                    return self._alias(result, source)
                return self._copy(source, result, to_stride=(width, 1, height * width))
            case doc.Slice():
                return self._add_slice(node, source, result)
            case doc.Concat() if node.axis == 0:
                return self._add_concat(node, result)
            case doc.Pad() if len(node.before) == 3:
                return self._add_pad(node, source, result)
            case _:
                raise NotNative(f"`{node.op}` (`{node.name}`)")
        op.out = self._new_value(result).address
        if op.kind in (GATE, MULTIPLY):
            self.values[result].producer = op
        self.steps.append(op)
        return None

    def _add_shuffle(self, node: doc.Reshape | doc.Transpose, source: int, result: int) -> None:
        """Add a node of a channel shuffle: (C, H, W) to (groups, C / groups, H, W), which change places, and back.

        In memory a value of four dimensions stays the one of three that it was, until the channels are copied.
        """
        shape, before = self.shapes[result], self.shapes[source]
        origin, swapped = self.shuffled.get(source, (source, False))
        if isinstance(node, doc.Transpose):
            fits, swapped = sorted(node.axes) == [0, 1], not swapped
        else:
            fits = sorted((len(shape), len(before))) == [3, 4] and shape[-2:] == before[-2:]
        if not fits:
            raise NotNative(f"`{node.op}` of {before} to {shape} (`{node.name}`)")
        if len(shape) == 3 and swapped:
            each, groups, height, width = before
            self._copy(
                origin, result, places=(0, [each * groups, each, 1]), box=(height * width, groups, each),
                to_stride=(each * groups, 1, groups),
            )  # fmt: skip
            return
        self._alias(result, source)
        if len(shape) == 4:
            self.shuffled[result] = origin, swapped

    def _places(self, value: int) -> tuple[int, list[int]]:
        """Return where a value begins in its storage, and the strides of its rows, columns and channels."""
        channels, _, width = self._image(value)
        return self.views.get(value, (0, [width * channels, channels, 1]))

    def _copy(self, source: int, result: int, *, places=None, box=None, to_at=0, to_stride=None) -> None:
        """Add a copy of a box of (rows, columns, channels); strides and places in numbers, channels last.

        Args:
            places: as of `_places`, instead of those of the source.
        """
        channels, height, width = self._image(source)
        out_channels, _, out_w = self._image(result)
        from_at, from_stride = places or self._places(source)
        if result not in self.values:
            # Zeros around a box are written once, so the memory cannot be another value's in between.
            self._new_value(result, reusable=box is None)
        op = self._op(
            COPY, source, result,
            box=(Int * 3)(*(box or (height, width, channels))),
            from_stride=(Int * 3)(*from_stride),
            to_stride=(Int * 3)(*(to_stride or (out_w * out_channels, out_channels, 1))),
        )  # fmt: skip
        op.x = self.values[source].address + 4 * from_at
        op.out = self.values[result].address + 4 * to_at
        self.steps.append(op)

    def _add_slice(self, node: doc.Slice, source: int, result: int) -> None:
        channels, height, width = self._image(result)
        at, stride = self._places(source)
        axis = {0: 2, 1: 0, 2: 1}[node.axis]  # of (C, H, W) among (rows, columns, channels)
        at += node.start * stride[axis]
        stride = [step * (node.step if place == axis else 1) for place, step in enumerate(stride)]
        if result < len(self.nodes) and all(isinstance(self.nodes[k], COPIES) for k in self.consumers[result]):
            self._alias(result, source)
            self.views[result] = at, stride
        else:
            self._copy(source, result, places=(at, stride), box=(height, width, channels))

    def _add_concat(self, node: doc.Concat, result: int) -> None:
        at = 0
        for source in node.inputs:
            channels, height, width = self._image(source)
            self._copy(source, result, box=(height, width, channels), to_at=at)
            at += channels

    def _add_pad(self, node: doc.Pad, source: int, result: int) -> None:
        channels, height, width = self._image(source)
        out_channels, _, out_w = self._image(result)
        before_c, before_h, before_w = node.before
        at = (before_h * out_w + before_w) * out_channels + before_c
        self._copy(source, result, box=(height, width, channels), to_at=at)
