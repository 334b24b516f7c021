"""What a run writes down: functions by whatever way they are called, their layers, places and sources."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asqcli.errors import UnsupportedError
from asqcli.nn.prepare import prepare
from asqcli.nn.record import INPUT, executions, record, record_or_refuse, storage_of
from tests.nn.test_prepare import specs_for

X = torch.zeros(2, 3, 8, 8)


class Calls(nn.Module):
    """Calls a function of a convolution's output."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.conv, self.relu = function, nn.Conv2d(3, 4, 3), nn.ReLU()
        self.mask = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        return self.function(self, self.conv(x))


def after_convolution(function):
    """Return the operations that `function` calls."""
    return [o for o in record(Calls(function), X).operations if o.function is not F.conv2d]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda net, x: x + 1, ["add"]),
        (lambda net, x: 1 + x, ["add"]),
        (lambda net, x: x.view(*x.shape[:2], -1), ["shape", "view"]),
        (lambda net, x: F.relu(x) if len(x) > 1 else x, ["len", "relu"]),
        (lambda net, x: net.relu(x), ["relu"]),
        (lambda net, x: torch.cat([part for part in x], 0), ["dim", "unbind", "cat"]),  # noqa: C416  `list` asks for its length
        (lambda net, x: x.relu_().add_(x), ["relu_", "add_"]),
        (lambda net, x: x + torch.eye(6).to_sparse().to_dense(), ["to_sparse", "to_dense", "add"]),  # without storage
    ],
)
def test_functions_by_every_way_of_calling(function, names):
    assert [operation.name for operation in after_convolution(function)] == names


def test_an_operation_knows_its_layer_its_place_and_how_it_was_written():
    [first, second] = after_convolution(lambda net, x: net.relu(x).add_(1))
    assert isinstance(first.module, nn.ReLU) and second.module is None
    assert first.place == second.place
    assert second.place.startswith(", at test_record.py:") and "net.relu(x).add_(1)" in second.place
    assert not second.operator and second.changed == [second.result]

    def add(net, x):
        x += 1
        return x

    assert after_convolution(add)[0].operator


def test_a_tensor_is_made_from_what_its_storage_was_made_from():
    def function(net, x):
        buffer = torch.zeros_like(x)
        view = buffer[:, :, :2]
        buffer.add_(x)
        return view * net.mask.abs()

    form, view, write, magnitude, product = after_convolution(function)
    assert form.sources == view.sources == frozenset()  # no more than the form of `x`
    assert magnitude.sources == {"mask"} and INPUT in write.sources
    assert product.sources == {INPUT, "mask", "conv.weight", "conv.bias"}


def test_lists_are_kept_as_they_were_at_the_call():
    def function(net, x):
        parts = [x]
        y = torch.cat(parts, 1)
        parts.append(y)
        return torch.cat(parts, 1)

    assert [len(operation.args[0]) for operation in after_convolution(function)] == [1, 2]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_change_that_no_function_made_is_seen():
    @torch.jit.script
    def double_(x):
        return x.mul_(2.0)

    operations = after_convolution(lambda net, x: (double_(x), F.relu(x))[1])
    assert [operation.changed_unseen for operation in operations] == [True]
    assert not any(o.changed_unseen for o in after_convolution(lambda net, x: (x.mul_(2.0), F.relu(x))[1]))


def test_quantized_layers_and_batch_norms_are_single_functions(tiny_net):
    example = torch.zeros(1, 3, 8, 8)
    before = [type(layer).__name__ for layer in executions(record(tiny_net, example))]
    assert before == ["Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d", "Conv2d", "Conv2d", "Linear"]
    prepare(tiny_net, specs_for(tiny_net, signed=True), example)
    layers = [type(o.module).__name__ for o in record(tiny_net, example).operations if o.is_layer]
    assert layers == ["QuantConv2d", "TwoStepBatchNorm2d"] * 2 + ["QuantConv2d"] * 2 + ["QuantLinear"]


def test_a_run_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.BatchNorm2d(4)).train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    record(network, X)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert network[1].training and torch.equal(torch.get_rng_state(), generator)


def test_what_the_network_raises_is_told_with_its_place():
    def function(net, x):
        raise ValueError("not today")

    with pytest.raises(UnsupportedError, match=r"\(2, 3, 8, 8\): ValueError: not today, at test_record.py:\d+: `raise"):
        record_or_refuse(Calls(function), X)


def test_tensors_without_memory_of_their_own_are_known_by_themselves():
    sparse, other = (torch.eye(2).to_sparse() for _ in range(2))
    assert storage_of(sparse) == storage_of(sparse) != storage_of(other)
    dense = torch.eye(2)
    assert storage_of(dense) == storage_of(dense.t()) != storage_of(torch.eye(2))
