"""Quantized layers to operators: quantize, accumulate, scale, add the bias; and the adapter."""

from __future__ import annotations

import numpy as np

from asqcli.arithmetic.constants import PAPER_SMALLEST_BETA
from asqcli.artifact.nodes import Adapter, Conv, Linear
from asqcli.export.onnx.pools import channel_means
from asqcli.export.onnx.scope import DOUBLE, FLOAT, UINT8, Scope

# Weights are unsigned, counted from 128. onnxruntime 1.18 has no ConvInteger for signed ones, and without VNNI
# instructions it adds pairs of products of u8 and s8 in 16 bits, which saturate; those of u8 and u8 are widened first.
WEIGHT_ZERO_POINT = 128


def quantized_layer(scope: Scope, node: Conv | Linear) -> str:
    weights, activations = node.weights, node.activations
    per_channel = (-1, 1, 1) if isinstance(node, Conv) else (-1,)
    step = scope.artifact.tensors[activations.step_size][0]
    adapted = None if activations.adapter is None else _adapted_step_size(scope, node, activations.adapter)
    codes = _codes(scope, node, step, adapted)
    if adapted is None or activations.dequantize_by == "step_size":
        scale = scope.constant("scale", (step * scope.artifact.tensors[weights.scale]).reshape(per_channel))
    else:
        weight_scale = scope.cast(scope.tensor(weights.scale, (-1,)), DOUBLE, name="weight_scale")
        product = scope.add("Mul", adapted, weight_scale, name="double_scale")  # (N, C_out or 1)
        scale = _over_pixels(scope, node, scope.cast(product, FLOAT, name="scale"))
    accumulator = scope.cast(_accumulator(scope, node, codes), FLOAT, name="real_accumulator")
    value = scope.add("Mul", accumulator, scale, name="scaled")
    if weights.bias is None:
        return value
    return scope.add("Add", value, scope.tensor(weights.bias, per_channel), name="biased")


def _codes(scope: Scope, node: Conv | Linear, step: np.float32, adapted: str | None) -> str:
    """Return the input's codes as uint8, counted from the zero point -qmin."""
    (x,), activations = scope.inputs, node.activations
    if adapted is None:
        reciprocal = scope.constant("reciprocal", np.float32(1) / step)
    else:
        quotient = scope.add("Div", scope.constant("one", np.float64(1)), adapted, name="double_reciprocal")
        reciprocal = _over_pixels(scope, node, scope.cast(quotient, FLOAT, name="reciprocal"))
    steps = scope.add("Mul", x, reciprocal, name="steps")
    rounded = scope.add("Round", steps, name="rounded")
    bounds = [scope.constant(b, np.float32(getattr(activations, b))) for b in ("qmin", "qmax")]
    codes = scope.add("Clip", rounded, *bounds, name="clipped")
    if activations.qmin != 0:
        codes = scope.add("Add", codes, scope.constant("offset", np.float32(-activations.qmin)), name="offset_codes")
    return scope.cast(codes, UINT8, name="codes")


def _accumulator(scope: Scope, node: Conv | Linear, codes: str) -> str:
    """Return the sums of products, int32; padding is code 0, that is, the zero point."""
    weight = (scope.artifact.levels(node.weights).astype(np.int16) + WEIGHT_ZERO_POINT).astype(np.uint8)
    operands = (
        codes,
        scope.constant("weight", weight.T if isinstance(node, Linear) else weight),
        scope.constant("zero_point", np.uint8(-node.activations.qmin)),
        scope.constant("weight_zero_point", np.uint8(WEIGHT_ZERO_POINT)),
    )
    if isinstance(node, Linear):
        return scope.add("MatMulInteger", *operands, name="accumulator")
    return scope.add(
        "ConvInteger",
        *operands,
        name="accumulator",
        kernel_shape=weight.shape[2:],
        strides=node.stride,
        pads=node.padding,
        dilations=node.dilation,
        group=node.groups,
    )


def _over_pixels(scope: Scope, node: Conv | Linear, x: str) -> str:
    """Return (N, C) as (N, C, 1, 1) for a convolution."""
    if isinstance(node, Linear):
        return x
    return scope.add("Unsqueeze", x, scope.integers("pixel_axes", 2, 3), name="over_pixels")


def _adapted_step_size(scope: Scope, node: Conv | Linear, adapter: Adapter) -> str:
    """Return step_size * beta, (N, 1): a float32 number, as double.

    A quotient or product of float32 numbers in double, rounded, is that in float32. In float32 onnxruntime (1.31)
    would make x / step of x * (1 / step), which is another number, and merge the scale of a matrix product with the
    first step of a batch for all its samples.
    """
    (hidden,) = scope.inputs
    if isinstance(node, Conv):
        hidden = scope.add("Flatten", channel_means(scope), name="channel_means")
    hidden = scope.cast(hidden, DOUBLE, name="adapter_input")
    for index in range(len(adapter.layers)):
        if index:
            hidden = scope.add("Relu", hidden, name="hidden")
        hidden = _adapter_layer(scope, adapter, index, hidden)
    beta = scope.cast(_beta(scope, adapter, hidden), FLOAT, name="beta")
    step = scope.tensor(node.activations.step_size, ())
    return scope.cast(scope.add("Mul", step, beta, name="adapted_step_size"), DOUBLE, name="double_step")


def _adapter_layer(scope: Scope, adapter: Adapter, index: int, hidden: str) -> str:
    """Return (weight @ hidden) * row_scale + bias, (N, outputs), double."""
    layer, tensors = adapter.layers[index], scope.artifact.tensors
    weight = scope.constant(f"adapter.{index}.weight", tensors[layer.weight].T)
    result = scope.add("MatMul", hidden, scope.cast(weight, DOUBLE, name="adapter_weight"), name="adapter_product")
    if layer.row_scale is not None:
        scale = scope.cast(scope.tensor(layer.row_scale, (-1,)), DOUBLE, name="adapter_scale")
        result = scope.add("Mul", result, scale, name="adapter_scaled")
    bias = scope.cast(scope.tensor(layer.bias, (-1,)), DOUBLE, name="adapter_bias")
    return scope.add("Add", result, bias, name="adapter_output")


def _beta(scope: Scope, adapter: Adapter, t: str) -> str:
    """Return beta, (N, 1), double."""
    zero = scope.constant("zero", np.float64(0))
    above = scope.add("Max", t, zero, name="positive_part")
    if adapter.output == "relu":
        smallest = scope.constant("smallest_beta", np.float64(PAPER_SMALLEST_BETA))
        return scope.add("Max", above, smallest, name="kept_above")
    # One of the two is 1: (1 + t) / 1 from zero on, and 1 / (1 - t) below.
    one = scope.constant("one", np.float64(1))
    below = scope.add("Min", t, zero, name="negative_part")
    numerator = scope.add("Add", one, above, name="numerator")
    return scope.add("Div", numerator, scope.add("Sub", one, below, name="denominator"), name="double_beta")
