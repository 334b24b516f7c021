"""When a run estimates its batch-norm statistics anew, and from how much."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch import Tensor, nn

from asqcli.nn.modes import to_training
from asqcli.processes.alone import Processes
from asqcli.recipe.schema import Train
from asqcli.train.batch_norm import USUAL_MOMENTUM, batches_to_estimate, lagging_norms, reestimate_batch_norm
from asqcli.train.loop import Phase
from asqcli.train.reporter import Reporter

SAMPLED_IMAGES = 128  # to choose statistics by


class NormStatistics:
    """The batch-norm statistics of a network in training, which evaluation normalises by.

    Args:
        train: the recipe's section.
        batches: gives so many batches of training images, on the model's device.
        loss: of so many training images in evaluation.
        reporter: hears, once a phase, that statistics are estimated anew, and why.
        processes: of whose training images `batches` gives this one's part.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Train,
        batches: Callable[[int], Iterable[Tensor]],
        loss: Callable[[int], float],
        reporter: Reporter,
        processes: Processes,
    ) -> None:
        self.model, self.train, self.batches, self.loss, self.reporter = model, train, batches, loss, reporter
        self.processes = processes
        self.told: set[str] = set()  # phases

    def reestimate(self, batches: int) -> None:
        """Estimate them from so many training batches."""
        reestimate_batch_norm(self.model, self.batches(batches), self.processes)

    def settle(self, images: int) -> None:
        """Choose the statistics of a network that was just quantized, where training keeps them as they are.

        What its quantized layers give has another mean and spread than what the float ones gave, and the errors of all
        layers add up: of EfficientNet-Lite0 at 4 bits no answer agrees with the float network's by the statistics that
        it came with, and three quarters do by new ones, before any training.

        Args:
            images: to train on.
        """
        if self.train.batch_norm != "frozen":
            return
        batches = batches_to_estimate(batch_size=self.train.batch_size, steps=images, images=images)
        if self._reestimate_where_better(batches):
            self.reporter.note(f"batch norms keep statistics of the quantized network, from {batches} training batches")

    def refresh(self, phase: Phase, *, averaged: bool = False) -> None:
        """Estimate them where they cannot have followed the weights, or where the recipe wants it.

        Training goes on from there: it normalises by the batch at hand, so that only evaluation sees the difference.
        Doing it twice changes nothing.

        Args:
            averaged: are these averages of weights, to which the running statistics do not belong?
        """
        if self.train.batch_norm == "frozen" and phase.progress.phase == "qat":
            return
        wanted = self.train.batch_norm_batches
        if wanted != "auto":
            # The running statistics belong to the weights before averaging: at 2 bits they cost half of the accuracy.
            if wanted or averaged:
                self.reestimate(wanted or self._enough(phase))
            return
        to_training(self.model)
        facts = phase.progress.facts
        trained_before = phase.progress.phase in ("finetune", "qat")
        from_scratch = not trained_before or not facts.get("float_trained", True)
        lagging = lagging_norms(self.model, steps=phase.steps_done, from_scratch=from_scratch)
        if not lagging and not averaged:
            return
        batches = self._enough(phase)
        choose = facts.get("pretrained", False) and not averaged
        self._tell(phase, [norm.momentum for norm in lagging], batches, choose)
        if choose:
            self._reestimate_where_better(batches)
        else:
            self.reestimate(batches)

    def _reestimate_where_better(self, batches: int) -> bool:
        """Estimate the statistics of a network that came with some, keep those that training images prefer; tell which.

        Its own are of more images than a fine-tuning has, and as evaluation sees them, not in random parts. As long as
        the weights have moved little that weighs more: EfficientNet-Lite0 on 245 photos had 96.1% by its own, moved
        along in training, and 92.8 by new ones.
        """
        own = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        loss, better = self.loss(SAMPLED_IMAGES), False
        try:
            self.reestimate(batches)
            better = self.loss(SAMPLED_IMAGES) <= loss or math.isnan(loss)
        finally:
            if not better:  # nor where it was stopped: who goes on is to find what there was
                for name, buffer in self.model.named_buffers():
                    buffer.copy_(own[name])
        return better

    def _enough(self, phase: Phase) -> int:
        steps = min(phase.steps_done, phase.steps)
        return batches_to_estimate(batch_size=self.train.batch_size, steps=steps, images=len(phase.split))

    def _tell(self, phase: Phase, momenta: list[float | None], batches: int, choose: bool) -> None:
        slow = [momentum for momentum in momenta if momentum is None or momentum < USUAL_MOMENTUM]
        if not slow or phase.progress.phase in self.told:
            return
        self.told.add(phase.progress.phase)
        names = sorted({"cumulative" if momentum is None else f"{momentum:g}" for momentum in slow})
        self.reporter.note(
            f"{len(slow)} batch norms average too slowly to follow the weights (momentum {', '.join(names)}): "
            f"their statistics are estimated anew before each evaluation, from {batches} training batches"
            + (", and those that fit training images better are kept" if choose else "")
        )
