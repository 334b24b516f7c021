"""Steps of several processes, each with its part of every batch, beside those of one with the whole."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from asqcli.api import quantize_module
from asqcli.data.preprocessing import Preprocessing
from asqcli.data.splits import MemorySplit
from asqcli.errors import DivergedError
from asqcli.processes.alone import ALONE
from asqcli.train.loop import Phase, PhaseSettings
from asqcli.train.objective import Objective
from asqcli.train.progress import Progress
from asqcli.train.reporter import Reporter
from tests.parts_in_threads import in_threads

CPU = torch.device("cpu")
SETTINGS = PhaseSettings(epochs=5, batch_size=13, lr=0.01, momentum=0.9, weight_decay=1e-4, seed=3)
IN_BFLOAT16 = replace(SETTINGS, max_steps=5, precision="bfloat16")


class Losses(Reporter):
    """Keeps the running mean of the loss after each step."""

    def __init__(self):
        self.losses = []

    def step(self, *, loss, **_):
        self.losses.append(loss)


def split(images=130):
    drawn = torch.Generator().manual_seed(5)  # threads share torch's own
    pixels = torch.randint(0, 256, (images, 3, 8, 8), dtype=torch.uint8, generator=drawn)
    return MemorySplit(
        pixels, torch.arange(images) % 10, Preprocessing(8, 8, (0.5,) * 3, (0.25,) * 3, "shift_flip", padding=2)
    )


def train(model, processes=ALONE, settings=SETTINGS, objective=None):
    """Train to the end of a phase; return the running means of its loss, and the network."""
    model, reporter = copy.deepcopy(model), Losses()
    phase = Phase(model, split(), settings, Progress("qat"), device=CPU, classes=10, hooks={}, processes=processes,
                  objective=objective or Objective(label_smoothing=0.1))  # fmt: skip
    phase.run(reporter=reporter, poll=lambda: None, watch=dict, after_epoch=lambda _: None, save=lambda: None)
    return reporter.losses, model


class InDouble(nn.Module):
    """A quantized network in double: in float32 sums of another order flip a code now and then, and what follows."""

    def __init__(self, network):
        super().__init__()
        self.network = quantize_module(network, [torch.randn(16, 3, 8, 8)]).double()

    def forward(self, x):
        return self.network(x.double())


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_fifty_steps_of_two_and_three_processes_are_those_of_one(tiny_net, quantized):
    torch.manual_seed(0)
    teacher = copy.deepcopy(tiny_net)
    model = InDouble(tiny_net) if quantized else tiny_net
    objective = Objective(teacher=teacher, weight=0.3)
    expected, whole = train(model, objective=objective)
    assert len(expected) == 50
    for size in (2, 3):
        runs = in_threads(size, lambda threads: train(model, threads, objective=objective))
        for losses, own in runs:
            assert losses == pytest.approx(expected, rel=1e-5)
            for (name, tensor), other in zip(own.state_dict().items(), runs[0][1].state_dict().values(), strict=True):
                assert torch.equal(tensor, other), name
        torch.testing.assert_close(dict(own.named_buffers()), dict(whole.named_buffers()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("quantized", [False, True], ids=["float", "quantized"])
def test_steps_in_bfloat16_are_those_in_float32_but_for_rounding(tiny_net, quantized):
    """Alone and in two processes, whose batch norms see the whole batch; a teacher answers as ever."""
    torch.manual_seed(0)
    teacher = copy.deepcopy(tiny_net)
    model = quantize_module(tiny_net, [torch.randn(16, 3, 8, 8)]) if quantized else tiny_net
    objective = Objective(teacher=teacher, weight=0.3)
    plain, _ = train(model, settings=replace(IN_BFLOAT16, precision="float32"), objective=objective)
    alone, _ = train(model, settings=IN_BFLOAT16, objective=objective)
    again, _ = train(model, settings=IN_BFLOAT16, objective=objective)
    assert alone == again and alone != plain and alone == pytest.approx(plain, rel=0.03)
    for losses, _ in in_threads(2, lambda threads: train(model, threads, IN_BFLOAT16, objective)):
        assert losses[0] == pytest.approx(alone[0], rel=1e-3) and losses == pytest.approx(alone, rel=0.03)


class Branching(nn.Module):
    """A layer that some parts of a batch need and some do not, one that none needs, one that is frozen."""

    def __init__(self):
        super().__init__()
        self.first, self.sometimes, self.never, self.frozen = (nn.Linear(192, 10) for _ in range(4))
        self.frozen.requires_grad_(False)

    def forward(self, x):
        x = x.flatten(1)
        answer = self.first(x) + self.frozen(x)
        return answer + self.sometimes(x) if x[0, 100] > 0 else answer


def test_parameters_without_a_gradient_somewhere_or_anywhere():
    torch.manual_seed(2)
    model = Branching()
    never, frozen = model.never.weight.clone(), model.frozen.weight.clone()
    runs = in_threads(2, lambda threads: train(model, threads))
    for _, own in runs:
        assert torch.equal(own.never.weight, never) and torch.equal(own.frozen.weight, frozen)
        assert not torch.equal(own.sometimes.weight, model.sometimes.weight)
        assert torch.equal(own.sometimes.weight, runs[0][1].sometimes.weight)


class Poisoned(nn.Module):
    """Norms what all have, and loses one process's part of it."""

    def __init__(self, poison):
        super().__init__()
        self.bn, self.linear, self.poison = nn.BatchNorm2d(3), nn.Linear(192, 10), poison

    def forward(self, x):
        return self.linear(self.bn(x).flatten(1) * self.poison)


@pytest.mark.parametrize("settings", [SETTINGS, IN_BFLOAT16], ids=["float32", "bfloat16"])
def test_a_loss_that_is_nan_in_one_part_ends_all_and_tells_where(settings):
    def work(threads):
        with pytest.raises(DivergedError, match=r"the loss became nan in epoch 1, step 1 .*output of layer `linear`"):
            train(Poisoned(float("nan") if threads.rank else 1.0), threads, settings)
        return threads.rank

    assert in_threads(2, work) == [0, 1]
