"""Networks that go past their quantized layers in training alone, and those that only seem to."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from asqcli.api import quantize_module
from asqcli.errors import UnsupportedError
from tests.conftest import TinyNet


class WeightNoise(TinyNet):
    """Multiplies by noisy weights itself."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.depthwise(x))).relu()
        x = F.conv2d(x, F.dropout(self.pointwise.weight, 0.1), self.pointwise.bias, stride=2)
        return self.head(self.pool(self.linear_bottleneck(x)).flatten(1))


class PlainList(TinyNet):
    """Calls its layers by a list, which Python alone knows."""

    def __init__(self):
        super().__init__()
        self.layers = [self.pointwise, self.linear_bottleneck]

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.depthwise(x))).relu()
        for layer in self.layers:
            x = layer(x)
        return self.head(self.pool(x).flatten(1))


class BoundMethod(TinyNet):
    """Computes a layer again in the backward, by a method that it kept."""

    def __init__(self):
        super().__init__()
        self.kept = self.pointwise.forward

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.depthwise(x))).relu()
        x = checkpoint(self.kept, x, use_reentrant=False) if self.training else self.pointwise(x)
        return self.head(self.pool(self.linear_bottleneck(x)).flatten(1))


class LeavesOut(TinyNet):
    """Leaves a layer out of every other forward in training, at random."""

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        if not (self.training and random.random() < 0.5):
            x = (x + self.bn2(self.depthwise(x))).relu()
        return self.head(self.pool(self.linear_bottleneck(self.pointwise(x))).flatten(1))


class ComputesAgain(TinyNet):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x):
        x = self.bn(self.stem(x)).relu()
        x = (x + self.bn2(self.depthwise(x))).relu()
        if self.training:
            x = checkpoint(lambda y: self.linear_bottleneck(self.pointwise(y)), x, use_reentrant=self.reentrant)
        else:
            x = self.linear_bottleneck(self.pointwise(x))
        return self.head(self.pool(x).flatten(1))


def quantized(net):
    torch.manual_seed(0)
    return quantize_module(net, [torch.randn(4, 3, 8, 8)])


@pytest.mark.parametrize(
    ("net", "past"),
    [(WeightNoise, "`pointwise`$"), (PlainList, "`pointwise`; `linear_"), (BoundMethod, "`pointwise`$")],
)
def test_layers_that_training_goes_past_are_named(net, past):
    model = net()
    with pytest.raises(UnsupportedError, match=f"evaluation calls the quantized layers and training does not.*{past}"):
        quantized(model)
    assert type(model.pointwise) is nn.Conv2d  # and nothing was replaced


def test_layers_left_out_at_random_and_computed_again_are_taken():
    for net in (LeavesOut(), ComputesAgain(False), ComputesAgain(True)):
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        drawn = random.getstate()
        state = quantized(net).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items()) and random.getstate() == drawn


class WantsLabels(TinyNet):
    """Returns its loss in training, which this trial does not know how to ask for."""

    def forward(self, x, labels=None):
        logits = super().forward(x)
        return F.cross_entropy(logits, labels) if self.training else logits


def test_a_network_that_raises_in_training_can_be_quantized_without():
    assert hasattr(quantized(WantsLabels()).head, "weight_quantizer")
