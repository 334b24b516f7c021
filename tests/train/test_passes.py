"""What decides on a GPU whether a training step can be recorded; the recording itself is in tests/cuda."""

import pytest
import torch
from torch import nn

from asqcli.train.passes import remembered


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
