"""Training's products of whole numbers: evaluation's to the bit, with the gradients of float products."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.engine.native import batch
from asqcli.engine.native.bindings import LAYOUT_PIXELS, compiled_kernels
from asqcli.engine.native.layout import Layout
from asqcli.nn.geometry import Geometry
from asqcli.nn.layers import QuantConv2d
from asqcli.nn.products import winograd
from asqcli.nn.products.product import product
from asqcli.quant.activation_quantizers import make_activation_quantizer
from asqcli.quant.kernels.native import loaded
from asqcli.quant.spec import (
    ApotWeights,
    AsqActivations,
    LsqActivations,
    OffsetActivations,
    PostWeights,
    PotWeights,
    UniformWeights,
)
from asqcli.quant.weight_quantizers import make_weight_quantizer

WEIGHTS = [
    PostWeights(bits=4),
    PostWeights(bits=3, grid="17/12"),
    PotWeights(bits=4),
    ApotWeights(bits=4, normalize=True),
    UniformWeights(bits=2),
    UniformWeights(bits=4, per="tensor"),
    UniformWeights(bits=8),
]
SHAPES = {
    "3x3": lambda: nn.Conv2d(16, 20, 3, padding=1, bias=False),
    "3x3, whole chunks": lambda: nn.Conv2d(16, 32, 3, padding=1),
    "three channels": lambda: nn.Conv2d(3, 16, 3, padding=1),
    "strided": lambda: nn.Conv2d(8, 32, 3, padding=1, stride=2),
    "1x1": lambda: nn.Conv2d(16, 24, 1),
    "1x1, strided": lambda: nn.Conv2d(16, 24, 1, stride=2),
    "groups": lambda: nn.Conv2d(24, 12, 3, padding=1, groups=3),
    "depthwise": lambda: nn.Conv2d(24, 24, 3, padding=1, groups=24, stride=2),
    "dilated": lambda: nn.Conv2d(8, 4, 3, padding=2, dilation=2),
    "one row": lambda: nn.Conv2d(6, 6, (1, 5), padding=(0, 2), stride=(1, 2)),
}
pytestmark = pytest.mark.skipif(
    loaded() is None or batch.fastest_kernel() is None, reason="no compiled kernel for this processor"
)


@pytest.fixture(autouse=True)
def always_gains(monkeypatch):
    """Let the kernels compute what they can, also where floats are faster."""
    monkeypatch.setattr(batch.Convolution, "gains", True)


def layer_for(conv, x, weights, *, bits=4, activations=LsqActivations):
    """Return a quantized twin in training, its steps started from `x`; adapters answer differently to each image."""
    spec = activations(bits=bits)
    quantizer = make_activation_quantizer(x.shape[1], spec, signed=bool((x < 0).any()), channels_last=False)
    if quantizer.adapter is not None:
        nn.init.normal_(quantizer.adapter.layers[-1].weight, std=0.5)
    quantizer.start(x, "mse")
    weight_quantizer = make_weight_quantizer(len(conv.weight), weights)
    weight_quantizer.start(conv.weight.detach(), "mse")
    return QuantConv2d.from_float(conv, weight_quantizer, quantizer).train()


def images(channels, *, signed=False, count=3):
    x = torch.randn(count, channels, 9, 7).contiguous(memory_format=torch.channels_last)
    return x if signed else x.relu()


def product_of(layer, x):
    quantizers = layer.activation_quantizer, layer.weight_quantizer
    return product(x, layer.weight, layer.bias, Geometry.of(layer), *quantizers)


def in_floats(layer, x):
    """What a forward gives that multiplies fake-quantized floats."""
    weight = layer.weight_quantizer(layer.weight)
    x_hat = layer.activation_quantizer(x)
    return F.conv2d(x_hat, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def with_equal_gradients(layer, x):
    """Return what `product_of` and `in_floats` give, whose gradients are compared."""
    other = copy.deepcopy(layer)
    x1, x2 = (x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    y1, y2 = product_of(layer, x1), in_floats(other, x2)
    grad = torch.randn_like(y1)
    y1.backward(grad)
    y2.backward(grad)
    for (name, a), b in zip([("x", x1), *layer.named_parameters()], [x2, *other.parameters()], strict=True):
        assert a.grad is not None and a.grad.abs().max() > 0, name
        assert_near(a.grad, b.grad, msg=name)
    return y1, y2


def assert_near(found, expected, **told):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()), **told)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_training_gives_what_evaluation_gives_to_the_bit(weights, make, signed):
    torch.manual_seed(0)
    conv = make()
    x = images(conv.in_channels, signed=signed)
    for bits in (2, 4, 8):
        layer = layer_for(conv, x, weights, bits=bits)
        assert torch.equal(layer(x), product_of(layer, x))
        assert torch.equal(layer(x), layer.eval()(x))


@pytest.mark.parametrize("activations", [LsqActivations, AsqActivations])
@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_the_float_product(make, activations):
    torch.manual_seed(0)
    conv = make()
    x = images(conv.in_channels, signed=True)
    layer = layer_for(conv, x, PostWeights(bits=4), activations=activations)
    y1, y2 = with_equal_gradients(layer, x)
    torch.testing.assert_close(y1, y2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activations", [LsqActivations, AsqActivations])
@pytest.mark.parametrize("weights", [PostWeights(bits=4, grid="exact"), UniformWeights(bits=8)], ids=str)
def test_a_product_of_floats_has_the_gradients_of_one(weights, activations, monkeypatch):
    """Where whole numbers do not gain, or the weights are none."""
    monkeypatch.setattr(batch.Convolution, "gains", False)
    torch.manual_seed(0)
    x = images(16, signed=True)
    layer = layer_for(nn.Conv2d(16, 32, 3, padding=1), x, weights, bits=8, activations=activations)
    y1, y2 = with_equal_gradients(layer, x)
    assert torch.equal(y1, y2)


@pytest.mark.parametrize("make", [SHAPES["3x3, whole chunks"], SHAPES["depthwise"]], ids=["dense", "depthwise"])
def test_what_is_saved_may_come_back_in_another_form(make):
    """In another order, as from `torch.autograd.graph.save_on_cpu`, or in another type meanwhile."""
    torch.manual_seed(0)
    conv = make()
    x = images(conv.in_channels)
    layer = layer_for(conv, x, PostWeights(bits=4))
    found = []

    def unpack(saved):
        return saved.float() if saved.dtype == torch.float64 else saved

    for pack in (lambda saved: saved, lambda saved: saved.contiguous(), lambda saved: saved.double()):
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            y = product_of(layer, image)
        layer.zero_grad()
        y.square().sum().backward()
        found.append([image.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_near(a, b)


def test_what_needs_no_gradient_gets_none(monkeypatch):
    """Of a first layer's images, of frozen weights, and whether the compiled gradients are there or not."""
    torch.manual_seed(0)
    x = images(16)
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(winograd, "find_library", lambda: None)
        layer = layer_for(nn.Conv2d(16, 32, 3, padding=1), x, PostWeights(bits=4))
        product_of(layer, x).sum().backward()
        assert x.grad is None and layer.weight.grad is not None and layer.bias.grad is not None
        layer.requires_grad_(False)
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        layer.weight.grad = layer.bias.grad = None
        product_of(layer, image).sum().backward()
        assert image.grad is not None and layer.weight.grad is None and layer.bias.grad is None


def test_nothing_of_it_needs_a_gradient():
    torch.manual_seed(0)
    x = images(16)
    layer = layer_for(nn.Conv2d(16, 8, 3), x, PostWeights(bits=4))
    with torch.no_grad():
        without = layer(x)
    assert not without.requires_grad and torch.equal(without, layer(x))


def test_an_image_does_not_depend_on_its_batch_nor_on_the_threads():
    torch.manual_seed(0)
    x = images(16, count=7)
    layer = layer_for(nn.Conv2d(16, 8, 3), x, PostWeights(bits=4), activations=AsqActivations)
    together = layer(x)
    assert torch.equal(together, torch.cat([layer(image[None]) for image in x]))
    try:
        torch.set_num_threads(3)
        assert torch.equal(together, layer(x))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("activations", [LsqActivations, AsqActivations])
def test_a_nan_stays_one(activations):
    """No code is NaN: what the kernels cannot carry on must not be lost, or a run that broke would go on."""
    torch.manual_seed(0)
    x = images(16)
    layer = layer_for(nn.Conv2d(16, 8, 3), x, UniformWeights(bits=4), activations=activations)
    broken = x.clone(memory_format=torch.preserve_format)
    broken[1, 3, 2, 2] = torch.nan
    y = product_of(layer, broken)
    assert y[1].isnan().all() and torch.equal(y[[0, 2]], layer(x)[[0, 2]])
    with torch.no_grad():
        layer.weight[5, 0, 0, 0] = torch.nan
    assert product_of(layer, x).isnan().any()


def test_what_the_kernels_cannot_compute_is_left_to_floats():
    torch.manual_seed(0)
    x, conv = images(16), nn.Conv2d(16, 8, 3, padding=1)
    layer = layer_for(conv, x, PostWeights(bits=4))
    assert product_of(layer, x) is not None
    assert product_of(layer, x.contiguous()) is None  # channels do not lie side by side
    assert product_of(layer, x.double()) is None
    assert product_of(layer, x[0]) is None
    assert product_of(layer, x[:0]) is None
    assert product_of(layer, x[:, :8].contiguous(memory_format=torch.channels_last)) is None
    assert product_of(layer_for(conv, x, PostWeights(bits=4, grid="exact")), x) is None
    assert product_of(layer_for(conv, x, PostWeights(bits=4), activations=OffsetActivations), x) is None
    reflected = layer_for(nn.Conv2d(16, 8, 3, padding=1, padding_mode="reflect"), x, PostWeights(bits=4))
    torch.testing.assert_close(reflected(x), reflected.eval()(x), rtol=1e-4, atol=1e-5)
    same = layer_for(nn.Conv2d(16, 8, 3, padding="same"), x, PostWeights(bits=4))
    torch.testing.assert_close(same(x), same.eval()(x), rtol=1e-4, atol=1e-5)


def test_memory_of_another_kind_is_left_to_floats():
    """Each of these was read as something else, or written where it does not belong."""
    torch.manual_seed(0)
    x, weights = images(16), PostWeights(bits=4)
    layer = layer_for(nn.Conv2d(16, 8, 3, padding=1), x, weights)
    expected = layer(x)
    try:
        torch.set_default_dtype(torch.float64)
        assert layer(x).dtype == torch.float32 and torch.equal(layer(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    layer.bias = nn.Parameter(torch.randn(16)[::2])
    assert product_of(layer, x) is None
    for quantizer in ("activation_quantizer", "weight_quantizer"):
        layer = layer_for(nn.Conv2d(16, 8, 3, padding=1), x, weights)
        getattr(layer, quantizer).double()
        assert product_of(layer, x) is None


def test_channels_that_come_first_go_on_doing_so():
    """Of a single channel no one can tell from the memory: networks that call `view` on the output would break."""
    torch.manual_seed(0)
    x = torch.rand(3, 1, 9, 7)
    assert x.is_contiguous(memory_format=torch.channels_last)
    layer = layer_for(nn.Conv2d(1, 8, 3, padding=1), x, PostWeights(bits=4))
    assert layer(x).is_contiguous()


def test_attributes_may_be_single_numbers():
    torch.manual_seed(0)
    x, conv = images(16), nn.Conv2d(16, 8, 3)
    conv.stride = conv.padding = conv.dilation = 1
    layer = layer_for(conv, x, PostWeights(bits=4))
    assert torch.equal(product_of(layer, x), layer.eval()(x))


def test_a_step_size_of_zero_gives_no_numbers():
    """An infinite activation makes beta 0: in floats that is 0 / 0, which ends a run."""
    torch.manual_seed(0)
    x = images(16)
    layer = layer_for(nn.Conv2d(16, 8, 3), x, UniformWeights(bits=4), activations=AsqActivations)
    with torch.no_grad():
        layer.activation_quantizer.adapter.layers[-1].bias.fill_(-3e38)
    assert product_of(layer, x).isnan().all()


def test_fewer_images_than_threads_are_left_to_floats():
    torch.manual_seed(0)
    layer = layer_for(nn.Conv2d(16, 8, 3), images(16), PostWeights(bits=4))
    try:
        torch.set_num_threads(4)
        assert product_of(layer, images(16, count=3)) is None
        assert product_of(layer, images(16, count=4)) is not None
    finally:
        torch.set_num_threads(1)


def test_sums_that_need_more_than_32_bits_are_left_to_floats():
    def fits(channels, kernel):
        layout = Layout(LAYOUT_PIXELS, channels, 4, 4, 1, 1, kernel, (1, 1), (1, 1, 1, 1))
        return batch.Convolution(layout, (1, 1), 0, 255, 128).fits

    most = (2**31 - 1) // (255 * 128 * 9)
    assert fits(most, (3, 3)) and not fits(most + 1, (3, 3))
    assert not fits(3, (9, 9))  # no window has its place


def test_a_network_in_training_takes_them(tiny_net):
    """Two dense convolutions of TinyNet on channels that lie side by side; the rest is left to floats."""
    torch.manual_seed(0)
    x = images(8)
    layer = layer_for(tiny_net.pointwise, x, PostWeights(bits=4))
    assert type(layer(x).grad_fn).__name__ == "_ProductBackward"
    assert type(layer.eval()(x).grad_fn).__name__ != "_ProductBackward"


@pytest.mark.parametrize("kernel", [name for name, (_, supported) in compiled_kernels().items() if supported])
def test_every_kernel_gives_the_same(kernel, monkeypatch):
    torch.manual_seed(0)
    for make in SHAPES.values():
        conv = make()
        x = images(conv.in_channels, signed=True)
        layer = layer_for(conv, x, UniformWeights(bits=8), bits=8)
        expected = product_of(layer, x)
        with monkeypatch.context() as patch:
            patch.setattr(batch, "fastest_kernel", lambda: (kernel, compiled_kernels()[kernel][0]))
            assert torch.equal(product_of(layer, x), expected)
