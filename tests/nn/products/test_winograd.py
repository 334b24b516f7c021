"""The compiled gradients of 3x3 convolutions, beside PyTorch's in double precision."""

import pytest
import torch

from asqcli.engine.native.batch import Convolution
from asqcli.engine.native.bindings import LAYOUT_PIXELS
from asqcli.engine.native.layout import Layout
from asqcli.nn.products.bindings import find_library
from asqcli.nn.products.winograd import _scratch, gain, gradients

pytestmark = pytest.mark.skipif(find_library() is None, reason="not compiled for this processor")

QMIN, QMAX = -8, 7
# Relative, root mean square: PyTorch's own in float32 reach 2e-6 over these shapes, its gradients of weights more.
MOST_ERROR = 3e-6


def convolution_of(
    channels, outputs, height, width, padding, *, kernel=(3, 3), groups=1, dilation=(1, 1), stride=(1, 1)
):
    layout = Layout(
        LAYOUT_PIXELS, channels, height, width, outputs, groups, kernel, dilation, (*padding, *padding)
    )  # fmt: skip
    return Convolution(layout, stride, QMIN, QMAX, 7)


def operands(convolution, images, *, shared=False):
    """Return grad, x, scale and weight of a convolution."""
    layout = convolution.layout
    x = torch.randn(images, layout.channels, layout.height, layout.width).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(images, layout.outputs, *convolution.out_shape).contiguous(memory_format=torch.channels_last)
    scale = torch.rand(1 if shared else images) * 0.2 + 0.05
    return grad, x, scale, torch.randn(layout.outputs, layout.channels, 3, 3)


def exact(convolution, grad, x, scale, weight):
    """Return both gradients in double precision."""
    scale = scale.reshape(-1, 1, 1, 1)
    x_hat = (x * (1 / scale)).clamp(QMIN, QMAX).round() * scale
    padding = list(convolution.layout.padding[:2])
    return torch.ops.aten.convolution_backward(
        grad.double(), x_hat.double(), weight.double(), None, [1, 1], padding, [1, 1], False, [0, 0], 1,
        [True, True, False],
    )[:2]  # fmt: skip


def both(convolution, *tensors):
    return gradients(convolution, *tensors, of_x=True, of_weight=True)


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def three_threads():
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (0, 2), (1, 0)])
@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 9), (7, 7), (8, 6), (17, 3)])
@pytest.mark.parametrize(("channels", "outputs"), [(16, 16), (16, 48), (32, 16)])
def test_they_are_those_of_the_definition(channels, outputs, size, padding):
    torch.manual_seed(0)
    convolution = convolution_of(channels, outputs, *size, padding)
    for images, shared in ((1, False), (5, True), (3, False)):
        tensors = operands(convolution, images, shared=shared)
        for found, expected in zip(both(convolution, *tensors), exact(convolution, *tensors), strict=True):
            assert found.shape == expected.shape and error(found, expected) < MOST_ERROR


def test_a_long_sum_loses_little():
    """Many products of matrices for each gradient, the last of fewer tiles: of one image there are 49."""
    torch.manual_seed(0)
    convolution = convolution_of(32, 16, 28, 28, (1, 1))
    tensors = operands(convolution, 64)
    for found, expected in zip(both(convolution, *tensors), exact(convolution, *tensors), strict=True):
        assert error(found, expected) < MOST_ERROR


def test_threads_share_the_images(three_threads):
    torch.manual_seed(0)
    convolution = convolution_of(16, 32, 9, 9, (1, 1))
    for images in (2, 3, 10):
        tensors = operands(convolution, images)
        for found, expected in zip(both(convolution, *tensors), exact(convolution, *tensors), strict=True):
            assert error(found, expected) < MOST_ERROR


def test_the_gradient_of_an_image_depends_on_nothing_else(three_threads):
    torch.manual_seed(0)
    convolution = convolution_of(16, 32, 9, 9, (1, 1))
    grad, x, scale, weight = operands(convolution, 7)
    together, _ = both(convolution, grad, x, scale, weight)
    for i in range(7):
        alone, _ = both(convolution, grad[i : i + 1], x[i : i + 1], scale[i : i + 1], weight)
        assert torch.equal(together[i : i + 1], alone)


def test_twice_the_same_is_the_same(three_threads):
    torch.manual_seed(0)
    convolution = convolution_of(16, 16, 12, 12, (1, 1))
    tensors = operands(convolution, 20)
    first = both(convolution, *tensors)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, both(convolution, *tensors), strict=True))


def test_each_alone_is_that_of_both():
    torch.manual_seed(0)
    convolution = convolution_of(16, 32, 6, 5, (1, 1))
    tensors = operands(convolution, 3)
    grad_x, grad_weight = both(convolution, *tensors)
    alone, nothing = gradients(convolution, *tensors, of_x=True, of_weight=False)
    assert torch.equal(alone, grad_x) and nothing is None
    nothing, alone = gradients(convolution, *tensors, of_x=False, of_weight=True)
    assert torch.equal(alone, grad_weight) and nothing is None


def test_a_gradient_may_lie_in_memory_as_it_likes():
    torch.manual_seed(0)
    convolution = convolution_of(16, 16, 6, 5, (1, 1))
    grad, x, scale, weight = operands(convolution, 3)
    one = grad[:, :, :1, :1]
    for other in (grad.contiguous(), one.expand(grad.shape), torch.cat([grad, grad], dim=1)[:, 16:]):
        expected = both(convolution, other.contiguous(memory_format=torch.channels_last), x, scale, weight)
        turned = weight.contiguous(memory_format=torch.channels_last)
        found = both(convolution, other, x, scale, turned)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_is_no_number_stays_none():
    """A run that broke must not go on."""
    torch.manual_seed(0)
    convolution = convolution_of(16, 16, 8, 8, (1, 1))
    for where in range(4):
        tensors = list(operands(convolution, 2))
        tensors[where] = tensors[where].clone()
        tensors[where][(0,) * tensors[where].dim()] = torch.nan
        grad_x, grad_weight = both(convolution, *tensors)
        grad, x, scale, weight = (tensor is tensors[where] for tensor in tensors)
        assert bool(grad_weight.isnan().any()) == (grad or x or scale)
        assert bool(grad_x.isnan().any()) == (grad or weight)
        if not weight:
            assert not grad_x[1].isnan().any()


def test_other_convolutions_are_left_to_pytorch():
    assert gain(convolution_of(16, 16, 8, 8, (1, 1)), 4)
    assert gain(convolution_of(256, 256, 14, 14, (1, 1)), 16)
    for other in (
        convolution_of(16, 24, 8, 8, (1, 1)),
        convolution_of(3, 16, 8, 8, (1, 1)),
        convolution_of(16, 16, 8, 8, (3, 3)),
        convolution_of(16, 16, 8, 8, (1, 1), kernel=(1, 1)),
        convolution_of(16, 16, 8, 8, (1, 1), stride=(2, 1)),
        convolution_of(16, 16, 8, 8, (2, 2), dilation=(2, 2)),
        convolution_of(32, 32, 8, 8, (1, 1), groups=2),
        convolution_of(512, 512, 7, 7, (1, 1)),  # its filters alone are larger than a cache
    ):
        assert not gain(other, 4)


def test_small_batches_take_little_memory():
    """Digits: tiles and windows never take more than the activations that are not made."""
    for images, channels, size in ((4, 16, 8), (32, 64, 4), (128, 64, 8)):
        convolution = convolution_of(channels, channels, size, size, (1, 1))
        sums = 36 * channels**2
        borders = 2 * channels * (-(-size // 4) * 4 + 2) ** 2
        least = 2 * 36 * 6 * channels  # of the six tiles that are multiplied at once
        assert _scratch(convolution, images, 1) <= sums + borders + max(least, images * channels * size**2)


def test_many_threads_want_no_more_memory(three_threads):
    convolution = convolution_of(256, 256, 14, 14, (1, 1))
    assert gain(convolution, 2) and not gain(convolution, 64)
    assert gain(convolution_of(128, 128, 28, 28, (1, 1)), 64)
