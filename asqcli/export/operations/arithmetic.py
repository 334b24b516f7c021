"""Sums, differences, products and quotients of values and constants; parameters as torch's.

A constant is a number, or a tensor of one number or one for each channel. A sum or product with it is a batch norm,
whose other operation changes nothing.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch

from asqcli.artifact import nodes
from asqcli.artifact.nodes.base import Shape
from asqcli.export.graph import NO_VALUE, Call, Unsupported, Value
from asqcli.export.operations.registry import lowers
from asqcli.export.operations.repeats import expanded


@lowers("add", says="sums")
def add(call: Call, input, other, *, alpha=1, out=None) -> Value:
    return _sum(call, input, _scaled(call, other, alpha))


@lowers("sub", "subtract", says="differences")
def sub(call: Call, input, other, *, alpha=1, out=None) -> Value:
    other = _scaled(call, other, alpha)
    if not isinstance(other, Value):
        return affine(call, input, addend=-_constant(other))
    if not isinstance(input, Value):
        return rsub(call, other, input)
    return _sum(call, input, affine(call, other, factor=-1.0, gives=call.shape_of(other)))


@lowers("rsub", "__rsub__", says="differences")
def rsub(call: Call, input, other, *, alpha=1) -> Value:
    if alpha != 1:
        raise Unsupported("it has a factor")
    if isinstance(other, Value):
        return sub(call, other, input)
    return affine(call, input, factor=-1.0, addend=other)


@lowers("neg", "negative", says="differences")
def neg(call: Call, input) -> Value:
    return affine(call, input, factor=-1.0)


@lowers("mul", "multiply", says="products")
def mul(call: Call, input, other, *, out=None) -> Value:
    if not isinstance(input, Value) or not isinstance(other, Value):
        value, constant = (input, other) if isinstance(input, Value) else (other, input)
        return affine(call, value, factor=constant)
    for x, gate in ((input, other), (other, input)):
        shape, of_gate = call.shape_of(x), call.shape_of(gate)
        if of_gate == shape or (len(shape) == 3 and of_gate == (shape[0], 1, 1)):
            return call.emit(nodes.Mul, x, gate)
    return call.emit(nodes.Mul, expanded(call, input), expanded(call, other))


@lowers("square", says="products")
def square(call: Call, input) -> Value:
    return call.emit(nodes.Mul, input, input)


@lowers("pow", "__pow__", says="products")
def pow(call: Call, input, exponent) -> Value:
    if isinstance(exponent, Value | torch.Tensor) or exponent != 2:
        raise Unsupported("the engine knows no power but the second")
    return square(call, input)


@lowers("tanh", says="tanh")
def tanh(call: Call, input) -> Value:
    """As in `asqcli.arithmetic.formulas`: of a sigmoid."""
    gate = call.emit(nodes.Gate, affine(call, input, factor=2.0), op="sigmoid")
    return affine(call, gate, factor=2.0, addend=-1.0)


@lowers("div", "divide", "true_divide", says="quotients by constants")
def div(call: Call, input, other, *, rounding_mode=None, out=None) -> Value:
    if isinstance(other, Value) or rounding_mode is not None:
        raise Unsupported("the engine divides by constants only, and does not round")
    return divided(call, input, other)


def _sum(call: Call, input: Any, other: Any) -> Value:
    if isinstance(input, Value) and isinstance(other, Value):
        return call.emit(nodes.Add, expanded(call, input), expanded(call, other))
    value, constant = (input, other) if isinstance(input, Value) else (other, input)
    return affine(call, value, addend=constant)


def divided(call: Call, value: Any, divisor: Any) -> Value:
    """Divide by a constant."""
    name = _stored(call, value, "divisor", divisor)
    return call.emit(nodes.Div, value, divisor=name, gives=call.shape_of(value))


def _scaled(call: Call, operand: Any, alpha: float) -> Any:
    if alpha == 1:
        return operand
    if not isinstance(operand, Value):
        return operand * alpha
    return affine(call, operand, factor=alpha, gives=call.shape_of(operand))


def affine(call: Call, value: Any, *, factor: Any = 1.0, addend: Any = -0.0, gives: Shape | None = None) -> Value:
    """Multiply by one constant and add another; -0.0 leaves the sign of zeros, too. `gives`: as for `Call.emit`."""
    if isinstance(value, Value) and len(call.shape_of(value)) not in (1, 3):
        raise Unsupported(f"it computes with a constant and a value of the shape {call.shape_of(value)}")
    g, b = _stored(call, value, "factor", factor), _stored(call, value, "addend", addend)
    return call.emit(nodes.BatchNorm, value, g=g, b=b, gives=gives)


def _stored(call: Call, value: Any, role: str, constant: Any) -> str:
    """Store a constant for each channel of a value; return its name, by which one that counts the batch is seen."""
    numbers = np.ascontiguousarray(_per_channel(call, value, constant))
    before = len([node for node in call.graph.nodes if node.name == call.name])  # nodes of this operation
    name = f"{call.name}.{role}{before or ''}.{zlib.crc32(numbers.tobytes()):08x}"
    return call.graph.store.add(name, numbers, np.float32)


def _per_channel(call: Call, value: Any, constant: Any) -> np.ndarray:
    """Return a constant as a number for each channel of a value, (C,)."""
    if not isinstance(value, Value):
        raise Unsupported(NO_VALUE)
    shape: Shape = call.shape_of(value)
    tensor = _constant(constant)
    ones = (1,) * (len(shape) + 1 - tensor.dim())
    of_channels = (*ones, *tensor.shape)[1:2]
    if tensor.dim() > len(shape) + 1 or tensor.numel() not in (1, *of_channels) or of_channels not in ((1,), shape[:1]):
        raise Unsupported(f"its constant has the shape {tuple(tensor.shape)}, not one number or one for each channel")
    if not tensor.isfinite().all():
        raise Unsupported("one of its operands is no finite number")
    return tensor.flatten().expand(shape[0]).numpy()


def _constant(constant: Any) -> torch.Tensor:
    """Return a number or tensor as float32 on the CPU."""
    return torch.as_tensor(constant).detach().to("cpu", torch.float32)
