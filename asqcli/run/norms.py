"""When a run estimates its batch-norm statistics anew, and from how much."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from asqcli.nn.modes import to_training
from asqcli.recipe.schema import Train
from asqcli.train.batch_norm import USUAL_MOMENTUM, batches_to_estimate, lagging_norms, reestimate_batch_norm
from asqcli.train.loop import Phase
from asqcli.train.reporter import Reporter

# Steps of fine-tuning that hardly move the weights away from the statistics that they came with. EfficientNet-Lite0 on
# 245 photos had 92.8% with its own after 8 steps and 86.9 with estimates anew; after 16 steps these were as good, and
# after 32 they had a quarter less loss.
FEW_STEPS = 16


class NormStatistics:
    """The batch-norm statistics of a network in training, which evaluation normalises by.

    Args:
        train: the recipe's section.
        batches: gives so many batches of training images, on the model's device.
        reporter: hears, once a phase, that statistics are estimated anew, and why.
    """

    def __init__(
        self, model: nn.Module, train: Train, batches: Callable[[int], Iterable[Tensor]], reporter: Reporter
    ) -> None:
        self.model, self.train, self.batches, self.reporter = model, train, batches, reporter
        self.told: set[str] = set()  # phases

    def reestimate(self, batches: int) -> None:
        """Estimate them from so many training batches."""
        reestimate_batch_norm(self.model, self.batches(batches))

    def refresh(self, phase: Phase, *, averaged: bool = False) -> None:
        """Estimate them where they cannot have followed the weights, or where the recipe wants it.

        Training goes on from there: it normalises by the batch at hand, so that only evaluation sees the difference.
        Doing it twice changes nothing.

        Args:
            averaged: are these averages of weights, to which the running statistics do not belong?
        """
        wanted = self.train.batch_norm_batches
        if wanted != "auto":
            # The running statistics belong to the weights before averaging: at 2 bits they cost half of the accuracy.
            if wanted or averaged:
                self.reestimate(wanted or self._enough(phase))
            return
        if phase.progress.phase == "finetune" and phase.steps_done < FEW_STEPS:
            return
        to_training(self.model)
        trained_before = phase.progress.phase in ("finetune", "qat")
        from_scratch = not trained_before or not phase.progress.facts.get("float_trained", True)
        lagging = lagging_norms(self.model, steps=phase.steps_done, from_scratch=from_scratch)
        if not lagging and not averaged:
            return
        batches = self._enough(phase)
        self._tell(phase, [norm.momentum for norm in lagging], batches)
        self.reestimate(batches)

    def _enough(self, phase: Phase) -> int:
        steps = min(phase.steps_done, phase.steps)
        return batches_to_estimate(batch_size=self.train.batch_size, steps=steps)

    def _tell(self, phase: Phase, momenta: list[float | None], batches: int) -> None:
        slow = [momentum for momentum in momenta if momentum is None or momentum < USUAL_MOMENTUM]
        if not slow or phase.progress.phase in self.told:
            return
        self.told.add(phase.progress.phase)
        names = sorted({"cumulative" if momentum is None else f"{momentum:g}" for momentum in slow})
        self.reporter.note(
            f"{len(slow)} batch norms average too slowly to follow the weights (momentum {', '.join(names)}): "
            f"their statistics are estimated anew before each evaluation, from {batches} training batches"
        )
