import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.errors import UnsupportedError
from asqcli.models.state import snapshot
from asqcli.run.preflight import require_trainable
from asqcli.seeds import generator_states
from tests.conftest import TinyNet


def look(model, **options):
    """Return what the user is told of the network."""
    told = []
    require_trainable(model, **{"batch_size": 8, "image_size": 8, "classes": 10, **options}, tell=told.append)
    return told


class Draws(TinyNet):
    """Adds what `draw` gives to its logits."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return super().forward(x) + self.draw(self)


CALLS = iter(range(1000))


@pytest.mark.parametrize(
    "draw",
    [
        lambda net: F.dropout(torch.ones(10)),
        lambda net: np.random.rand(),
        lambda net: float(random.random() < 0.3),
        lambda net: float(np.random.default_rng().random()),
        lambda net: next(CALLS),
    ],
    ids=["dropout", "numpy", "python", "own generator", "counter"],
)
def test_a_network_that_answers_one_image_differently_is_refused(draw):
    with pytest.raises(UnsupportedError, match="two evaluations of one image differ: the network draws random numbers"):
        look(Draws(draw))


def test_random_numbers_in_training_and_those_without_effect_are_taken():
    assert look(Draws(lambda net: F.dropout(torch.ones(10), training=net.training))) == []
    assert look(Draws(lambda net: torch.rand(()) * 0)) == []


def test_the_network_and_the_generators_stay_as_they_are():
    model = TinyNet()
    model.bn.eval()
    before, modes, states = snapshot(model), [m.training for m in model.modules()], generator_states()
    assert look(model) == []
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and generator_states() == states
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_are_told_and_some_must_move():
    model = TinyNet()
    model.stem.requires_grad_(False)
    assert ["1 of 12 parameters are frozen" in text and "stem.weight" in text for text in look(model)] == [True]
    with pytest.raises(UnsupportedError, match="all 12 parameters of the network are frozen"):
        look(model.requires_grad_(False))


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.double, nn.Module.bfloat16])
def test_parameters_that_are_not_float32(change):
    with pytest.raises(UnsupportedError, match=r"`stem.weight` is of type .*; asq trains in float32") as refusal:
        look(change(TinyNet()))
    assert "model.float()" in refusal.value.hint


class Auxiliary(TinyNet):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)


class Cast(TinyNet):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


def test_auxiliary_outputs_and_autocast_are_told():
    (auxiliary,), (cast,) = look(Auxiliary()), look(Cast())
    assert "returns several outputs (tuple)" in auxiliary and "autocast is on inside" in cast and "stem" in cast


class TurnsGradientsOff(TinyNet):
    def forward(self, x):
        torch.set_grad_enabled(False)
        return super().forward(x)


def test_a_forward_without_gradients_is_refused_and_leaves_them_on():
    with pytest.raises(UnsupportedError, match="carry no gradient"):
        look(TurnsGradientsOff())
    assert torch.is_grad_enabled()


def test_a_batch_of_one_is_tried_as_such():
    with pytest.raises(UnsupportedError, match=r"fails in training on a batch of shape \(1, 3, 2, 2\): ValueError"):
        look(nn.Sequential(nn.Conv2d(3, 10, 2), nn.BatchNorm2d(10), nn.Flatten()), batch_size=1, image_size=2)


class Remembers(TinyNet):
    """Takes from its features what it saw in training, kept as `keep` makes it."""

    def __init__(self, keep):
        super().__init__()
        keep(self)

    def forward(self, x):
        x = self.stem(x)
        if self.training:
            self.seen = self.seen * 0.9 + x.detach().mean()
        return self.head(self.pool(self.linear_bottleneck(self.pointwise(x - self.seen))).flatten(1))


def as_buffer(net, persistent):
    net.register_buffer("seen", torch.zeros(()), persistent=persistent)


def as_attribute(net):
    net.seen = torch.zeros(())


def test_what_training_changes_must_be_in_the_state():
    assert look(Remembers(lambda net: as_buffer(net, persistent=True))) == []
    with pytest.raises(
        UnsupportedError, match=r"state dict does not hold all .* otherwise: what is not persistent, seen$"
    ):
        look(Remembers(lambda net: as_buffer(net, persistent=False)))
    with pytest.raises(UnsupportedError, match="state dict does not hold all that training changes"):
        look(Remembers(as_attribute))


def test_a_state_must_come_back_as_it_is():
    model = TinyNet()

    def double(_module, state, prefix, *_):
        state[prefix + "head.bias"] = 2 * state[prefix + "head.bias"]

    model.register_load_state_dict_pre_hook(double)
    with pytest.raises(UnsupportedError, match="what hooks on its state dict do"):
        look(model)


class LeavesOut(TinyNet):
    def state_dict(self, *args, **kwargs):
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if "stem" not in name}


def test_a_state_must_hold_every_parameter_that_is_trained():
    model = LeavesOut()
    model.stem.weight.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="does not take back its own state"):  # as far as it can tell
        look(model)
    with pytest.raises(UnsupportedError, match=r"`state_dict..` of the network leaves out stem.weight$"):
        look(LeavesOut())


def test_a_tensor_that_cannot_be_written_is_named():
    model = TinyNet()
    model.scale = nn.Parameter(torch.ones(1).expand(8))
    with pytest.raises(UnsupportedError, match="several elements of `scale` lie in one place of memory"):
        look(model)


def test_gradients_stay_what_they_were():
    model = TinyNet()
    model.head.bias.grad = torch.ones(10)
    assert look(model) == []
    assert torch.equal(model.head.bias.grad, torch.ones(10)) and model.stem.weight.grad is None
