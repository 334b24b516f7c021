"""The operators of one node, under its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from asqcli.artifact import Artifact
from asqcli.artifact.nodes import Node
from asqcli.artifact.nodes.base import Shape
from asqcli.export.onnx.graph import Graph

FLOAT, DOUBLE, UINT8 = 1, 11, 2  # ONNX's numbers of the types
LAST = 2**31 - 1  # end of a slice that takes all


class Scope:
    """Where a node's operators go; each has the node's name before its own.

    Args:
        inputs: names of the values that the node reads.

    Attributes:
        shapes: of those values, one sample.
    """

    def __init__(self, graph: Graph, artifact: Artifact, node: Node, inputs: list[str]) -> None:
        self.graph, self.artifact, self.inputs = graph, artifact, inputs
        self.name = node.name or node.op
        self.shapes: list[Shape] = [artifact.graph.shapes[value] for value in node.inputs]

    def add(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add an operator; return the name of its value."""
        return self.graph.add(op, *inputs, name=f"{self.name}/{name}", **attributes)

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        return self.graph.constant(f"{self.name}.{name}", value)

    def tensor(self, name: str, shape: tuple[int, ...]) -> str:
        """Return a tensor of the artifact as a constant of that shape."""
        return self.graph.constant(name, self.artifact.tensors[name].reshape(shape))

    def integers(self, name: str, *values: int) -> str:
        return self.constant(name, np.array(values, np.int64))

    def cast(self, x: str, to: int, *, name: str) -> str:
        return self.add("Cast", x, name=name, to=to)

    def slice(self, x: str, axis: int, start: int, stop: int, step: int) -> str:
        numbers = {"start": start, "stop": stop, "axis": axis, "step": step}
        return self.add("Slice", x, *(self.integers(name, n) for name, n in numbers.items()), name="slice")

    def pad(self, x: str, before: tuple[int, ...], after: tuple[int, ...], border: np.floating) -> str:
        """Put a border around all axes but the batch."""
        pads = self.integers("pads", 0, *before, 0, *after)
        return self.add("Pad", x, pads, self.constant("border", border), name="padded")

    def pad_safely(self, x: str, before: tuple[int, ...], after: tuple[int, ...], border: np.float32) -> str:
        """Put a border around all axes but the batch, before something that may be a max pool.

        onnxruntime (1.31) merges zeros around height and width into the border of a max pool, which is minus infinity.
        It leaves alone what pads the channels, so one channel more is made and cut off.
        """
        if before[0] or after[0]:
            return self.pad(x, before, after, border)
        padded = self.pad(x, (1, *before[1:]), after, border)
        return self.slice(padded, 1, 1, LAST, 1)
