"""An update changes a step size or threshold by a tenth at most, and the offsets of LSQ+ as it likes."""

import pytest
import torch

from asqcli.api import quantize_module
from asqcli.nn.prepare import quantizers
from asqcli.nn.step_sizes import bounded_steps, project_steps
from tests.export.cases import SETTINGS


@pytest.mark.parametrize("chosen", ["post4", "lsq5", "apot4", "pact", "lsq+"])
def test_no_update_changes_a_step_by_more_than_a_tenth(tiny_net, chosen):
    torch.manual_seed(0)
    model = quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)], **SETTINGS[chosen])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with bounded_steps(model), torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_((-1.0, 0.001, 100.0)[index % 3])
    scales = {id(q.scale_parameter) for q in quantizers(model)}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        change = (-1.0, 0.001, 100.0)[index % 3]
        if id(parameter) not in scales:
            assert torch.equal(parameter, before[name] + change), name
            continue
        ratio = parameter.detach() / before[name]
        bound = (before[name] + change) / before[name]
        assert torch.allclose(ratio, bound.clamp(0.9, 1.1)), name


def test_without_quantizers_nothing_is_bounded(tiny_net):
    before = tiny_net.head.bias.detach().clone()
    with bounded_steps(tiny_net), torch.no_grad():
        tiny_net.head.bias.add_(5)
    assert torch.equal(tiny_net.head.bias, before + 5)
    project_steps(tiny_net)


@pytest.mark.parametrize("chosen", ["post4", "pact", "lsq+"])
def test_steps_are_projected_back_above_zero(tiny_net, chosen):
    model = quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)], **SETTINGS[chosen])
    with torch.no_grad():
        for quantizer in quantizers(model):
            quantizer.scale_parameter.fill_(-1.0)
    project_steps(model)
    for quantizer in quantizers(model):
        parameter = quantizer.scale_parameter
        assert (parameter > 0).all() and (1 / parameter).isfinite().all()
    assert model(torch.randn(2, 3, 8, 8)).isfinite().all()
