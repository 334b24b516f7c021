from collections import Counter

import pytest
import torch
from torch import nn

from asqcli.nn.calibration import calibrate
from asqcli.nn.held_weights import weights_held
from asqcli.nn.modes import evaluating
from tests.conftest import TinyNet
from tests.nn.test_prepare import specs_for


@pytest.fixture
def network(monkeypatch):
    """Return (a quantized network in evaluation, images, how often each layer's weight was quantized)."""
    model, images = TinyNet(), torch.randn(4, 3, 8, 8)
    calibrate(model, specs_for(model), [images], start="mse")
    model.eval()
    counts = Counter()
    for name, module in model.named_modules():
        if getattr(module, "weight_quantizer", None) is not None:
            to_levels = module.weight_quantizer.to_levels

            def counted(weight, name=name, to_levels=to_levels):
                counts[name] += 1
                return to_levels(weight)

            monkeypatch.setattr(module.weight_quantizer, "to_levels", counted)
    return model, images, counts


@torch.no_grad()
def test_weights_are_quantized_once_in_the_context_and_each_time_outside(network):
    model, images, counts = network
    expected = model(images)
    model(images)
    assert set(counts.values()) == {2}
    counts.clear()
    with weights_held():
        with evaluating(model):
            assert torch.equal(model(images), expected)
        assert torch.equal(model(images), expected)
    assert set(counts.values()) == {1}
    model(images)
    assert set(counts.values()) == {2}


@torch.no_grad()
@pytest.mark.parametrize("name", ["pointwise.weight", "pointwise.weight_quantizer.clipping_threshold"])
def test_what_is_written_to_is_quantized_anew(network, name):
    model, images, _ = network
    with weights_held():
        before = model(images)
        dict(model.named_parameters())[name].mul_(3.0)
        held = model(images)
    assert torch.equal(held, model(images)) and not torch.equal(held, before)


@torch.no_grad()
def test_another_parameter_in_the_place_of_the_first_is_quantized_anew(network):
    model, images, _ = network
    with weights_held():
        before = model(images)
        model.pointwise.weight = nn.Parameter(model.pointwise.weight * 3.0)
        held = model(images)
        model.pointwise.weight.data = model.pointwise.weight / 3.0
        back = model(images)
    assert not torch.equal(held, before)
    assert torch.equal(back, model(images))


def test_nothing_is_held_where_gradients_are_wanted(network):
    model, images, counts = network
    with weights_held():
        model(images)
        model(images)
    assert set(counts.values()) == {2}
