"""Passes, and what decides on a GPU whether they can be recorded and replayed; the recording is in tests/cuda."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from asqcli.errors import UnsupportedError
from asqcli.nn.modes import to_training
from asqcli.train.objective import Objective
from asqcli.train.passes import Passes, places, remembered


class Remembering(nn.Module):
    """Holds something of each kind beside its parameters."""

    def __init__(self):
        super().__init__()
        self.linear, self.count, self.average, self.seen = nn.Linear(2, 2), 0, torch.zeros(2), []


def rebind(net):
    net.average = 0.9 * net.average


def write(net):
    net.average.mul_(0.9)
    net.linear.weight.data.add_(1)


def count(net):
    net.count += 1


def append(net):
    net.seen.append(1)


@pytest.mark.parametrize(("change", "is_seen"), [(rebind, True), (count, True), (append, True), (write, False)])
def test_what_a_module_remembers_beside_the_memory_of_its_tensors_is_seen(change, is_seen):
    net = nn.Sequential(Remembering())
    before = remembered(net, None)
    assert before == remembered(net, None)
    change(net[0])
    assert (before != remembered(net, None)) == is_seen


def test_passes_take_the_place_of_the_gradients_that_were_there(tiny_net):
    to_training(tiny_net)
    passes = Passes(tiny_net, Objective(), classes=10, precision="float32", device=torch.device("cpu"))
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    passes(images, labels)
    once = [p.grad.clone() for p in tiny_net.parameters()]
    passes(images, labels)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(tiny_net.parameters(), once, strict=True))


def with_gradients():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return net


def replace_parameter(net):
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())


def replace_buffer(net):
    net[1].running_mean = net[1].running_mean.clone()


def move_gradient(net):
    net[0].weight.grad.data = net[0].weight.grad.clone()


def replace_module(net):
    """By one that has no tensors, either."""
    net[2] = nn.SiLU()


def add_module(net):
    net.append(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (replace_parameter, True), (replace_buffer, True), (move_gradient, True),
        (replace_module, True), (add_module, True), (lambda net: net[0].weight.data.add_(1), False),
    ],
)  # fmt: skip
def test_what_a_recording_would_not_follow_is_seen(change, is_seen):
    net = with_gradients()
    modules, grads = list(net.modules()), [(p, p.grad) for p in net.parameters()]
    kept = [*net.children(), *net.parameters(), *net.buffers()]  # so that none of their addresses is another's
    before = places(modules, grads)
    assert before == places(modules, grads)
    change(net)
    assert (places(modules, grads) != before) == is_seen and kept


def test_in_float32_on_a_cpu_no_mode_sees_what_a_network_calls(tiny_net):
    """It would take as long as the passes of a small network."""
    passes = Passes(tiny_net, Objective(), classes=10, precision="float32", device=torch.device("cpu"))
    on_a_gpu = Passes(tiny_net, Objective(), classes=10, precision="float32", device=torch.device("cuda"))
    assert isinstance(passes._batch_norms(), nullcontext) and isinstance(on_a_gpu._batch_norms(), TorchFunctionMode)


class InFloat32(nn.Module):
    """Has an operation that takes no bfloat16 beside float32."""

    def __init__(self, net):
        super().__init__()
        self.net, self.pairs = net, nn.Bilinear(10, 10, 10)

    def forward(self, x):
        logits = self.net(x)
        return self.pairs(logits, logits)


def test_a_network_that_takes_no_bfloat16_is_told_what_trains_it(tiny_net):
    model = InFloat32(tiny_net)
    to_training(model)
    batch = torch.randn(8, 3, 16, 16), torch.zeros(8, dtype=torch.int64)
    Passes(model, Objective(), classes=10, precision="float32", device=torch.device("cpu"))(*batch)
    passes = Passes(model, Objective(), classes=10, precision="bfloat16", device=torch.device("cpu"))
    with pytest.raises(UnsupportedError, match=r"BFloat16.*self\.pairs") as caught:
        passes(*batch)
    assert "--precision float32" in caught.value.hint
