"""Networks that get past their quantized layers, each in its own way: refused before anything is trained."""

import functools
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.api import quantize_module
from asqcli.errors import UnsupportedError
from asqcli.nn.layers import QuantConv2d
from asqcli.nn.norms import TwoStepBatchNorm2d
from asqcli.nn.prepare import prepare, prepared
from asqcli.nn.proof import float_products
from asqcli.quant.spec import LayerSpec
from tests.nn.test_prepare import LSQ, POST, specs_for

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and a linear layer; `between` goes from the first to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head, self.bare = nn.Linear(4, 5), nn.Parameter(torch.ones(5, 5))
        conv = self.conv
        self.kept = {
            "list": [self.conv],
            "closure": lambda x: conv(x),
            "partial": functools.partial(lambda layer, x: layer(x), conv),
            "method": conv.forward,
            "norm": (self.norm,),
            "norm's method": self.norm.forward,
            "stranger": nn.Conv2d(4, 4, 1),
        }
        self.between = lambda x: self.conv(x)

    @functools.cached_property
    def cached(self):
        return self.conv

    def forward(self, x):
        return self.head(self.norm(self.between(self.stem(x))).mean((2, 3)))


ITSELF = r"layer `conv` \(Conv2d\), which is replaced by a quantized one, is called itself, at test_proof.py:\d+: `"
NORM = r"layer `norm` \(BatchNorm2d\), which is replaced by a quantized one, is called itself, at test_proof"
OUTSIDE = r"the weight of layer `conv` \(Conv2d\) is used outside of it by `conv2d`, at test_proof.py:\d+: `"
WAYS_PAST = {
    "list": (lambda net, x: net.kept["list"][0](x), ITSELF),
    "cached property": (lambda net, x: net.cached(x), ITSELF),
    "closure": (lambda net, x: net.kept["closure"](x), ITSELF),
    "partial": (lambda net, x: net.kept["partial"](x), ITSELF),
    "one of two": (lambda net, x: net.conv(x) + net.kept["list"][0](x), ITSELF),
    "norm": (lambda net, x: net.kept["norm"][0](net.conv(x)), NORM),
    "norm's method": (lambda net, x: net.kept["norm's method"](net.conv(x)), NORM),
    "weight": (lambda net, x: net.conv(x) + F.conv2d(x, net.conv.weight, padding=1), OUTSIDE),
    "masked weight": (lambda net, x: net.conv(x) + F.conv2d(x, net.conv.weight * 0.5, padding=1), OUTSIDE),
    "stranger": (lambda net, x: net.kept["stranger"](net.conv(x)), "a Conv2d is called that is no layer of the netw"),
    "method": (lambda net, x: net.kept["method"](x), "layer `conv` runs without being called"),
    "choice": (
        lambda net, x: net.conv(x) if isinstance(net.conv, QuantConv2d) else net.conv(net.conv(x)),
        r"layer `conv` \(Conv2d\) runs 2 times in the float network, and once once it is quantized, at test_proof",
    ),
}


def with_between(function) -> Net:
    net = Net().eval()
    net.between = functools.partial(function, net)
    return net


@pytest.mark.parametrize("way", WAYS_PAST)
def test_ways_past_a_quantized_layer_are_refused_and_leave_the_network_float(way):
    function, reason = WAYS_PAST[way]
    net = with_between(function)
    with torch.no_grad():
        net(X)  # the first run caches
        expected = net(X)
        with pytest.raises(UnsupportedError, match=reason):
            quantize_module(net, [X])
        assert type(net.conv) is nn.Conv2d and type(net.norm) is nn.BatchNorm2d
        assert torch.equal(net(X), expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.conv(x.to(net.conv.weight)).view_as(x),
        lambda net, x: net.conv.forward(x),
        lambda net, x: net.conv(net.conv(x)) * (net.conv.weight.shape[0] == 4),
    ],
    ids=["a weight's dtype", "forward of the attribute", "twice"],
)
def test_what_asks_for_no_more_than_forms_is_quantized(function):
    net = quantize_module(with_between(function), [X])
    assert isinstance(net.conv, QuantConv2d) and isinstance(net.norm, TwoStepBatchNorm2d)


def test_a_stored_method_is_refused_before_training_too():
    net = with_between(WAYS_PAST["method"][0])
    specs = specs_for(net, activations=LSQ, signed=True)
    assert [spec.name for spec in specs] == ["stem", "conv", "head"]  # it runs, called or not
    with pytest.raises(UnsupportedError, match=ITSELF), prepared(net, specs, X[:1]):
        pass


def test_products_outside_of_layers_are_told():
    net = with_between(lambda net, x: F.linear(net.conv(x).transpose(1, 3), net.bare[:4, :4]).transpose(1, 3))
    specs = specs_for(net, activations=LSQ, signed=True)
    generator = torch.get_rng_state()
    with prepared(net, specs, X[:1]) as run:
        assert isinstance(net.conv, QuantConv2d)
        text = float_products(run)
    assert text.startswith("products outside of layers stay in float: `linear` with `bare`, at test_proof.py:")
    assert type(net.conv) is nn.Conv2d and not net._forward_hooks and not net._forward_pre_hooks
    assert torch.equal(torch.get_rng_state(), generator)
    with prepared(Net().eval(), specs, X[:1]) as run:
        assert float_products(run) is None


HOOKS = {
    "forward": ("register_forward_hook", lambda layer, args, out: -out, {}),
    "always": ("register_forward_hook", lambda layer, args, out: -out, {"always_call": True}),
    "keywords": ("register_forward_hook", lambda layer, args, kwargs, out: -out, {"with_kwargs": True}),
    "pre": ("register_forward_pre_hook", lambda layer, args: (-args[0],), {}),
    "pre, keywords": ("register_forward_pre_hook", lambda layer, a, k: ((-a[0],), k), {"with_kwargs": True}),
}


@pytest.mark.parametrize("layer", ["conv", "norm", "head"])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_go_on_working_on_the_twin(layer, kind):
    register, hook, options = HOOKS[kind]
    net = Net().eval()
    handle = getattr(getattr(net, layer), register)(hook, **options)
    expected = net(X)
    quantize_module(net, [X], scheme="lsq", bits=8)
    with_hook = net(X)
    assert (with_hook - expected).abs().max() < 0.05 * expected.abs().max()
    handle.remove()
    assert not torch.equal(net(X), with_hook)


def test_backward_hooks_and_buffers_go_to_the_twin():
    net, seen = Net(), []
    net.conv.register_buffer("gain", torch.tensor(2.0))
    net.conv.register_forward_hook(lambda layer, args, out: out * layer.gain)
    net.conv.register_full_backward_hook(lambda layer, inputs, outputs: seen.append(type(layer).__name__))
    state = set(net.state_dict())
    quantize_module(net.eval(), [X])
    net.train()(X).sum().backward()
    assert seen == ["QuantConv2d"] and state <= set(net.state_dict())


def test_what_cannot_go_to_the_twin_is_refused():
    def refused(change, reason):
        net = Net().eval()
        change(net.conv)
        with pytest.raises(UnsupportedError, match=rf"layer `conv` \(Conv2d\) has {reason}"):
            prepare(net, [LayerSpec(name="conv", kind="conv", weights=POST, activations=LSQ, signed=True)], X[:1])

    refused(lambda conv: conv.register_state_dict_post_hook(lambda *_: None), "hooks on its state dict")
    forward = types.MethodType(lambda self, x: -nn.Conv2d.forward(self, x), nn.Conv2d(4, 4, 3, padding=1))
    refused(lambda conv: setattr(conv, "forward", forward), "a `forward` of its own")
