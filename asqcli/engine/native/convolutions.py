"""Convolutions and linear layers as steps: their arrays, adapters and epilogues, and recomputation."""

from __future__ import annotations

import ctypes
import math
from functools import cache

import numpy as np

from asqcli.artifact import nodes
from asqcli.engine.native import winograd
from asqcli.engine.native.bindings import (
    BLOCK,
    LAYOUT_PIXELS,
    LAYOUT_ROW_QUADS,
    OP_CONV,
    Adapter,
    AdapterLayer,
    EpilogueTail,
    Op,
)
from asqcli.engine.native.fusion import Step
from asqcli.engine.native.layout import Layout, bare_step, by_group, layout_of, pack_adapter, padded
from asqcli.engine.native.memory import Storage
from asqcli.engine.native.pools import max_pool
from asqcli.engine.native.values import Values

LARGE = 2**21  # bytes of values that do not stay in a core's second cache
FEW_TAPS = 8  # taps of a window, whose products take less time than to write their sum there and to read it

Node = nodes.Conv | nodes.Linear


class Convolutions:
    """Adds the steps of convolutions and linear layers.

    Args:
        winograd: may they take Winograd's form?
        recompute: may cheap ones be recomputed where their values are read?
        threads: the most that run the plan together.

    Attributes:
        planar: does the first one take the image as it comes, channels first?
        layers: the node and layout of each step that is a convolution.
        recomputed: value -> the convolution that is recomputed where it is read.
        recomputations: pairs of that convolution and its reader, which `link` joins by address.
    """

    def __init__(self, values: Values, *, winograd: bool, recompute: bool, threads: int) -> None:
        self.values, self.artifact, self.memory = values, values.artifact, values.memory
        self.winograd, self.may_recompute, self.threads = winograd, recompute, threads
        self.planar = self._takes_planes()
        self.layers: list[tuple[Node, Layout]] = []
        self.recomputed: dict[int, Op] = {}
        self.recomputations: list[tuple[Op, Op]] = []

    def _takes_planes(self) -> bool:
        """Is the image only read by one convolution that takes it as it comes, channels first?"""
        readers = self.values.consumers[0]
        node = self.values.nodes[readers[0]] if len(readers) == 1 else None
        return (
            isinstance(node, nodes.Conv) and node.groups == node.dilation[1] == 1 and node.activations.adapter is None
        )

    def layout(self, node: Node) -> Layout:
        """Return how the codes and weights of a node lie in memory."""
        return layout_of(
            node, self.values.image(node.inputs[0]), self.artifact.tensors[node.weights.levels],
            planar=self.planar and node.inputs[0] == 0, winograd=self.winograd,
        )  # fmt: skip

    def add(self, node: Node, step: Step) -> None:
        """Add the step of a node with all that is fused with it."""
        layout = self.layout(node)
        self.layers.append((node, layout))
        parts = 0 if layout.kind == LAYOUT_ROW_QUADS else layout.groups  # parts of the arrays over outputs
        op = self._op(node, step, layout, parts)
        if step.pool is not None:
            self._add_pool(op, step.pool, step.result)
        if node.weights.bias is not None:
            bias = self.artifact.tensors[node.weights.bias]
            op.conv.bias = self.memory.share(node.weights.bias, lambda: by_group(bias, parts))
        if node.inputs[0] in self.recomputed:
            self.recomputations.append((self.recomputed[node.inputs[0]], op))
        if node.activations.adapter is not None:
            self._add_adapter(op, node.inputs[0], node.activations.adapter)
        op.conv.tail = tail_of(step, self.values, parts)
        if self._is_recomputed(op, step):
            self._recompute(op, step.result)
        else:
            self.values.write(step.result, op)

    def _op(self, node: Node, step: Step, layout: Layout, parts: int) -> Op:
        """Return a step that is only the sums of products, with its packed weights and scratch."""
        activations, weights, tensors = node.activations, node.weights, self.artifact.tensors
        stride = node.stride if isinstance(node, nodes.Conv) else (1, 1)

        @cache
        def integer_weights() -> np.ndarray:
            return self.artifact.levels(weights).reshape(layout.outputs, -1, *layout.kernel)

        def compensation() -> np.ndarray:
            if layout.winograd:
                code_range = activations.qmax - activations.qmin
                constants = winograd.compensation(integer_weights(), layout.winograd, activations.qmin, code_range)
                return by_group(constants, len(constants))
            return by_group(activations.qmin * integer_weights().sum(axis=(1, 2, 3), dtype=np.int32), parts)

        def scale() -> np.ndarray:
            return by_group(np.broadcast_to(tensors[weights.scale], layout.outputs), parts)

        offsets = layout.offsets()
        self.memory.reserve(layout.gap_bytes(len(offsets)))
        conv = bare_step(
            layout, stride, qmin=activations.qmin, qmax=activations.qmax, largest_level=self._largest_level(node)
        )
        conv.step_size = float(tensors[activations.step_size][0])
        conv.as_printed = activations.dequantize_by == "step_size"
        conv.taps, conv.offset = len(offsets), self.memory.point(offsets)
        conv.packed = self.memory.share(f"{weights.codes}/{layout.kind}", lambda: layout.pack(integer_weights()))
        conv.weight_scale = self.memory.share(weights.scale, scale)
        conv.compensation = self.memory.share(f"{weights.codes}/compensation", compensation)
        conv.scale = self.memory.point(np.zeros(padded(layout.outputs, BLOCK) + layout.groups * BLOCK, np.float32))
        return self.values.op(OP_CONV, node.inputs[0], step.index + 1, conv=conv)

    def _largest_level(self, node: Node) -> int:
        return int(np.abs(self.artifact.tensors[node.weights.levels].astype(np.int32)).max(initial=0))

    def _add_pool(self, op: Op, node: nodes.MaxPool, result: int) -> None:
        pool = max_pool(node, op.out_h, *self.values.image(result)[1:])
        rows = self.threads * pool.ring * op.out_w * op.outputs
        self.memory.reserve(4 * rows)
        pool.rows = self.memory.point(np.zeros(rows, np.float32))
        op.conv.pool = pool

    def _add_adapter(self, op: Op, source: int, adapter: nodes.Adapter) -> None:
        tensors, inputs, layers = self.artifact.tensors, op.channels, (AdapterLayer * 2)()
        for k, layer in enumerate(adapter.layers):
            weight = self.memory.share(layer.weight, lambda w=layer.weight: pack_adapter(tensors[w]))
            quantized = layer.row_scale is not None
            scale = np.ones(layer.outputs) if layer.row_scale is None else tensors[layer.row_scale]
            layers[k] = AdapterLayer(
                int8_weight=weight if quantized else None,
                float_weight=None if quantized else weight,
                row_scale=self.memory.share(f"{layer.bias}/row_scale", lambda s=scale: s.astype(np.float64)),
                bias=self.memory.share(layer.bias, lambda b=layer.bias: tensors[b].astype(np.float64)),
                inputs=inputs,
                outputs=layer.outputs,
            )
            inputs = layer.outputs
        scratch_width = padded(max(op.channels, *(layer.outputs for layer in adapter.layers)), BLOCK)
        scratch = self.threads * scratch_width
        self.memory.reserve((2 * 8 + 4) * scratch)
        op.conv.adapter = Adapter(
            layer_count=len(adapter.layers),
            beta_output=adapter.output == "relu",
            layers=layers,
            x_sums=self.values.row_sums(source),
            sums=self.memory.point(np.zeros(2 * scratch)),
            means=self.memory.point(np.zeros(scratch, np.float32)),
            scratch_width=scratch_width,
        )

    def _is_recomputed(self, op: Op, step: Step) -> bool:
        """Would the values of a convolution only go to memory for a depthwise one, until the mean of them is known?"""
        readers = [self.values.nodes[index] for index in self.values.consumers[step.result]]
        return (
            self.may_recompute
            and len(readers) == 1
            and isinstance(readers[0], nodes.Conv)
            and self.layout(readers[0]).kind == LAYOUT_ROW_QUADS
            and op.conv.layout == LAYOUT_PIXELS
            and op.conv.groups == 1
            and not op.conv.winograd
            and op.conv.taps <= FEW_TAPS
            and op.outputs % BLOCK == 0
            and step.other is None
            and step.pool is None
            and 4 * math.prod(self.values.shapes[step.result]) > LARGE
        )

    def _recompute(self, op: Op, result: int) -> None:
        """Keep the codes of a convolution instead of its values, which its reader recomputes."""
        self.recomputed[result] = op
        readers = len(self.values.consumers[result])
        self.values.storages[result] = Storage(np.empty(0, np.float32), readers, reusable=False)
        strips = self.threads * max(4 * op.out_w * BLOCK, op.outputs)
        self.memory.reserve(4 * strips)
        op.conv.strip = self.memory.point(np.zeros(strips, np.float32))
        self.values.add(result, op)

    def link(self, ops: ctypes.Array[Op]) -> None:
        """Point from each reader to the convolution that it recomputes, in the array of steps."""
        steps = self.values.steps
        for op, reader in self.recomputations:
            ops[steps.index(reader)].conv.recompute = ctypes.addressof(ops[steps.index(op)])

    def add_codes(self) -> list[np.ndarray]:
        """Give the convolutions memory for codes, and tell each whose weights are needed next; return that memory.

        It is the same to all but the recomputed ones, which are needed again.
        """
        convs = [op for op in self.values.steps if op.kind == OP_CONV]
        sizes = [layout.code_bytes for _, layout in self.layers]
        kept = [op in self.recomputed.values() for op in convs]
        shared = self._bytes(max((size for size, keep in zip(sizes, kept, strict=True) if not keep), default=0))
        transformed = self._bytes(max((layout.transformed_bytes for _, layout in self.layers), default=0)).ctypes.data
        arrays = [self._bytes(size) if keep else shared for size, keep in zip(sizes, kept, strict=True)]
        following = None
        for op, codes in reversed(list(zip(convs, arrays, strict=True))):
            conv = op.conv
            conv.codes, conv.transformed, conv.next = codes.ctypes.data, transformed, following
            if conv.layout != LAYOUT_ROW_QUADS:
                following = conv.packed
        return arrays

    def _bytes(self, size: int) -> np.ndarray:
        self.memory.reserve(size)
        return self.memory.keep(np.zeros(size, np.uint8))


def tail_of(step: Step, values: Values, groups: int) -> EpilogueTail:
    """Return the batch norm, the sum and the clamp that are fused with a step.

    Args:
        groups: into which its outputs are parted; 0: as one.
    """
    memory, tensors = values.memory, values.artifact.tensors
    tail = EpilogueTail(low=step.low, high=step.high)
    if step.g is not None and step.b is not None:
        g, b = tensors[step.g], tensors[step.b]
        tail.g = memory.share(f"{step.g}/{groups}", lambda: by_group(g, groups))
        tail.b = memory.share(f"{step.b}/{groups}", lambda: by_group(b, groups))
    if step.other is not None:
        tail.y = values.address(step.other)
    return tail
