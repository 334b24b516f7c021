"""A network as a plan: an array of fused steps for a native kernel, with the memory of one image."""

from __future__ import annotations

import numpy as np

from asqcli.artifact import Artifact, nodes
from asqcli.engine.native.bindings import (
    GATES,
    OP_AVG_POOL,
    OP_CONV,
    OP_ELEMENTWISE,
    OP_GATE,
    OP_MAX_POOL,
    OP_MEAN,
    OP_MULTIPLY,
    AvgPoolOp,
    ElementwiseOp,
    GateOp,
    MeanOp,
    MultiplyOp,
    Op,
)
from asqcli.engine.native.convolutions import Convolutions, tail_of
from asqcli.engine.native.copies import Copies
from asqcli.engine.native.fusion import Step, fuse
from asqcli.engine.native.memory import Memory
from asqcli.engine.native.pools import average_windows, max_pool
from asqcli.engine.native.values import Values


class Plan:
    """A network's steps with their memory, for one image at a time; execute.py runs them.

    Args:
        artifact: checked.
        shared: packed weights and the like by name, made by the first plan and shared by all.
        winograd: may convolutions take Winograd's form? As the kernel says.
        recompute: may cheap convolutions be recomputed where their values are read? As the kernel says.
        threads: the most that run the plan together.

    Attributes:
        ops: the steps as C sees them.
        input, output: memory of the image and of the logits.
        planar: does the image come channels first?
        reader: the only step that reads the image, which takes it where it is, or None.
        layers, codes: node and layout of each convolution, and its codes, in the order of the steps.
    Raises:
        NotNative: the network has a node that there is no step for, or needs too much memory.
    """

    def __init__(
        self,
        artifact: Artifact,
        shared: dict[str, np.ndarray],
        *,
        winograd: bool = False,
        recompute: bool = False,
        threads: int = 1,
    ) -> None:
        self.memory = Memory(shared)
        self.values = values = Values(artifact, self.memory)
        self.convolutions = Convolutions(values, winograd=winograd, recompute=recompute, threads=threads)
        self.copies = Copies(values)
        for step in fuse(values.nodes, values.consumers, self._pools):
            self._add(step)
            values.release(step.nodes)
        self.layers, self.codes = self.convolutions.layers, self.convolutions.add_codes()
        self.input = values.storages[0].array
        self.output = values.storages[len(values.nodes)].array[: len(artifact.document.classes)]
        self.ops = (Op * len(values.steps))(*values.steps)
        self.convolutions.link(self.ops)
        self.planar = self.convolutions.planar
        self.reader = next(op for op in self.ops if op.kind == OP_CONV) if self.planar else None

    def _pools(self, index: int) -> bool:
        """May a convolution, by its node, do the max pool that follows it?"""
        node = self.values.nodes[index]
        return isinstance(node, nodes.Conv) and self.convolutions.layout(node).by_rows

    def _add(self, step: Step) -> None:
        node = self.values.nodes[step.index]
        match node:
            case nodes.Conv() | nodes.Linear():
                self.convolutions.add(node, step)
            case nodes.BatchNorm() | nodes.Add() | nodes.Clamp():
                elementwise = ElementwiseOp(tail=tail_of(step, self.values, groups=0))
                op = self.values.op(OP_ELEMENTWISE, node.inputs[0], step.result, elementwise=elementwise)
                self.values.write(step.result, op)
            case nodes.MaxPool() | nodes.AvgPool() | nodes.AdaptiveAvgPool():
                self._add_pool(node, step.result)
            case nodes.Gate():
                gate = GateOp(function=GATES.index(node.op))
                op = self.values.op(OP_GATE, node.inputs[0], step.result, gate=gate)
                self.values.write(step.result, op)
            case nodes.LeakyRelu() | nodes.PRelu():
                slopes = node.negative_slope if isinstance(node, nodes.LeakyRelu) else self._tensor(node.slope)
                self._add_by_channel(step, slope=slopes)
            case nodes.Div():
                self._add_by_channel(step, divisor=self._tensor(node.divisor))
            case nodes.Mul():
                self._add_product(node, step.result)
            case _:
                self.copies.add(node, step.result)

    def _add_product(self, node: nodes.Mul, result: int) -> None:
        values, (source, other) = self.values, node.inputs
        y_is_a_pixel = values.shapes[other] != values.shapes[source]
        multiply = MultiplyOp(y=values.address(other), y_is_a_pixel=y_is_a_pixel)
        values.write(result, values.op(OP_MULTIPLY, source, result, multiply=multiply))

    def _tensor(self, name: str) -> np.ndarray:
        return self.values.artifact.tensors[name]

    def _add_by_channel(self, step: Step, **operands: np.ndarray | float) -> None:
        """Add a step by numbers; the operands are fields of it, a number for each channel or one for all."""
        values, source = self.values, self.values.nodes[step.index].inputs[0]
        channels = values.image(source)[0]
        self.memory.reserve(4 * channels)
        arrays = {key: self.memory.point(np.full(channels, numbers, np.float32)) for key, numbers in operands.items()}
        elementwise = ElementwiseOp(tail=tail_of(step, values, groups=0), **arrays)
        values.write(step.result, values.op(OP_ELEMENTWISE, source, step.result, elementwise=elementwise))

    def _add_pool(self, node: nodes.MaxPool | nodes.AvgPool | nodes.AdaptiveAvgPool, result: int) -> None:
        values, source = self.values, node.inputs[0]
        match node:
            case nodes.MaxPool():
                op = values.op(OP_MAX_POOL, source, result)
                op.max_pool = max_pool(node, op.height, op.out_h, op.out_w)
            case nodes.AdaptiveAvgPool() if node.output_size == (1, 1):
                op = values.op(OP_MEAN, source, result, mean=MeanOp(x_sums=values.row_sums(source)))
            case _:
                op = values.op(OP_AVG_POOL, source, result)
                windows, window_size = average_windows(node, (op.height, op.width), (op.out_h, op.out_w))
                self.memory.reserve(windows.nbytes)
                op.avg_pool = AvgPoolOp(windows=self.memory.point(windows), window_size=window_size)
        values.write(result, op)
