"""Evaluation is integer arithmetic: checked against int64 sums and float32 steps written out in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.quant.activation_quantizers import make_activation_quantizer
from asqcli.quant.spec import ApotWeights, AsqActivations, LsqActivations, PostWeights, PotWeights, UniformWeights
from asqcli.quant.weight_quantizers import make_weight_quantizer

SCHEMES = [
    UniformWeights(bits=2),
    UniformWeights(bits=8),
    UniformWeights(bits=4, per="tensor"),
    PostWeights(bits=4),
    PostWeights(bits=3, grid="7/5"),
    PotWeights(bits=4),
    ApotWeights(bits=4, normalize=True),
]


def started(layer, weights, x, *, bits=4, asq=True, linear=False):
    """Return a quantized twin of `layer` in evaluation mode, its steps started from `x`."""
    channels = x.shape[-1] if linear else x.shape[1]
    spec = AsqActivations(bits=bits) if asq else LsqActivations(bits=bits)
    activations = make_activation_quantizer(channels, spec, signed=bool((x < 0).any()), channels_last=linear)
    if asq:
        nn.init.normal_(activations.adapter.layers[-1].weight, std=0.5)
    activations.start(x, "mse")
    weight_quantizer = make_weight_quantizer(layer.weight.shape[0], weights)
    weight_quantizer.start(layer.weight.detach(), "mse")
    twin = QuantLinear if linear else QuantConv2d
    return twin.from_float(layer.eval(), weight_quantizer, activations)


def integer_convolution(codes, levels, layer):
    """Direct convolution of int64 arrays, one output at a time."""
    codes, levels = codes.astype(np.int64), levels.astype(np.int64)
    (ph, pw), (sh, sw), (dh, dw) = layer.padding, layer.stride, layer.dilation
    n, _, h, w = codes.shape
    out_c, per_group, kh, kw = levels.shape
    padded = np.pad(codes, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    out_h, out_w = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    out = np.zeros((n, out_c, out_h, out_w), np.int64)
    for o in range(out_c):
        first = o // (out_c // layer.groups) * per_group
        for i in range(out_h):
            for j in range(out_w):
                window = padded[
                    :, first : first + per_group, i * sh : i * sh + dh * kh : dh, j * sw : j * sw + dw * kw : dw
                ]
                out[:, o, i, j] = (window * levels[o]).sum(axis=(1, 2, 3))
    return out


@pytest.mark.parametrize("weights", SCHEMES, ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_convolution_equals_integers_to_the_bit(weights, signed):
    torch.manual_seed(0)
    for options in ({"padding": 1}, {"stride": 2, "padding": 2, "dilation": 2}, {"groups": 12}, {"groups": 3}):
        conv = nn.Conv2d(12, 24, 3, **options)
        x = torch.randn(3, 12, 7, 6) if signed else torch.rand(3, 12, 7, 6)
        layer = started(conv, weights, x)
        codes, step = layer.activation_quantizer.quantize(x)
        levels, scale = layer.weight_quantizer.to_levels(layer.weight)
        accumulator = integer_convolution(codes.detach().numpy(), levels.detach().numpy(), layer)
        epilogue = (step.detach().numpy() * scale.detach().numpy().reshape(-1, 1, 1)).astype(np.float32)
        expected = accumulator.astype(np.float32) * epilogue + layer.bias.detach().numpy().reshape(-1, 1, 1)
        assert np.array_equal(layer(x).detach().numpy(), expected)


def test_linear_equals_integers_to_the_bit():
    torch.manual_seed(0)
    x = torch.randn(5, 40)
    layer = started(nn.Linear(40, 7), PostWeights(bits=4), x, linear=True)
    codes, step = layer.activation_quantizer.quantize(x)
    levels, scale = layer.weight_quantizer.to_levels(layer.weight)
    accumulator = codes.detach().numpy().astype(np.int64) @ levels.detach().numpy().astype(np.int64).T
    expected = accumulator.astype(np.float32) * (step.detach().numpy() * scale.detach().numpy())
    assert np.array_equal(layer(x).detach().numpy(), expected + layer.bias.detach().numpy())


def test_accumulators_too_large_for_float32_are_still_exact():
    """255 * 127 * 4,096 inputs is beyond 2^24: float32 sums would lose the last bits."""
    torch.manual_seed(0)
    x = torch.rand(2, 4096)
    linear = nn.Linear(4096, 3, bias=False)
    with torch.no_grad():
        linear.weight.uniform_(0.5, 1)
    layer = started(linear, UniformWeights(bits=8), x, bits=8, asq=False, linear=True)
    codes, step = layer.activation_quantizer.quantize(x)
    levels, scale = layer.weight_quantizer.to_levels(layer.weight)
    accumulator = codes.detach().numpy().astype(np.int64) @ levels.detach().numpy().astype(np.int64).T
    assert accumulator.max() > 2**24
    expected = accumulator.astype(np.float32) * (step.detach().numpy() * scale.detach().numpy())
    assert np.array_equal(layer(x).detach().numpy(), expected)


@pytest.mark.parametrize("weights", SCHEMES, ids=str)
def test_training_and_evaluation_differ_by_rounding_only(weights):
    torch.manual_seed(0)
    x = torch.rand(4, 16, 6, 6)
    layer = started(nn.Conv2d(16, 8, 3, padding=1), weights, x, asq=False)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x), rtol=1e-4, atol=1e-5)


def test_one_float_operand_is_plain_float_arithmetic():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 4, 3), torch.rand(2, 4, 5, 5)
    quantizer = make_weight_quantizer(4, PostWeights(bits=3))
    quantizer.start(conv.weight.detach(), "mse")
    layer = QuantConv2d.from_float(conv, quantizer, None).eval()
    assert torch.equal(layer(x), nn.functional.conv2d(x, quantizer(conv.weight), conv.bias))
    assert torch.equal(QuantConv2d.from_float(conv, None, None).eval()(x), conv(x))
