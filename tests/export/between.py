"""A small network around a function of a value, and what every such function is held to."""

import pytest
import torch
from torch import nn

from asqcli.api import export_module, quantize_module
from asqcli.engine import load
from asqcli.engine.dispatch import NATIVE_KERNELS, usable_kernels
from asqcli.errors import UnsupportedError

SIZE, CHANNELS = 8, 6


class Net(nn.Module):
    def __init__(self, middle) -> None:
        super().__init__()
        self.middle = middle
        self.stem, self.norm = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS)
        with torch.no_grad():
            channels = middle(torch.zeros(1, CHANNELS, SIZE, SIZE)).shape[1]
        self.conv, self.head = nn.Conv2d(channels, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.conv(self.middle(self.norm(self.stem(x)))).mean((2, 3)))


def quantized(middle) -> nn.Module:
    torch.manual_seed(0)
    net = Net(middle)
    images = torch.randn(8, 3, SIZE, SIZE)
    net.train()(images)
    return quantize_module(net.eval(), [images], start="lsq").eval()


def refusal(middle, text, path) -> UnsupportedError:
    """Return the error by which an export is refused, with `text` in it."""
    net = quantized(middle)
    with pytest.raises(UnsupportedError, match=text) as refused:
        export_module(net, path, image_size=SIZE, classes="abcd")
    return refused.value


def assert_exported(middle, path, *, native: bool = True) -> None:
    """Compare a file with its network; `export_module` compares, too, and raises where a logit differs."""
    net = quantized(middle)
    export_module(net, path, image_size=SIZE, classes="abcd")
    session, images = load(path), torch.randn(5, 3, SIZE, SIZE)
    if set(NATIVE_KERNELS) & set(usable_kernels()):
        assert (session.kernel in NATIVE_KERNELS) == native
    with torch.no_grad():
        expected = net(images).numpy()
    assert (session.run(images.numpy()) == expected).all() and expected.std(axis=0).min() > 0
