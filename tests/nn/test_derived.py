"""Layers of an author's own class: quantized around the call of their product, or refused before any training."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.api import export_module, quantize_module
from asqcli.engine import load
from asqcli.errors import UnsupportedError
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.norms import TwoStepBatchNorm2d, TwoStepNorm
from asqcli.nn.prepare import quant_layers
from asqcli.nn.survey import survey

X = torch.randn(5, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class DynamicPadding(nn.Conv2d):
    """As TensorFlow pads, found in each forward, by a function that knows no layer."""

    def forward(self, x):
        return self.padded(x, self.weight, self.bias)

    def padded(self, x, weight, bias):
        def total(side, kernel, stride, dilation):
            return max((math.ceil(side / stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)

        sides = zip(x.size()[-2:], weight.shape[-2:], self.stride, self.dilation, strict=True)
        height, width = (total(*side) for side in sides)
        x = F.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])
        return F.conv2d(x, weight=weight, bias=bias, stride=self.stride, dilation=self.dilation, groups=self.groups)


class StaticPadding(nn.Conv2d):
    """Found once, and kept as a layer; its children are layers as any others."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.before, self.norm = nn.ZeroPad2d((0, 2, 1, 0)), nn.BatchNorm2d(self.out_channels)

    def forward(self, x):
        return self.norm(super().forward(self.before(x))).relu()


class Activated(nn.Conv2d):
    """Something before it that decides about signs, and after it; geometry that is no attribute."""

    def forward(self, x, *, after):
        return after(F.conv2d(F.relu(x), self.weight, self.bias, 2, (1, 0)))


class OnlyNamed(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding="same")


class PerChannel(nn.Conv2d):
    """Groups that no attribute tells."""

    def __init__(self, channels):
        super().__init__(1, channels, 3)

    def forward(self, x):
        return F.conv2d(x, self.weight, self.bias, groups=x.shape[1])


class Cast(nn.Linear):
    def forward(self, input):
        return F.linear(input, self.weight.to(dtype=input.dtype), self.bias).to(input.dtype)


class NormAct(nn.BatchNorm2d):
    """As image model libraries write it: torch's forward copied, then what follows."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.Hardswish()

    def forward(self, x):
        evaluates = not self.training
        mean, var = self.running_mean, self.running_var
        x = F.batch_norm(x, mean, var, self.weight, self.bias, not evaluates, self.momentum, self.eps)
        return self.act(self.drop(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dynamic, self.act = DynamicPadding(3, 8, 3, stride=2, bias=False), NormAct(8)
        self.static, self.sync = StaticPadding(8, 8, 3, groups=2), nn.SyncBatchNorm(8)
        self.activated, self.named, self.single = Activated(8, 6, 3), OnlyNamed(6), PerChannel(6)
        self.head = Cast(6, 5)

    def forward(self, x):
        x = self.sync(self.static(self.act(self.dynamic(x))))
        x = self.named(F.pad(self.activated(x, after=F.silu), (1, 1, 1, 1)))
        return self.head(self.single(x).mean((2, 3)))


def settled() -> Net:
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, -1.5, 1.5)
    for _ in range(3):
        net(X)
    return net.eval()


def test_layers_of_own_classes_are_quantized_around_their_products(tmp_path):
    net = settled()
    names, expected = set(net.state_dict()), net(X)
    quantize_module(net, [X], scheme="asq", bits=8)
    assert [n for n, _ in quant_layers(net)] == ["dynamic", "static", "activated", "named", "single", "head"]
    assert isinstance(net.dynamic, QuantConv2d) and isinstance(net.dynamic, DynamicPadding)
    assert isinstance(net.head, QuantLinear) and isinstance(net.head, Cast)
    assert all(isinstance(norm, TwoStepNorm) for norm in (net.act, net.sync, net.static.norm))
    assert names <= set(net.state_dict())
    assert (net(X) - expected).abs().max() < 0.05 * expected.abs().max()
    signed = {name: layer.activation_quantizer.signed for name, layer in quant_layers(net)}
    assert signed["static"] and not signed["activated"]  # its own ReLU lies before its product

    F.cross_entropy(net.train()(X), torch.arange(5)).backward()
    assert all(p.grad is not None for p in net.parameters())
    export_module(net.eval(), tmp_path / "net.asq", image_size=9, classes="abcde")
    assert np.array_equal(load(tmp_path / "net.asq").run(X.numpy()), net(X).detach().numpy())
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin.dynamic) is type(net.dynamic) and twin.dynamic.weight is not net.dynamic.weight
        assert torch.equal(twin(X), net(X))


def test_the_survey_takes_channels_and_kinds_from_the_calls():
    layers = {layer.name: (layer.kind, layer.in_channels) for layer in survey(settled(), X[:1]).layers}
    assert layers["single"] == ("depthwise", 6) and layers["static"] == ("conv", 8) and layers["head"] == ("linear", 6)


def kind(base=nn.Conv2d, **content):
    return type("Own", (base,), content)


def conv(function):
    return kind(forward=lambda self, x: function(self, x))(3, 4, 1)


def with_low_rank(function):
    layer = kind(nn.Linear, forward=lambda self, x: function(self, x))(3, 4)
    layer.down, layer.up = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4, 2))
    return nn.Sequential(nn.Conv2d(3, 3, 9), nn.Flatten(), layer)


def renormed(self, x):
    self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
    return nn.Conv2d.forward(self, x)


def scaled_in_training(self, x):
    return F.conv2d(x, self.weight * 0.5 if self.training else self.weight, self.bias)


def once(self, x, weight):
    return F.conv2d(x, weight, self.bias)


NEVER = "it never calls `conv2d` with its weight as it is, at test_derived.py:"
REFUSED = {
    "standardised": (lambda: conv(lambda s, x: s._conv_forward(x, s.weight - s.weight.mean(), s.bias)), NEVER),
    "scaled": (lambda: conv(lambda s, x: once(s, x, s.weight * 2)), NEVER),
    "masked": (lambda: conv(lambda s, x: once(s, x, torch.where(s.weight > 0, s.weight, 0))), NEVER),
    "scaled in training": (lambda: conv(scaled_in_training), NEVER),
    "detached": (lambda: conv(lambda s, x: once(s, x, s.weight.detach())), "it calls `conv2d` with its weight in ano"),
    "twice": (lambda: conv(lambda s, x: once(s, x, s.weight) - once(s, -x, s.weight)), "it calls `conv2d` more than o"),
    "bias": (lambda: conv(lambda s, x: F.conv2d(x, s.weight, s.bias * 2)), "it calls `conv2d` with another bias than"),
    "in place": (lambda: conv(renormed), "it changes its weight when it is called"),
    "difference": (
        lambda: conv(lambda s, x: once(s, x, s.weight) - F.conv2d(x, s.weight.sum((2, 3), keepdim=True))),
        r"the weight of layer `0` \(Own\) is used beside its product by `conv2d`, at test_derived.py:",
    ),
    "merged": (
        lambda: with_low_rank(lambda s, x: F.linear(x, s.weight + s.up @ s.down, s.bias)),
        "layer `2` is a Own, a Linear that .* own way: it calls `matmul` with its `up`",
    ),
    "added": (
        lambda: with_low_rank(lambda s, x: nn.Linear.forward(s, x) + x @ s.down.t() @ s.up.t()),
        "layer `2` is a Own, a Linear that .* own way: it calls `matmul` with its `down`",
    ),
    "name": (
        lambda: kind(forward=lambda s, x: s.compute(x), compute=lambda s, x: once(s, x, s.weight))(3, 4, 1),
        "it has a `compute`, a name that quantized layers need",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_its_weights_is_refused_with_its_name_and_place(case):
    make, reason = REFUSED[case]
    layer = make()
    net = layer if isinstance(layer, nn.Sequential) else nn.Sequential(layer, nn.Flatten(), nn.Linear(4 * 81, 5))
    kinds = [type(module) for module in net.modules()]
    with pytest.raises(UnsupportedError, match=reason):
        quantize_module(net.eval(), [X])
    assert [type(module) for module in net.modules()] == kinds


def test_what_multiplies_by_anything_else_goes_on_doing_so():
    """A constant, and a layer of its own inside."""
    layer = conv(lambda s, x: once(s, F.conv2d(x, s.blur, padding=1, groups=3), s.weight) + s.inside(x))
    layer.register_buffer("blur", torch.full((3, 1, 3, 3), 1 / 9))
    layer.inside = nn.Conv2d(3, 4, 1)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(4 * 81, 5)).eval()
    with pytest.warns(match="products outside of layers stay in float: `conv2d` with `0.blur`, at test_derived.py"):
        quantize_module(net, [X])
    assert [n for n, _ in quant_layers(net)] == ["0", "0.inside", "2"]


def test_a_layer_that_changes_its_way_later_is_stopped():
    layer = conv(lambda s, x: once(s, x, s.weight * s.factor if hasattr(s, "factor") else s.weight))
    net = quantize_module(nn.Sequential(layer, nn.Flatten(), nn.Linear(4 * 81, 5)).eval(), [X])
    net[0].factor = 2
    with pytest.raises(UnsupportedError, match="layer `0` is a Own, a Conv2d that"):
        net.train()(X)


OWN_NORMS = {
    "name": lambda s, x: s.compute(nn.BatchNorm2d.forward(s, x)),  # that of a twin's own, too
    "weights": lambda s, x: F.batch_norm(x, s.running_mean, s.running_var, s.weight + 1, s.bias, s.training),
    "epsilon": lambda s, x: F.batch_norm(x, s.running_mean, s.running_var, s.weight, s.bias, s.training, eps=0.1),
    "batch": lambda s, x: F.batch_norm(x, None, None, s.weight, s.bias, True),
    "none": lambda s, x: x * s.weight[:, None, None],
}


@pytest.mark.parametrize("case", OWN_NORMS)
def test_batch_norms_in_a_way_of_their_own_stay_as_they_are(case):
    norm = kind(nn.BatchNorm2d, forward=lambda s, x: OWN_NORMS[case](s, x), compute=lambda s, x: 0.5 * x)(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Flatten(), nn.Linear(4 * 81, 5)).eval()
    quantize_module(net, [X])
    assert net[1] is norm and isinstance(net[0], QuantConv2d)


def test_a_batch_norm_may_use_its_tensors_besides():
    norm = kind(nn.BatchNorm2d, forward=lambda s, x: nn.BatchNorm2d.forward(s, x) * s.weight[:, None, None])(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.Flatten(), nn.Linear(4 * 81, 5)).eval()
    expected = net(X)
    quantize_module(net, [X], scheme="lsq", bits=8)
    assert isinstance(net[1], TwoStepBatchNorm2d) and net[1].weight is norm.weight
    assert (net(X) - expected).abs().max() < 0.05 * expected.abs().max()
