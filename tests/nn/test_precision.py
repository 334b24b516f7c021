"""Products in bfloat16: against integers in double, rounded; gradients within what their roundings can do."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from asqcli.nn.derived import derived_twin
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.precision import FLOAT32, InBfloat16, autocast, forward_in, multiplies_bfloat16
from asqcli.quant.activation_quantizers import make_activation_quantizer
from asqcli.quant.bfloat16 import MULTIPLIED
from asqcli.quant.spec import (
    ApotWeights,
    AsqActivations,
    LsqActivations,
    OffsetActivations,
    PactActivations,
    PostWeights,
    UniformWeights,
)
from asqcli.quant.weight_quantizers import make_weight_quantizer
from asqcli.train.forward import backward_in_training

LAYERS = [
    (UniformWeights(bits=8), LsqActivations(bits=8)),
    (UniformWeights(bits=4, per="tensor"), OffsetActivations(bits=8)),
    (PostWeights(bits=4), AsqActivations(bits=4)),
    (PostWeights(bits=4, grid="17/12"), PactActivations(bits=8)),
    (ApotWeights(bits=4, normalize=True), AsqActivations(bits=4, dequantize_by="step_size")),
    (None, LsqActivations(bits=4)),
    (PostWeights(bits=3), None),
]
EXACT_GRID = PostWeights(bits=4, grid="exact")
UNIT = 2.0**-8  # largest relative error of one rounding to bfloat16, whose significand has 8 bits


@contextmanager
def in_bfloat16(dtype):
    """Hold a forward in bfloat16, on a processor that multiplies it or on one that does not."""
    with autocast(torch.device("cpu")), InBfloat16(dtype):
        yield


class PaddedInside(nn.Conv2d):
    """Pads in its own forward."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


def quantized(layer, weights, activations, x, kind=None):
    """Return the twin of a layer, in training mode, its steps started from `x`."""
    linear = isinstance(layer, nn.Linear)
    weight_quantizer = activation_quantizer = None
    if weights is not None:
        weight_quantizer = make_weight_quantizer(layer.weight.shape[0], weights)
        weight_quantizer.start(layer.weight.detach(), "mse")
    if activations is not None:
        channels = x.shape[-1 if linear else 1]
        activation_quantizer = make_activation_quantizer(channels, activations, signed=True, channels_last=linear)
        activation_quantizer.start(x, "mse")
        if activation_quantizer.adapter is not None:
            nn.init.normal_(activation_quantizer.adapter.linears[-1].weight, std=0.5)
    if kind is not None:
        return kind(layer, "layer", weight_quantizer, activation_quantizer).train()
    return (QuantLinear if linear else QuantConv2d).from_float(layer, weight_quantizer, activation_quantizer).train()


def cases():
    torch.manual_seed(0)
    yield nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), torch.randn(3, 4, 7, 7)
    yield nn.Linear(20, 5), torch.randn(3, 20)


def with_bias(y, layer):
    """Return a result of bfloat16 with the layer's bias."""
    return y + layer.bias.bfloat16().reshape(-1, *[1] * (y.dim() - 2))


@pytest.mark.parametrize("given", MULTIPLIED, ids=str)
@pytest.mark.parametrize("dtype", MULTIPLIED, ids=str)
@pytest.mark.parametrize(("weights", "activations"), LAYERS, ids=str)
def test_forward_is_the_product_of_whole_numbers_rounded_and_scaled(weights, activations, dtype, given):
    for layer, x in cases():
        x = x.to(given)
        twin = quantized(layer, weights, activations, x.float())
        with in_bfloat16(dtype), torch.no_grad():
            found = twin(x)
        with torch.no_grad():
            codes, step, levels, scale = x.bfloat16(), torch.ones(()), twin.weight.bfloat16(), torch.ones(1)
            if activations is not None:
                codes, step = twin.activation_quantizer.quantize(x.float())
            if weights is not None:
                levels, scale = twin.weight_quantizer.to_levels(twin.weight)
            pixels = [1] * (x.dim() - 2)
            sums = twin._product(codes.double(), levels.double(), None)
            expected = with_bias((sums.bfloat16().float() * (step * scale.reshape(-1, *pixels))).bfloat16(), twin)
        assert found.dtype == torch.bfloat16
        if None in (weights, activations):  # fractions, whose sums in float32 may round to the neighbour
            torch.testing.assert_close(found, expected, rtol=4 * UNIT, atol=4 * UNIT * expected.abs().max().item())
        elif (
            activations.quantizer == "asq"
        ):  # training's beta and evaluation's differ by rounding, their codes here do not
            torch.testing.assert_close(found, expected, rtol=2 * UNIT, atol=2 * UNIT)
        else:
            assert torch.equal(found, expected)


@pytest.mark.parametrize("given", MULTIPLIED, ids=str)
@pytest.mark.parametrize("weights", [UniformWeights(bits=8), PostWeights(bits=4), None], ids=str)
def test_gradients_differ_by_their_roundings(weights, given):
    """Of what comes in, scaled, of each sum, and of what is bfloat16 itself: each at most UNIT of the products."""
    for layer, x in cases():
        x = x.to(given).float()
        twin = quantized(layer, weights, LsqActivations(bits=4), x)
        inputs = x.requires_grad_(), twin.weight, twin.bias, twin.activation_quantizer.step_size
        y = twin(x)
        grad = torch.randn(y.shape).bfloat16().float()
        plain = torch.autograd.grad(y, inputs, grad)
        inputs = x.to(given).detach().requires_grad_(), *inputs[1:]
        with in_bfloat16(torch.float32):
            y = twin(inputs[0])
        found = torch.autograd.grad(y, inputs, grad.bfloat16())
        assert found[0].dtype == given and all(tensor.dtype == torch.float32 for tensor in found[1:])
        operands = [
            twin.activation_quantizer(x),
            twin.weight if weights is None else twin.weight_quantizer(twin.weight),
        ]
        operands = [o.detach().double().abs().requires_grad_() for o in operands]
        bounds = torch.autograd.grad(twin._product(*operands, None), operands, grad.double().abs())
        for a, b, products in zip(found, plain, bounds, strict=False):
            roundings = 2 + (a.dtype == torch.bfloat16)
            assert ((a - b).abs() <= ((1 + UNIT) ** roundings - 1 + 1e-5) * products).all() and not torch.equal(a, b)
        torch.testing.assert_close(found[2], plain[2], rtol=UNIT, atol=0.0)  # once, as a sum
        torch.testing.assert_close(found[3], plain[3], rtol=0.1, atol=0.05)  # once, by the values


def test_a_layer_in_double_stays_in_it():
    for layer, x in cases():
        twin = quantized(layer, PostWeights(bits=4), LsqActivations(bits=4), x).double()
        with in_bfloat16(torch.float32):
            assert twin(x.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", MULTIPLIED, ids=str)
@pytest.mark.parametrize("quantized_too", [False, True])
def test_where_an_author_switched_autocast_off_a_layer_gives_what_it_is_given(quantized_too, dtype):
    for layer, x in cases():
        if quantized_too:
            layer = quantized(layer, PostWeights(bits=4), LsqActivations(bits=4), x)
        with in_bfloat16(dtype):
            assert layer(x).dtype == layer(x.bfloat16()).dtype == torch.bfloat16
            with torch.autocast("cpu", enabled=False):
                assert layer(x).dtype == torch.float32 and layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", MULTIPLIED, ids=str)
def test_a_result_may_be_written_over(dtype):
    """As by a ReLU in place, or a sum: a layer without bias or scales gives no view of what a function made."""
    for layer, x in cases():
        layer.bias = None
        for twin in (layer, quantized(layer, None, None, x)):
            with in_bfloat16(dtype):
                y = twin(x)
                y += 1
                y = F.relu(y, inplace=True)
            y.float().sum().backward()


@pytest.mark.parametrize("dtype", MULTIPLIED, ids=str)
def test_float_layers_round_their_operands(dtype):
    torch.manual_seed(1)
    for layer, x in cases():
        with torch.no_grad():  # numbers whose sums are exact in float32, and of more than 8 bits
            x = torch.randint(-400, 400, x.shape) / 64
            layer.weight.copy_(torch.randint(-400, 400, layer.weight.shape) / 64)
            with in_bfloat16(dtype):
                found = layer(x)
            layer.weight.copy_(layer.weight.bfloat16())
            bias, layer.bias = layer.bias, None
            sums = layer.double()(x.bfloat16().double())
            layer.bias = bias
        assert torch.equal(found, with_bias(sums.bfloat16(), layer))


def test_what_stays_in_float32():
    layer, x = next(cases())
    twin = quantized(layer, EXACT_GRID, LsqActivations(bits=4), x)
    expected = twin(x)
    with forward_in("bfloat16", x.device):
        assert torch.equal(twin(x), expected)  # levels that are no whole numbers
        assert torch.equal(twin(x.bfloat16()), twin(x.bfloat16().float()))
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(twin(x.bfloat16()), twin(x.bfloat16().float()))
    twin = quantized(layer, PostWeights(bits=4), AsqActivations(bits=4), x)
    expected = twin.eval()(x)
    with forward_in("bfloat16", x.device):
        assert torch.equal(twin(x), expected)
    with forward_in(FLOAT32, x.device):
        assert torch.equal(twin.train()(x), twin(x))
    assert not multiplies_bfloat16(torch.device("meta"))


@pytest.mark.parametrize("dtype", MULTIPLIED, ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 2), padding=(2, 0), groups=2, bias=False),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_of_images_the_step_has_the_gradient_that_theirs_gives_it(layer, dtype):
    """The same results to the bit; the step's gradient is a sum over weights instead of one over images."""
    torch.manual_seed(2)
    layer.reset_parameters()
    x = torch.randn(5, 4, 9, 8)
    twin = quantized(layer, PostWeights(bits=4), LsqActivations(bits=4), x)
    results = []
    for image in (x, x.clone().requires_grad_()):
        with in_bfloat16(dtype):
            y = twin(image)
        grad = y.detach()  # by which a step's gradient is no sum of terms of either sign
        results.append([y, *torch.autograd.grad(y, list(twin.parameters()), grad)])
    names = ["y", *(name for name, _ in twin.named_parameters())]
    for name, a, b in zip(names, *results, strict=True):
        if name == "y":
            assert torch.equal(a, b)
        else:
            assert (a - b).abs().max() <= 2 * UNIT * b.abs().max(), name
    twin.activation_quantizer.step_size.requires_grad_(False)
    with in_bfloat16(dtype):
        y = twin(x)
    [a], b = torch.autograd.grad(y, twin.weight, grad), results[0][names.index("weight")]
    torch.testing.assert_close(a, b, rtol=2 * UNIT, atol=2 * UNIT * b.abs().max().item())


@pytest.mark.parametrize("activations", [LsqActivations(bits=4), AsqActivations(bits=4)], ids=str)
def test_saved_operands_are_the_same_however_they_are_kept(activations):
    """Kept and checkpointed: to the bit, in a layer and in one that pads by itself."""
    layer, x = nn.Conv2d(4, 6, 3, padding=1), torch.randn(3, 4, 7, 7)
    own = PaddedInside(4, 6, 3)
    own.load_state_dict(layer.state_dict())
    twins = [
        quantized(layer, PostWeights(bits=4), activations, x),
        quantized(own, PostWeights(bits=4), activations, x, kind=derived_twin),
    ]
    twins[1].load_state_dict(twins[0].state_dict())
    x.requires_grad_()

    def gradients(twin, run):
        parameters = x, *twin.parameters()
        for parameter in parameters:
            parameter.grad = None
        with in_bfloat16(torch.float32):
            y = run(twin)
        with InBfloat16(torch.float32):
            backward_in_training(y.float().square().sum())
        return [y, *(parameter.grad for parameter in parameters)]

    found = [gradients(twins[0], lambda twin: twin(x))]
    found.append(gradients(twins[0], lambda twin: checkpoint(twin, x, use_reentrant=False)))
    if activations.quantizer == "lsq":  # an adapter, and the factor of a step's gradient, see what is padded
        padded = gradients(twins[1], lambda twin: twin(x))
        assert all(torch.equal(a, b) for a, b in zip(padded[:4], found[0][:4], strict=True))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)
