"""Quantized layers seen at work, and switched off: afterwards all is as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.nn.calibration import calibrate
from asqcli.nn.observed import inputs_seen, outputs_kept, quantizers_off
from asqcli.quant.spec import LayerSpec, LsqActivations, UniformWeights


class SamePadding(nn.Conv2d):
    """Pads by itself, more on the right and below."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


@pytest.fixture
def padded():
    torch.manual_seed(0)
    net = nn.Sequential(SamePadding(3, 4, 2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(4, 2))  # fmt: skip
    before = copy.deepcopy(net)
    specs = [LayerSpec(name=name, kind=kind, weights=UniformWeights(bits=2), activations=LsqActivations(bits=2))
             for name, kind in (("0", "conv"), ("4", "linear"))]  # fmt: skip
    calibrate(net, specs, [torch.randn(8, 3, 5, 5)], start="lsq")
    return net.eval(), before.eval()


@torch.no_grad()
def test_what_products_get(padded):
    net, _ = padded
    images, seen = torch.randn(2, 3, 5, 5), []
    logits = net(images)
    with inputs_seen(net, lambda name, layer, x: seen.append((name, layer, x))):
        assert torch.equal(net(images), logits)
    assert [(name, layer) for name, layer, _ in seen] == [("0", net[0]), ("4", net[4])]
    assert torch.equal(seen[0][2], F.pad(images, (0, 1, 0, 1)))
    net(images)
    assert len(seen) == 2


@torch.no_grad()
def test_off_and_on_again(padded):
    net, before = padded
    images = torch.randn(2, 3, 5, 5)
    logits = net(images)
    with quantizers_off(net):
        assert torch.allclose(net(images), before(images), atol=1e-6)
        with inputs_seen(net, lambda *_: None):
            assert torch.allclose(net(images), before(images), atol=1e-6)
        assert torch.allclose(net(images), before(images), atol=1e-6)
    with pytest.raises(RuntimeError), quantizers_off(net):
        net(images[:, :1])
    assert torch.equal(net(images), logits) and not torch.allclose(logits, before(images), atol=1e-2)


@torch.no_grad()
def test_outputs_are_what_modules_returned(padded):
    _, before = padded
    images = torch.randn(2, 3, 5, 5)
    with outputs_kept(before, ["4", "0"]) as kept:
        logits = before(images)
    assert list(kept) == ["0", "4"] and torch.equal(kept["4"], logits)
    assert torch.equal(kept["0"], before[0](images)) and kept["0"].min() < 0  # the ReLU after it works in place
