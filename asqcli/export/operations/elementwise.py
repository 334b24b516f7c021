"""Operations that work number by number; parameters as torch's."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from asqcli.artifact import nodes
from asqcli.export.graph import Call, Unsupported, Value
from asqcli.export.operations.registry import lowers

CLAMPS = "ReLU and other clamps"
IMAGE_DIMENSIONS = 3  # channels, height, width


@lowers("clamp", "clip", says=CLAMPS)
def clamp(call: Call, input, min=None, max=None) -> Value:
    if isinstance(min, Value) or isinstance(max, Value):
        raise Unsupported("its bounds are no constants")
    bounds = [None if bound is None or math.isinf(bound) else float(bound) for bound in (min, max)]
    return call.emit(nodes.Clamp, input, low=bounds[0], high=bounds[1])


@lowers("relu", says=CLAMPS)
def relu(call: Call, input, inplace=False) -> Value:
    return clamp(call, input, 0.0)


@lowers("hardtanh", says=CLAMPS)
def hardtanh(call: Call, input, min_val=-1.0, max_val=1.0, inplace=False) -> Value:
    return clamp(call, input, min_val, max_val)


@lowers("relu6", says=CLAMPS)
def relu6(call: Call, input, inplace=False) -> Value:
    return clamp(call, input, 0.0, 6.0)


@lowers("sigmoid", says="sigmoid")
def sigmoid(call: Call, input) -> Value:
    return call.emit(nodes.Gate, input, op="sigmoid")


@lowers("silu", says="SiLU")
def silu(call: Call, input, inplace=False) -> Value:
    return call.emit(nodes.Gate, input, op="silu")


@lowers("hardsigmoid", says="hard sigmoid")
def hardsigmoid(call: Call, input, inplace=False) -> Value:
    return call.emit(nodes.Gate, input, op="hardsigmoid")


@lowers("hardswish", says="hard swish")
def hardswish(call: Call, input, inplace=False) -> Value:
    return call.emit(nodes.Gate, input, op="hardswish")


@lowers("gelu", says="GELU")
def gelu(call: Call, input, approximate="none") -> Value:
    return call.emit(nodes.Gate, input, op="gelu_tanh" if approximate == "tanh" else "gelu")


@lowers("leaky_relu", says="leaky ReLU")
def leaky_relu(call: Call, input, negative_slope=0.01, inplace=False) -> Value:
    return call.emit(nodes.LeakyRelu, input, negative_slope=float(negative_slope))


@lowers("prelu", says="PReLU")
def prelu(call: Call, input, weight) -> Value:
    if not isinstance(weight, Tensor):
        raise Unsupported("its slopes are made from the network's input")
    slope = call.graph.store.add(f"{call.name}.slope", weight, np.float32)
    return call.emit(nodes.PRelu, input, slope=slope, slope_per="layer" if weight.numel() == 1 else "channel")


@lowers("add", says="sums")
def add(call: Call, input, other, *, alpha=1, out=None) -> Value:
    if alpha == 1 and (operands := _value_and_number(call, input, other)) is not None:
        value, number = operands
        return _scale_and_move(call, value, 1.0, number)
    if not isinstance(input, Value) or not isinstance(other, Value):
        raise Unsupported("one of its operands is a constant")
    if call.shape_of(input) != call.shape_of(other):
        raise Unsupported(f"its operands have the shapes {call.shape_of(input)} and {call.shape_of(other)}")
    if alpha != 1:
        raise Unsupported("it has a factor")
    return call.emit(nodes.Add, input, other)


@lowers("mul", "multiply", says="products")
def mul(call: Call, input, other) -> Value:
    if (operands := _value_and_number(call, input, other)) is not None:
        value, number = operands
        return _scale_and_move(call, value, number, -0.0)  # -0.0 leaves the sign of zeros, too
    for x, gate in ((input, other), (other, input)):
        if isinstance(x, Value) and isinstance(gate, Value):
            shape, of_gate = call.shape_of(x), call.shape_of(gate)
            if of_gate == shape or (len(shape) == 3 and of_gate == (shape[0], 1, 1)):
                return call.emit(nodes.Mul, x, gate)
    raise Unsupported("the factors are not two values of one shape, or a value and one number per channel")


def _value_and_number(call: Call, input: object, other: object) -> tuple[Value, float] | None:
    """Return an image-shaped operand and the Python number beside it; None for other operands.

    A tensor in its place could be changed between the operations of a run, and is not looked at.
    """
    for value, number in ((input, other), (other, input)):
        if isinstance(value, Value) and isinstance(number, int | float) and not isinstance(number, Value):
            return (value, float(number)) if len(call.shape_of(value)) == IMAGE_DIMENSIONS else None
    return None


def _scale_and_move(call: Call, value: Value, factor: float, addend: float) -> Value:
    """Add a batch norm's node, which multiplies, then adds, each time rounding."""
    with np.errstate(over="ignore"):
        numbers = np.array([factor, addend], np.float32)
    if not np.isfinite(numbers).all():
        raise Unsupported("one of its operands is no finite number")
    channels = call.shape_of(value)[0]
    g, b = (  # named by the number, so that one that depends on the batch is seen
        call.graph.store.add(f"{call.name}.{key}.{number}", np.full(channels, number), np.float32)
        for key, number in zip("gb", numbers, strict=True)
    )
    return call.emit(nodes.BatchNorm, value, g=g, b=b)
