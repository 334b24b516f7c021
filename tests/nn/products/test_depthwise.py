"""Depthwise convolutions by the compiled pass, of codes and levels, exactly; and gradients beside double precision."""

import pytest
import torch
from torch.nn import functional as F

from asqcli.engine.native.batch import Convolution
from asqcli.engine.native.bindings import LAYOUT_PIXELS
from asqcli.engine.native.layout import Layout
from asqcli.nn.products.bindings import find_library
from asqcli.nn.products.depthwise import convolve, fits, gradients

pytestmark = pytest.mark.skipif(find_library() is None, reason="not compiled for this processor")

QMIN, QMAX, LARGEST = -8, 7, 127
MOST_ERROR = 2e-6  # relative, root mean square


def convolution_of(
    channels,
    size,
    *,
    kernel=(3, 3),
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    outputs=None,
    groups=None,
    qmax=QMAX,
):
    layout = Layout(
        LAYOUT_PIXELS, channels, *size, outputs or channels, groups or channels, kernel, dilation, (*padding, *padding)
    )
    return Convolution(layout, stride, QMIN, qmax, LARGEST)


def operands(convolution, images, *, shared=False):
    """Return x, scale, weight, weight_scale and grad."""
    layout, kernel = convolution.layout, convolution.layout.kernel
    x = torch.randn(images, layout.channels, layout.height, layout.width).contiguous(memory_format=torch.channels_last)
    weight_scale = torch.rand(1 if shared else layout.channels) * 0.1 + 0.01
    levels = torch.randint(-LARGEST, LARGEST + 1, (layout.channels, 1, *kernel))
    scale = torch.rand(1 if shared else images) * 0.2 + 0.05
    grad = torch.randn(images, layout.channels, *convolution.out_shape).contiguous(memory_format=torch.channels_last)
    return x, scale, levels * weight_scale.reshape(-1, 1, 1, 1), weight_scale, grad


def codes_of(x, scale):
    return (x * (1 / scale.reshape(-1, 1, 1, 1))).clamp(QMIN, QMAX).round()


def exact(convolution, x, scale, weight, weight_scale):
    """Return what evaluation computes: a sum of whole numbers, times one product of scales."""
    over_channels = weight_scale.reshape(1, -1, 1, 1)
    levels = (weight / over_channels.reshape(-1, 1, 1, 1)).round()
    sums = F.conv2d(
        codes_of(x, scale).double(), levels.double(), None, convolution.stride, convolution.layout.padding[:2],
        groups=len(levels),
    )  # fmt: skip
    return sums.float() * (scale.reshape(-1, 1, 1, 1) * over_channels)


def exact_gradients(convolution, grad, x, scale, weight):
    x_hat = codes_of(x, scale) * scale.reshape(-1, 1, 1, 1)
    return torch.ops.aten.convolution_backward(
        grad.double(), x_hat.double(), weight.double(), None, list(convolution.stride),
        list(convolution.layout.padding[:2]), [1, 1], False, [0, 0], len(weight), [True, True, False],
    )[:2]  # fmt: skip


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


SHAPES = {
    "small": convolution_of(8, (5, 7)),
    "one pixel": convolution_of(16, (1, 1)),
    "stride": convolution_of(24, (9, 8), stride=(2, 2)),
    "stride, no padding": convolution_of(16, (10, 11), stride=(2, 2), padding=(0, 0)),
    "stride as large as a window": convolution_of(8, (7, 11), stride=(3, 3), padding=(0, 0)),
    "two strides": convolution_of(8, (9, 9), stride=(1, 2), padding=(2, 0)),
    "much padding": convolution_of(8, (4, 3), padding=(4, 3)),
    "5x5": convolution_of(40, (12, 5), kernel=(5, 5), padding=(2, 2)),
    "5x5, stride": convolution_of(8, (9, 14), kernel=(5, 5), stride=(2, 2), padding=(2, 2)),
    "7x7": convolution_of(8, (11, 9), kernel=(7, 7), padding=(3, 3)),
    "rings of some channels": convolution_of(512, (4, 60)),
    "rows that no window meets": convolution_of(8, (8, 8), stride=(3, 3), padding=(0, 0)),
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("convolution", SHAPES.values(), ids=SHAPES)
def test_it_is_evaluations_to_the_bit(convolution, shared):
    torch.manual_seed(0)
    assert fits(convolution)
    x, scale, weight, weight_scale, _ = operands(convolution, 3, shared=shared)
    found = convolve(convolution, x, scale, weight, weight_scale)
    assert torch.equal(found, exact(convolution, x, scale, weight, weight_scale))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("convolution", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_the_definition(convolution, shared):
    torch.manual_seed(0)
    x, scale, weight, _, grad = operands(convolution, 3, shared=shared)
    found = gradients(convolution, grad, x, scale, weight)
    for mine, expected in zip(found, exact_gradients(convolution, grad, x, scale, weight), strict=True):
        assert mine.shape == expected.shape and error(mine, expected) < MOST_ERROR


def test_an_image_depends_neither_on_its_batch_nor_on_the_threads():
    torch.manual_seed(0)
    convolution = convolution_of(24, (9, 8))
    x, scale, weight, weight_scale, grad = operands(convolution, 7)
    try:
        torch.set_num_threads(3)
        together = convolve(convolution, x, scale, weight, weight_scale)
        grad_x, grad_weight = gradients(convolution, grad, x, scale, weight)
        again = gradients(convolution, grad, x, scale, weight)
        expected = exact_gradients(convolution, grad, x, scale, weight)
        assert torch.equal(again[0], grad_x) and torch.equal(again[1], grad_weight)
        assert error(grad_weight, expected[1]) < MOST_ERROR
    finally:
        torch.set_num_threads(1)
    for i in range(7):
        one = slice(i, i + 1)
        assert torch.equal(together[one], convolve(convolution, x[one], scale[one], weight, weight_scale))
        assert torch.equal(grad_x[one], gradients(convolution, grad[one], x[one], scale[one], weight)[0])


def test_memory_may_lie_as_it_likes():
    torch.manual_seed(0)
    convolution = convolution_of(16, (6, 5))
    x, scale, weight, _, grad = operands(convolution, 3)
    for other in (grad.contiguous(), grad[:, :, :1, :1].expand(grad.shape)):
        expected = gradients(convolution, other.contiguous(memory_format=torch.channels_last), x, scale, weight)
        turned = weight.contiguous(memory_format=torch.channels_last)
        found = gradients(convolution, other, x, scale, turned)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_is_no_number_stays_none():
    """A run that broke must not go on; and a step of 0, or of infinity, gives none."""
    torch.manual_seed(0)
    convolution = convolution_of(8, (5, 5))
    for where, value in ((0, torch.nan), (1, torch.nan), (1, 0.0), (2, torch.nan), (3, torch.nan)):
        tensors = [tensor.clone() for tensor in operands(convolution, 2)]
        tensors[where][(0,) * tensors[where].dim()] = value
        y = convolve(convolution, *tensors[:4])
        assert y[0].isnan().any() and bool(y[1].isnan().any()) == (where in (2, 3))
    for where in range(5):
        tensors = [tensor.clone() for tensor in operands(convolution, 2)]
        tensors[where][(0,) * tensors[where].dim()] = torch.nan
        x, scale, weight, _, grad = tensors
        grad_x, grad_weight = gradients(convolution, grad, x, scale, weight)
        assert bool(grad_x.isnan().any()) == (where in (2, 4))
        assert bool(grad_weight.isnan().any()) == (where in (0, 1, 4))


def test_other_convolutions_are_left_alone():
    for other in (
        convolution_of(12, (5, 5)),
        convolution_of(16, (5, 5), groups=8),
        convolution_of(8, (5, 5), outputs=16),
        convolution_of(8, (5, 5), kernel=(1, 1)),
        convolution_of(8, (9, 9), kernel=(9, 9)),
        convolution_of(8, (5, 5), kernel=(3, 5)),
        convolution_of(8, (5, 5), dilation=(2, 2)),
        convolution_of(8, (9, 9), stride=(4, 1)),
        convolution_of(8, (9, 9), kernel=(7, 7), qmax=2**16),  # sums that float32 cannot hold
    ):
        assert not fits(other)
