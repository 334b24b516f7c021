"""Adapters of a network of other bits, put into a new one."""

import copy

import pytest
import torch

from asqcli.nn.adapters import fitting_adapters, trained_adapters
from asqcli.nn.calibration import calibrate
from asqcli.nn.prepare import quant_layers
from asqcli.nn.survey import survey
from asqcli.quant.spec import AdapterSpec, AsqActivations, LayerSpec, LsqActivations, UniformWeights

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def specs_for(model, activations):
    layers = survey(model, torch.zeros(1, 3, 8, 8)).layers
    weights = UniformWeights(bits=4)
    return [LayerSpec(name=x.name, kind=x.kind, weights=weights, activations=activations) for x in layers]


def activation_quantizers(model):
    return {name: layer.activation_quantizer for name, layer in quant_layers(model)}


def at_four_bits(model, beta=None):
    """Return the network at 4 bits with adapters that answer each image otherwise, or all images `beta`."""
    calibrate(model := copy.deepcopy(model), specs_for(model, AsqActivations(bits=4)), [IMAGES], start="mse")
    with torch.no_grad():
        for quantizer in activation_quantizers(model).values():
            for parameter in quantizer.adapter.parameters():
                parameter.normal_() if beta is None else parameter.zero_()
            if beta is not None:
                quantizer.adapter.linears[-1].bias.fill_(beta - 1)
    return model


def at_three_bits(model, adapters):
    specs = specs_for(model := copy.deepcopy(model), AsqActivations(bits=3))
    fitting = fitting_adapters(adapters, specs, torch.device("cpu"))
    calibrate(model, specs, [IMAGES], start="mse", adapters=fitting)
    return activation_quantizers(model)


def test_adapters_go_on_as_they_are(tiny_net):
    trained = at_four_bits(tiny_net)
    before, after = activation_quantizers(trained), at_three_bits(tiny_net, trained_adapters(trained))
    assert before.keys() == after.keys()
    for name, quantizer in after.items():
        assert quantizer.spec.bits == 3 and not torch.equal(quantizer.step_size, before[name].step_size)
        state, expected = quantizer.adapter.state_dict(), before[name].adapter.state_dict()
        assert state.keys() == expected.keys() and all(torch.equal(state[n], expected[n]) for n in state)


def test_steps_are_fitted_to_what_beta_multiplies(tiny_net):
    """Where beta is 2 for all images, a step of half the size makes the same codes."""
    plain = at_three_bits(tiny_net, {})
    doubled = at_three_bits(tiny_net, trained_adapters(at_four_bits(tiny_net, beta=2.0)))
    for name, quantizer in doubled.items():
        assert 2 * quantizer.step_size.item() == pytest.approx(plain[name].step_size.item(), rel=1e-5)


def test_only_bits_may_differ(tiny_net):
    adapters = trained_adapters(at_four_bits(tiny_net))
    others = {
        AsqActivations(bits=2): True,
        LsqActivations(bits=4): False,
        AsqActivations(bits=4, adapter=AdapterSpec(hidden=3)): False,
        AsqActivations(bits=4, adapter=AdapterSpec(output="relu")): False,
        AsqActivations(bits=4, dequantize_by="step_size"): False,
    }
    for activations, fits in others.items():
        found = fitting_adapters(adapters, specs_for(tiny_net, activations), torch.device("cpu"))
        assert bool(found) == fits and len(found) in (0, len(adapters)), activations
