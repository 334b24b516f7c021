"""The network of a run with its images: what it answers, in training and at the end, and by which statistics."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from asqcli.accuracy import Accuracy
from asqcli.data.samples import DataSet
from asqcli.data.splits import Split
from asqcli.errors import DivergedError
from asqcli.models.state import load_state, snapshot
from asqcli.processes.part import WHOLE, Part
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.schema import Recipe
from asqcli.run.context import RunContext
from asqcli.run.norms import NormStatistics
from asqcli.run.unlabelled import label_by
from asqcli.seeds import Stream
from asqcli.train.adapter_range import Ranges, record_betas
from asqcli.train.evaluate import evaluate
from asqcli.train.loop import Phase

AVERAGE = "average"  # the hook of a phase whose average of weights is its result


class NetworkInRun:
    """A network on a run's device, the same in all its processes.

    Args:
        model: float at the start, else as the checkpoint has it.
        data: as opened; without labels until `label_data` gives it some.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, data: DataSet[Split], context: RunContext) -> None:
        self.recipe, self.data, self.context, self.processes = recipe, data, context, context.processes
        self.model = model.to(context.device)
        self.specs: list[LayerSpec] = []  # as it stands: empty while it is float
        self.phase: Phase | None = None  # the latest
        self.copy_from_first(self.model)

        def batches(count: int) -> Iterator[torch.Tensor]:
            return self.training_images(count, Stream.BATCH_NORM, self.processes.part)

        def loss(images: int) -> float:
            return self.measure(self.data.training.spread(images)).loss

        self.norms = NormStatistics(self.model, recipe.train, batches, loss, context.reporter, self.processes)

    def copy_from_first(self, model: nn.Module) -> None:
        """Let all processes go on from the network of the first; what they built and read themselves may differ."""
        self.processes.copy_from_first(chain(model.parameters(), model.buffers()))

    def label_data(self, by: nn.Module) -> None:
        """Let the answers of a network be the labels of images that have none."""
        c = self.context
        self.data = label_by(by, self.data, device=c.device, poll=c.poll, processes=c.processes)

    def training_images(self, count: int, stream: int, part: Part = WHOLE) -> Iterator[torch.Tensor]:
        """Yield `count` batches of shuffled training images on the device, or a part of each; `stream`: the order's."""
        t = self.recipe.train
        batches = self.data.training.train_batches(t.batch_size, seed=(t.seed, stream), part=part)
        for _, (images, _) in zip(range(count), batches, strict=False):
            self.context.poll()
            yield images.to(self.context.device)

    def measure(self, split: Split, model: nn.Module | None = None) -> Accuracy:
        """Measure this network, or another one on its device."""
        c = self.context
        network = self.model if model is None else model
        return evaluate(network, split, device=c.device, poll=c.poll, processes=self.processes)

    def evaluate(self, split: Split | None = None, network: nn.Module | None = None) -> Accuracy:
        """Measure this network, or another one, on the images of the result where no others are given.

        Raises:
            DivergedError: it answers with NaN or infinity.
        """
        accuracy = self.measure(self.data.result if split is None else split, network)
        if not math.isfinite(accuracy.loss):
            raise DivergedError(
                "the network answers images with NaN or infinity",
                self.phase.lower_rate if self.phase else "nothing was trained yet: its weights are to blame",
            )
        return accuracy

    def measure_with_betas(self, split: Split | None = None) -> tuple[Accuracy, Ranges]:
        """As `evaluate`, with the range of each adapter's beta over these images."""
        with record_betas(self.model, self.processes) as betas:
            return self.evaluate(split), betas

    @contextmanager
    def averaged(self, phase: Phase) -> Generator[None]:
        """Hold the model at the average of its weights, where there is one, with statistics of its own."""
        average = phase.hooks.get(AVERAGE)
        if average is None:
            yield
            return
        own = snapshot(self.model)
        load_state(self.model, average.state())
        try:
            self.norms.refresh(phase, averaged=True)
            yield
        finally:
            load_state(self.model, own)

    def finalize(self, phase: Phase) -> bool:
        """Bring the model to the weights that are the run's result, and tell if that may have changed something.

        Doing it twice changes nothing.
        """
        average = phase.hooks.get(AVERAGE)
        if average is not None:
            load_state(self.model, average.state())
        if average is None and self.recipe.train.batch_norm_batches == "auto":  # the last epoch's watch did it
            return False
        self.norms.refresh(phase, averaged=average is not None)
        return True
