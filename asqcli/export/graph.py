"""The graph of an artifact in the making, and one operation of a recorded run on its way into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError

from asqcli.artifact import nodes
from asqcli.artifact.nodes import AnyNode, Node
from asqcli.artifact.nodes.base import Shape
from asqcli.export.integers import TensorStore
from asqcli.nn.record import Operation, Record, tensors_in


class Value(int):
    """The number of a value of the artifact; anything else that an operation gives is a constant."""


class Unsupported(Exception):
    """An operation that the engine has no node for; the reason, without its place.

    Attributes:
        hint: what to do about it, where more is known than what the engine has instead.
    """

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, eq=False)
class Unread:
    """What stands for a tensor that the artifact has no value of.

    Attributes:
        reason: why nothing can compute with it.
        output: the value that stands for it where it is what the network returns.
    """

    reason: str
    output: Value | None = None


@dataclass(eq=False)
class Stack:
    """Values that torch stacked: side by side, as long as nothing reads them together.

    Attributes:
        values: of one shape.
        dim: of torch's tensor; 0 lies before the batch, where no value has an axis.
        rank: of torch's tensor.
    """

    values: tuple[Value, ...]
    dim: int
    rank: int


NO_VALUE = "it computes with something that is not the network's input or made from it"


class GraphBuilder:
    """Collects nodes.

    Attributes:
        nodes, store: what was made so far.
        shapes: of each value, without the batch.
        layers: the names of the network's modules.
        batch: images in the run.
    """

    def __init__(self, record: Record, store: TensorStore) -> None:
        self.store = store
        self.nodes: list[AnyNode] = []
        self.shapes: list[Shape] = [tuple(record.input.shape[1:])]
        self.layers = {module: name for name, module in record.model.named_modules()}
        self.batch = len(record.input)

    def add(self, node: AnyNode, shape: Shape) -> Value:
        """Add a node that gives a value of that shape; return the value."""
        self.nodes.append(node)
        self.shapes.append(shape)
        return Value(len(self.nodes))


@dataclass(frozen=True)
class Call:
    """One operation of the run, as those see it who make nodes of it.

    Attributes:
        graph: where the nodes go.
        operation: what was called, and what it gave.
        name: of its nodes, unless they stand for a layer.
    """

    graph: GraphBuilder
    operation: Operation
    name: str

    @property
    def result_shape(self) -> Shape:
        """The shape of the result, or of the first of several, without its batch."""
        result, batch = next(tensors_in(self.operation.result)), self.graph.batch
        if result.dtype != torch.float32:
            raise Unsupported(f"it computes in {result.dtype}, and the engine in torch.float32")
        shape = tuple(result.shape)
        if shape[:1] != (batch,) or len(shape) < 2:
            raise Unsupported(f"it gives a tensor of shape {shape} for a batch of {batch}")
        return shape[1:]

    def shape_of(self, value: object) -> Shape:
        """Return the shape of a value, without the batch; a constant is refused."""
        if not isinstance(value, Value):
            raise Unsupported(NO_VALUE)
        return self.graph.shapes[value]

    def image_of(self, value: object) -> tuple[int, int, int]:
        """Return (channels, height, width) of a value; one that is no image is refused."""
        shape = self.shape_of(value)
        if len(shape) != 3:
            raise Unsupported(f"it works on images, (N, channels, height, width), and gets the shape {shape} for one")
        channels, height, width = shape
        return channels, height, width

    def axis(self, value: Value, dim: int) -> int:
        """Return which axis of a value is a dimension of torch's tensor, whose first is the batch."""
        axis = dim % (len(self.shape_of(value)) + 1) - 1
        if axis < 0:
            raise Unsupported("it works along the batch")
        return axis

    def emit(
        self, kind: type[Node], *inputs: object, name: str | None = None, gives: Shape | None = None, **settings: Any
    ) -> Value:
        """Add a node; return its value.

        Args:
            name: of the layer; otherwise that of the operation.
            gives: the shape of its value; otherwise that of the operation's result.
        """
        values = tuple(int(value) for value in inputs if isinstance(value, Value))
        if len(values) != len(inputs):
            raise Unsupported(NO_VALUE)
        try:
            node = kind(name=self.name if name is None else name, inputs=values, **settings)
        except ValidationError as error:
            (where, *_), reason = error.errors()[0]["loc"], error.errors()[0]["msg"]
            raise Unsupported(f"it is beyond what the engine takes: {where}: {reason}") from error
        return self.graph.add(node, self.result_shape if gives is None else gives)

    def reshaped(self, value: Value, shape: Shape) -> Value:
        """Return a value of the same numbers in another shape: where it was reshaped from it, the one before."""
        while (node := self.graph.nodes[value - 1] if value else None) and self.shape_of(value) != shape:
            if not isinstance(node, nodes.Reshape):
                break
            value = Value(node.inputs[0])
        return value if self.shape_of(value) == shape else self.emit(nodes.Reshape, value, shape=shape, gives=shape)

    def joined(self, stack: Stack) -> Value:
        """Return the value of a stack."""
        if stack.dim == 0:
            raise Unsupported(
                "it reads tensors that are stacked before the images of the batch", "stack them along another `dim`"
            )
        axis, shape = stack.dim - 1, self.shape_of(stack.values[0])
        parts = [self.reshaped(value, (*shape[:axis], 1, *shape[axis:])) for value in stack.values]
        return self.emit(nodes.Concat, *parts, axis=axis, gives=(*shape[:axis], len(parts), *shape[axis:]))
