"""An update on passes of each kind; those that a GPU replays are in tests/cuda."""

import pytest
import torch

from asqcli.api import quantize_module
from asqcli.nn.prepare import quantizers
from asqcli.train.objective import Objective
from asqcli.train.optimizer import RATE, make_optimizer
from asqcli.train.passes import Passes, ReplayedPasses
from asqcli.train.update import Update
from tests.export.cases import SETTINGS

CPU = torch.device("cpu")


def test_it_moves_parameters_at_their_rates_and_holds_steps_within_their_bounds(tiny_net):
    torch.manual_seed(0)
    model = quantize_module(tiny_net, [torch.randn(4, 3, 8, 8)], **SETTINGS["post4"])
    passes = Passes(model, Objective(), classes=10, precision="float32", device=CPU)
    optimizer = make_optimizer(model, "sgd", lr=9.0, momentum=0.9, weight_decay=0.0, step_lr=0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1000.0)
    Update(optimizer, passes)(0.25)
    assert {group["lr"] / group[RATE] for group in optimizer.param_groups} == {0.25}
    scales = {id(q.scale_parameter) for q in quantizers(model)}
    for name, parameter in model.named_parameters():
        expected = 0.9 * before[name] if id(parameter) in scales else before[name] - 250.0
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.parametrize("with_tensors", [True, False])
def test_passes_replay_it_where_its_rates_are_tensors(tiny_net, with_tensors):
    given = []
    passes = object.__new__(ReplayedPasses)
    passes.model, passes.follow_up = tiny_net, given.append
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([{"params": [parameter], RATE: 1.0}], lr=9.0)
    if with_tensors:
        optimizer.param_groups[0]["lr"] = torch.tensor(9.0)
    update = Update(optimizer, passes)
    update(0.5)
    update(0.25)
    assert parameter.item() == (1.0 if with_tensors else 0.25) and len(given) == 2 * with_tensors
    assert not given or given[0] == given[1]  # the same work each time, which a recording is found by
