from collections import namedtuple

import pytest
import torch
from torch import nn

from asqcli.errors import UnsupportedError
from asqcli.train.forward import backward_in_training, logits_in_training

Named = namedtuple("Named", "auxiliary logits")


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.layer, self.make = nn.Linear(3, 5), make

    def forward(self, x):
        return self.make(self.layer(x), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda y, x: y,
        lambda y, x: (y, y * 0),
        lambda y, x: [x, None, y, y * 0],
        lambda y, x: {"aux": y * 0, "out": y},
        lambda y, x: {"features": x, "first": y},
        lambda y, x: Named(y * 0, y),
        lambda y, x: (y.bfloat16(), y * 0),
        lambda y, x: y.double(),
    ],
)
def test_the_logits_among_several_outputs_are_taken_in_float32(make):
    model, images = Returns(make), torch.randn(4, 3)
    logits = logits_in_training(model, images, 5)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model.layer(images), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y, x: (x, y[:2]), r"returns tuple of a tensor of shape \(4, 3\), a tensor of shape \(2, 5\), with no"),
        (lambda y, x: y[..., None], r"returns a tensor of shape \(4, 5, 1\), with no logits of shape \(4, 5\)"),
        (lambda y, x: None, "returns NoneType, with no logits"),
        (lambda y, x: (), "returns tuple of nothing"),
        (lambda y, x: y.detach(), "carry no gradient"),
        (lambda y, x: y.unknown, r"fails in training .*AttributeError: .*unknown.*, at test_forward.py:\d+: `"),
    ],
)
def test_what_holds_no_logits_to_train_is_refused(make, message):
    with pytest.raises(UnsupportedError, match=message):
        logits_in_training(Returns(make), torch.randn(4, 3), 5)


def test_gradients_that_cannot_be_computed_are_the_networks_fault():
    def overwrite(y, x):
        z = y.exp()
        z += 1
        return z

    loss = logits_in_training(Returns(overwrite), torch.randn(4, 3), 5).sum()
    with pytest.raises(UnsupportedError, match="gradients cannot be computed: RuntimeError: one of the variables"):
        backward_in_training(loss)


class Seen(nn.Module):
    """A convolution, and whether its input was stored with channels last."""

    def __init__(self, *shape, **others):
        super().__init__()
        self.layer = nn.Conv2d(*shape, **others)

    def forward(self, x):
        self.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return self.layer(x).mean((2, 3))


@pytest.mark.parametrize(
    ("layer", "channels_last"),
    [(Seen(3, 5, 1, stride=2), False), (Seen(3, 5, 1), True), (Seen(3, 5, 3, stride=2), True)],
)
def test_layers_that_onednn_overruns_do_not_get_channels_last(layer, channels_last):
    images = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    backward_in_training(logits_in_training(layer, images, 5).square().sum())
    assert layer.channels_last == channels_last
    x = images.double()[:, :, :: layer.layer.stride[0], :: layer.layer.stride[0]]
    if layer.layer.kernel_size == (1, 1):  # by hand: logits are products with the images' means
        means = x.mean((2, 3))
        logits = means @ layer.layer.weight.double().flatten(1).T + layer.layer.bias.double()
        expected = (2 * logits).T @ means
        assert torch.allclose(layer.layer.weight.grad.flatten(1).double(), expected, rtol=1e-5, atol=1e-6)
