"""One phase of a run, trained with all that the run keeps of it: metrics, checkpoints, warnings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from asqcli.accuracy import Accuracy
from asqcli.data.splits import Split
from asqcli.errors import Interruption
from asqcli.run.checkpoint import Checkpoint, require_fit, save_checkpoint
from asqcli.run.checks import gap_in_words, require_learning
from asqcli.run.context import StopRequested
from asqcli.run.fingerprint import take_fingerprint
from asqcli.run.folder import BEST, LAST, RunFolder
from asqcli.run.going_on import how_to_go_on
from asqcli.run.network import NetworkInRun
from asqcli.train.adapter_range import Ranges
from asqcli.train.learning import cost_in_words
from asqcli.train.loop import Phase, PhaseSettings
from asqcli.train.objective import Objective
from asqcli.train.progress import Progress, TrainingState
from asqcli.train.step_hooks import StepHook


class KeptPhase:
    """A phase and the folder that keeps it.

    Args:
        network: to train.
        changes: what the phase does otherwise than the recipe's `train` says, as fields of PhaseSettings.
        hooks: what sees the model after every step, by name.
        checkpoint: to go on with, if any.
    """

    def __init__(
        self,
        network: NetworkInRun,
        folder: RunFolder,
        progress: Progress,
        objective: Objective,
        *,
        changes: dict[str, Any] | None = None,
        hooks: dict[str, StepHook] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.network, self.folder, self.progress, hooks = network, folder, progress, hooks or {}
        self.recipe, self.context = network.recipe, network.context
        self.last_epoch: dict[str, Any] | None = None
        self.measured: tuple[Accuracy, Ranges] | None = None  # on the result's images, after an epoch trained here
        state = None
        if checkpoint is not None:
            states = {name: hook.state() for name, hook in hooks.items()}
            require_fit(checkpoint, network.model, states, source=folder.checkpoint(LAST))
            state = TrainingState(checkpoint.optimizer, checkpoint.hooks)
        train = self.recipe.train
        values = {f.name: getattr(train, f.name) for f in fields(PhaseSettings) if hasattr(train, f.name)}
        self.phase = Phase(
            network.model,
            network.data.training,
            PhaseSettings(**{**values, **(changes or {})}),
            progress,
            device=self.context.device,
            classes=len(network.data.classes),
            objective=objective,
            hooks=hooks,
            state=state,
            processes=network.processes,
            measure=self.recipe.data.measure,
        )
        network.phase = self.phase

    def train(self) -> None:
        """Train to the end of the phase.

        Raises:
            Interruption: a signal asked to stop; the work so far is saved.
            DivergedError, NotLearningError: nothing that could be used would come of it.
        """
        try:
            self.save()
            self.phase.run(
                reporter=self.context.reporter,
                poll=self.context.poll,
                watch=self._watch,
                after_epoch=self._after_epoch,
                save=self.save,
            )
        except StopRequested as stop:
            self.save()
            self.network.processes.wait()  # none may end, and so end all, before the first has saved
            raise Interruption(
                stop.signal_number,
                f"stopped in epoch {self.progress.epoch + 1} of the {self.progress.phase} phase; "
                "the work so far is saved",
                how_to_go_on(self.recipe, self.folder),
            ) from None
        if self.last_epoch is None:  # there was nothing left to train
            records = [record for record in self.folder.metrics() if record["phase"] == self.progress.phase]
            self.last_epoch = records[-1] if records else None
        if self.last_epoch is not None:
            keeps = self.recipe.train.batch_norm_batches == 0
            text = gap_in_words(self.phase, self.last_epoch, self._measure_averaged, keeps_statistics=keeps)
            self._warn(text)

    def save(self, name: str = LAST) -> None:
        """Write a checkpoint."""
        if not self.folder.writable:
            return
        training = self.phase.state()
        state = Checkpoint(
            self.recipe,
            self.progress,
            self.network.specs,
            self.network.data.classes,
            self.network.model.state_dict(),
            training.optimizer,
            training.hooks,
            take_fingerprint(self.network.model, self.recipe.data),
        )
        save_checkpoint(self.folder.checkpoint(name), state)

    def measure(self) -> tuple[Accuracy, Ranges]:
        """Return the accuracy of the last weights, never of the best epoch, and their betas."""
        if self.network.finalize(self.phase):
            self.save()
            self.measured = None
        return self.network.measure_with_betas() if self.measured is None else self.measured

    def tell_of_cost(self, accuracy: Accuracy) -> None:
        """Tell where quantization took much, but not of a run that was cut short on purpose."""
        facts, record, train = self.progress.facts, self.last_epoch, self.recipe.train
        compared = "float_top1" in facts and not facts.get("float_of_quantized", False)
        if record is None or not compared or train.max_steps is not None:
            return
        tops = {"float_top1": facts["float_top1"], "train_top1": record["train_top1"]}
        self._warn(cost_in_words(accuracy, **tops, epochs=train.epochs, measure=self.recipe.data.measure))

    def _watch(self) -> dict[str, Any]:
        """Measure after an epoch, on the validation split or else the result's images; return what to put beside it."""
        network, facts = self.network, self.progress.facts
        network.norms.refresh(self.phase)
        with network.averaged(self.phase):
            accuracy, betas = measured = network.measure_with_betas(network.data.watch)
            best = f"best_{self.progress.phase}"
            # Before the epoch is closed: one that is broken off here is measured again.
            if network.data.watch is not None and accuracy.top1 > facts.get(best, -1.0):
                self.save(BEST)
                facts[best] = accuracy.top1
        self.measured = measured if network.data.watch is None else None
        watched = {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}
        return {**watched, "beta": betas} if betas else watched

    def _after_epoch(self, record: dict[str, Any]) -> None:
        self.last_epoch = record
        self.folder.append_metrics(record)
        self.save()
        require_learning(self.phase, record)

    def _measure_averaged(self, split: Split) -> Accuracy:
        with self.network.averaged(self.phase):
            return self.network.evaluate(split)

    def _warn(self, text: str | None) -> None:
        """Tell now, and in the result."""
        if text is not None and text not in self.progress.facts.get("warnings", []):
            self.context.reporter.note(f"warning: {text}")
            self.progress.facts.setdefault("warnings", []).append(text)
