"""The values of a network in memory, channels last, and the steps that write them."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from asqcli.artifact import Artifact
from asqcli.engine.interface import NotNative
from asqcli.engine.native.bindings import OP_CONV, OP_ELEMENTWISE, OP_GATE, OP_MULTIPLY, OP_ROW_SUMS, Op
from asqcli.engine.native.memory import Memory, Storage

SUMMING = (OP_CONV, OP_ELEMENTWISE, OP_MULTIPLY, OP_GATE)  # steps that can sum the rows of what they write


class Values:
    """Where each value of a network lies.

    Args:
        artifact: checked; node k makes value k + 1.

    Attributes:
        consumers: the nodes that read each value.
        storages: value -> its storage, once it has one.
        steps: those so far, in the order in which they run.
    """

    def __init__(self, artifact: Artifact, memory: Memory) -> None:
        self.artifact, self.memory = artifact, memory
        self.nodes, self.shapes = artifact.document.nodes, artifact.graph.shapes
        self.consumers: list[list[int]] = [[] for _ in self.shapes]
        for index, node in enumerate(self.nodes):
            for value in node.inputs:
                self.consumers[value].append(index)
        self.storages: dict[int, Storage] = {}
        self.steps: list[Op] = []
        self.new(0, reusable=False)

    def image(self, value: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of a value."""
        shape = self.shapes[value]
        if len(shape) > 3:
            raise NotNative(f"a value of shape {shape}")
        channels, height, width = (*shape, 1, 1)[:3]
        return channels, height, width

    def address(self, value: int) -> int:
        """Return where a value's storage begins."""
        return self.storages[value].address

    def new(self, value: int, *, reusable: bool = True) -> Storage:
        """Give a value memory, and return it."""
        storage = self.memory.store(
            math.prod(self.shapes[value]), self._uses(value), reusable=reusable and value != len(self.nodes)
        )
        self.storages[value] = storage
        return storage

    def alias(self, value: int, of: int) -> None:
        """Let a value lie in the memory of another."""
        storage = self.storages[value] = self.storages[of]
        storage.uses += self._uses(value)

    def _uses(self, value: int) -> int:
        """Return how often a value is read: the last one by who asked for the logits."""
        return len(self.consumers[value]) + (value == len(self.nodes))

    def release(self, nodes: tuple[int, ...]) -> None:
        """Take off the uses of what these nodes read, all of them done in one step."""
        inputs = [set(self.nodes[index].inputs) for index in nodes]
        for value in set.union(*inputs) & self.storages.keys():
            self.memory.release(self.storages[value], sum(value in read for read in inputs))

    def op(self, kind: int, source: int, result: int, **of_kind: ctypes.Structure) -> Op:
        """Return a step from one value to another, without memory for the result.

        Args:
            of_kind: what this kind needs of its own, as `conv=ConvOp(...)`.
        """
        channels, height, width = self.image(source)
        outputs, out_h, out_w = self.image(result)
        return Op(
            kind=kind, x=self.address(source), height=height, width=width, channels=channels, outputs=outputs,
            out_h=out_h, out_w=out_w, **of_kind,
        )  # fmt: skip

    def write(self, value: int, op: Op) -> None:
        """Add the step that writes a value, to new memory."""
        op.out = self.new(value).address
        self.add(value, op)

    def add(self, value: int, op: Op) -> None:
        """Add the step that makes a value, whose storage is there."""
        if op.kind in SUMMING:
            self.storages[value].producer = op
        self.steps.append(op)

    def row_sums(self, value: int) -> int:
        """Return the address of the sums along a value's rows, from the step that writes it or one more."""
        storage, (channels, height, width) = self.storages[value], self.image(value)
        if storage.row_sums is None:
            self.memory.reserve(8 * height * channels)
            storage.row_sums = self.memory.point(np.zeros((height, channels)))
            op = storage.producer
            if op is None:
                op = Op(kind=OP_ROW_SUMS, x=storage.address, height=height, width=width, channels=channels)
                self.steps.append(op)
            op.row_sums = storage.row_sums
        return storage.row_sums
