"""Operations that work number by number; parameters as torch's."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from asqcli.artifact import nodes
from asqcli.export.graph import Call, Unread, Unsupported, Value
from asqcli.export.operations.registry import lowers
from asqcli.nn.forward import LOG_SOFTMAX

CLAMPS = "ReLU and other clamps"


@lowers("clamp", "clip", says=CLAMPS)
def clamp(call: Call, input, min=None, max=None) -> Value:
    if isinstance(min, Value) or isinstance(max, Value):
        raise Unsupported("its bounds are no constants")
    bounds = [None if bound is None or math.isinf(bound) else float(bound) for bound in (min, max)]
    return call.emit(nodes.Clamp, input, low=bounds[0], high=bounds[1])


@lowers("clamp_min", says=CLAMPS)
def clamp_min(call: Call, input, min) -> Value:
    return clamp(call, input, min)


@lowers("clamp_max", says=CLAMPS)
def clamp_max(call: Call, input, max) -> Value:
    return clamp(call, input, max=max)


@lowers("relu", says=CLAMPS)
def relu(call: Call, input, inplace=False) -> Value:
    return clamp(call, input, 0.0)


@lowers("threshold", says=CLAMPS)
def threshold(call: Call, input, threshold, value, inplace=False) -> Value:
    if threshold != value:
        raise Unsupported("the number that it puts in is not its threshold")
    return clamp(call, input, threshold)


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


@lowers(*LOG_SOFTMAX, says="log_softmax at the end")
def log_softmax(call: Call, input, dim=None, _stacklevel=3, dtype=None) -> Unread:
    """What is left out: it takes the same number of all logits of an image."""
    if len(call.result_shape) != 1 or dim not in (None, 1, -1):
        raise Unsupported("the engine has it over the classes of (N, classes) only")
    return Unread("it computes with a log_softmax, which the engine has as a network's last operation only", input)
