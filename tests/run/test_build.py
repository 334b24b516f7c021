"""A network of the user's is the same one wherever a run is opened."""

import sys

import pytest
import torch

from asqcli.errors import UnsupportedError
from asqcli.recipe.resolve import Request, resolve
from asqcli.run.build import build_with_head
from asqcli.seeds import generator_states

SOURCE = """
import random
import numpy as np
import torch
from torch import nn

AT_IMPORT = torch.randperm(8).tolist()

class Random(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.drawn = torch.rand(()).item(), np.random.rand(), random.random(), AT_IMPORT
        self.conv, self.linear = nn.LazyConv2d(4, 3), None

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        if self.linear is None:  # made when it is first needed
            self.linear = nn.Linear(x.shape[1], 10)
        return self.linear(x)

def unruly():
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return Random().float()

def unused():
    net = Random()
    net.never = nn.LazyLinear(3)
    return net

def meta():
    return nn.Sequential(nn.Conv2d(3, 4, 1, device='meta'))

def fails():
    return nn.Sequential(Random(), Broken())

def ignores(**kwargs):
    return Random()

def without():
    return Random()

class Broken(nn.Module):
    def forward(self, x):
        return x.nothing
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Return a function that builds a network of the source above."""
    (tmp_path / "random_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def build(name, seed=0, forget=True, classes=10, weights="auto", tell=lambda _: None):
        if forget:  # as another process would
            sys.modules.pop("random_models", None)
        flags = {"train.seed": (seed, "--seed"), "pretrained": (weights, "--weights")}
        request = Request(f"random_models:{name}", None, None, None, flags, [])
        return build_with_head(resolve(request).recipe, classes, tell).model

    yield build
    sys.modules.pop("random_models", None)


def everything(model):
    return model.drawn, {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def test_what_a_constructor_draws_is_a_function_of_the_seed(build):
    first = build("Random")
    torch.rand(3), torch.manual_seed(5)
    assert everything(build("Random")) == everything(first)
    assert everything(build("Random", forget=False)) == everything(first)
    other = everything(build("Random", seed=1))
    assert all(a != b for a, b in zip(other[0], first.drawn, strict=True)) and other[1] != everything(first)[1]


def test_layers_that_the_first_forward_makes_are_there(build):
    assert set(build("Random").state_dict()) == {"conv.weight", "conv.bias", "linear.weight", "linear.bias"}
    assert type(build("Random").conv) is torch.nn.Conv2d


def test_a_factory_leaves_no_settings_behind(build):
    before = generator_states()
    build("unruly")
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
    assert generator_states() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unused", r"shape of layer `never` \(LazyLinear\) is not known"),
        ("meta", "`0.weight` has a shape but no values"),
        ("fails", r"in layer `1` \(Broken\).*AttributeError: .*, at random_models.py:\d+: `return x.nothing`"),
    ],
)
def test_networks_that_cannot_be_built(build, name, message):
    with pytest.raises(UnsupportedError, match=message):
        build(name)


@pytest.mark.parametrize(("name", "weights"), [("ignores", "auto"), ("without", "factory")])
def test_a_network_for_other_classes_gets_the_same_new_head_each_time(build, name, weights):
    told = []
    first = build(name, classes=3, weights=weights, tell=told.append)
    assert first.linear.out_features == 3
    assert told == [f"`random_models:{name}` answers with 10 logits: a new head for 3 classes (linear)"]
    torch.rand(3)
    assert everything(build(name, classes=3, weights=weights)) == everything(first)
    assert torch.equal(first.conv.weight, build(name, weights=weights).conv.weight)


def test_a_network_that_was_not_asked_keeps_its_head(build):
    assert build("without", classes=3).linear.out_features == 10
