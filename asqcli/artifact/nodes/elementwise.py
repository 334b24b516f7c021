"""Nodes that work number by number, or channel by channel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from asqcli.artifact.nodes.base import MixedIn, Node, Shape, TensorName, TensorSpec, Value, WithoutTensors, Work

Number = Annotated[float, Field(ge=-3e38, le=3e38)]

PASSES = {"sigmoid": 20, "silu": 20, "gelu": 36, "gelu_tanh": 24}  # elementwise operations for each number


class Elementwise(MixedIn):
    """What holds for kinds of node whose value has the shape of their first input."""

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        return None

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        return self.traffic(inputs, output)


class BatchNorm(Elementwise, Node):
    op: Literal["batch_norm"] = "batch_norm"
    g: TensorName
    b: TensorName

    def tensors(self, inputs: Sequence[Shape]) -> Iterator[TensorSpec]:
        for name in (self.g, self.b):
            yield TensorSpec(name, "float32", (inputs[0][0],), "batch_norms")

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        return None if len(inputs[0]) in (1, 3) else "it needs (channels, height, width) or (channels,)"


class Div(Elementwise, Node):
    op: Literal["div"] = "div"
    divisor: TensorName

    def tensors(self, inputs: Sequence[Shape]) -> Iterator[TensorSpec]:
        yield TensorSpec(self.divisor, "float32", (inputs[0][0],), "floats")


class Clamp(WithoutTensors, Elementwise, Node):
    op: Literal["clamp"] = "clamp"
    low: Number | None
    high: Number | None


class Gate(WithoutTensors, Elementwise, Node):
    op: Literal["sigmoid", "silu", "hardsigmoid", "hardswish", "gelu", "gelu_tanh"]

    def work(self, inputs: Sequence[Shape], output: Shape) -> Work:
        return self.traffic(inputs, output) + Work(elementwise=PASSES.get(self.op, 0) * math.prod(output))


class LeakyRelu(WithoutTensors, Elementwise, Node):
    op: Literal["leaky_relu"] = "leaky_relu"
    negative_slope: Number


class PRelu(Elementwise, Node):
    op: Literal["prelu"] = "prelu"
    slope: TensorName
    slope_per: Literal["channel", "layer"]

    def tensors(self, inputs: Sequence[Shape]) -> Iterator[TensorSpec]:
        yield TensorSpec(self.slope, "float32", (inputs[0][0] if self.slope_per == "channel" else 1,), "floats")


class Add(WithoutTensors, Elementwise, Node):
    op: Literal["add"] = "add"
    inputs: tuple[Value, Value]

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        return None if inputs[0] == inputs[1] else "the shapes differ"


class Mul(WithoutTensors, Elementwise, Node):
    op: Literal["mul"] = "mul"
    inputs: tuple[Value, Value]

    def problem(self, inputs: Sequence[Shape]) -> str | None:
        x, gate = inputs
        if gate == x or (len(x) == 3 and gate == (x[0], 1, 1)):
            return None
        return "the second factor is neither of the shape of the first nor (channels, 1, 1)"
