"""One run: float warm-up, calibration, training, result.

What a run has decided stands in its `Progress.facts` and so in every checkpoint; going on with a run is to enter the
same path at the phase that the checkpoint names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain
from typing import Any

import torch
from torch import nn

from asqcli.accuracy import Accuracy
from asqcli.data.samples import DataSet
from asqcli.data.splits import Split
from asqcli.errors import DivergedError, Interruption
from asqcli.models.names import is_factory
from asqcli.models.state import load_state, snapshot
from asqcli.nn.adapters import TrainedAdapters, fitting_adapters
from asqcli.nn.calibration import calibrate
from asqcli.processes.part import WHOLE, Part
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.schema import Recipe
from asqcli.run.baseline import baseline_in_words, baseline_phase
from asqcli.run.checkpoint import Checkpoint, require_fit, save_checkpoint
from asqcli.run.checks import gap_in_words, require_learning
from asqcli.run.context import RunContext, StopRequested
from asqcli.run.fingerprint import take_fingerprint
from asqcli.run.folder import BEST, FLOAT_TEACHER, LAST, TEACHER, RunFolder
from asqcli.run.named_teacher import KEY, NamedTeacher, factory_that_teaches
from asqcli.run.norms import NormStatistics
from asqcli.run.result import result_document
from asqcli.run.start import Start
from asqcli.run.teacher import objective_of, open_teacher, save_teacher
from asqcli.run.unlabelled import label_by
from asqcli.seeds import Stream, seed_everything
from asqcli.train.adapter_range import record_betas
from asqcli.train.evaluate import evaluate
from asqcli.train.learning import cost_in_words
from asqcli.train.loop import Phase, PhaseSettings
from asqcli.train.objective import Objective
from asqcli.train.progress import Progress, TrainingState
from asqcli.train.step_hooks import OscillationFreezer, StepHook, WeightAverage

AVERAGE = "average"


class Run:
    """One run of `asq quantize`, from the start or from a checkpoint.

    Args:
        model: float at the start, else as the checkpoint has it.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, data: DataSet[Split], context: RunContext, model: nn.Module
    ) -> None:
        self.recipe, self.folder, self.data, self.context = recipe, folder, data, context
        self.measure = recipe.data.measure
        context.reporter.measures(self.measure)
        self.model, self.processes = model.to(context.device), context.processes
        self._copy_from_first(self.model)

        def batches(count: int) -> Iterator[torch.Tensor]:
            return self._training_images(count, Stream.BATCH_NORM, self.processes.part)

        def loss(images: int) -> float:
            return self._measure(self.data.training.spread(images)).loss

        self.norms = NormStatistics(self.model, recipe.train, batches, loss, context.reporter, self.processes)
        self.specs: list[LayerSpec] = []  # the network's as it stands: empty while it is float
        self.teacher: nn.Module | None = None  # that the recipe names; in the end the float network, if it teaches
        self.started = time.perf_counter()
        self.phase: Phase | None = None  # the latest
        self.last_epoch: dict[str, Any] | None = None  # the phase's, where one was trained here

    def fresh(self, start: Start, specs: list[LayerSpec], teacher: NamedTeacher | None) -> dict[str, Any]:
        """Run everything; return the result."""
        self.folder.cut_metrics(0)  # of a run that was stopped before its first checkpoint
        if not self.recipe.data.labels:
            self.data = self._labelled_by(self.model)
        facts: dict[str, Any] = {"weights": start.weights, "pretrained": start.pretrained}
        if start.new_head is not None:
            facts["new_head"] = start.new_head
        if teacher is not None:
            self.teacher, facts["teacher"] = teacher.network, teacher.origin
            if self.folder.writable:
                save_checkpoint(self.folder.checkpoint(TEACHER), teacher.checkpoint)
        if not self.recipe.quantized:
            return self._train_float(Progress("float", facts=facts))
        progress = Progress(baseline_phase(start, self.recipe), facts=facts)
        epochs = self.recipe.train.section(progress.phase).epochs
        if start.needs_training and epochs and self.recipe.train.max_steps is None:
            self._train_baseline(progress)
        elif start.needs_training:
            facts["float_trained"] = False
            # The batch-norm statistics of a network that was never trained say nothing of what flows through it, and
            # starting values read off with them would make training diverge.
            self.norms.reestimate(self.recipe.calibration.batches)
        # After a float phase they would be those of another network, and lost to a run that goes on from there.
        return self._quantize(progress, specs, {} if start.needs_training else start.adapters)

    def resume(self, checkpoint: Checkpoint, specs: list[LayerSpec], teacher: nn.Module | None) -> dict[str, Any]:
        """Go on from a checkpoint; return the result."""
        self.specs, self.teacher, progress = checkpoint.specs, teacher, checkpoint.progress
        if not self.recipe.data.labels:
            self.data = self._labelled_by(self._open_float_teacher())
        self.folder.cut_metrics(progress.metrics_lines)
        if progress.phase == "float":
            return self._train_float(progress, checkpoint)
        if progress.phase == "qat":
            return self._train_qat(progress, checkpoint)
        self._train_baseline(progress, checkpoint)
        return self._quantize(progress, specs)

    def _train_baseline(self, progress: Progress, checkpoint: Checkpoint | None = None) -> None:
        section = self.recipe.train.section(progress.phase)
        progress.facts[f"{progress.phase}_epochs"] = section.epochs
        self.context.reporter.note(baseline_in_words(self.recipe, progress.phase))
        changes = {**section.model_dump(), "batch_norm": "batch"}
        if progress.phase == "finetune":
            changes["head"] = progress.facts["new_head"]
        self._train(self._phase(self._settings(**changes), progress, Objective(), {}, checkpoint))

    def _train_float(self, progress: Progress, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
        objective = Objective(label_smoothing=self.recipe.train.label_smoothing)
        phase = self._phase(self._settings(), progress, objective, self._average(), checkpoint)
        self._train(phase)
        return self._finish(phase)

    def _quantize(
        self, progress: Progress, specs: list[LayerSpec], trained: TrainedAdapters | None = None
    ) -> dict[str, Any]:
        """From a float network to the result.

        Args:
            trained: adapters of the quantized run that its weights are of.
        """
        facts = progress.facts
        facts["float_top1"] = self._evaluate().top1
        share = self.measure.share
        if self.recipe.data.labels:
            self.context.reporter.note(f"float {share} {facts['float_top1']:.2f}% on {self.data.result_name}")
        if self.teacher is not None:
            self._copy_from_first(self.teacher.to(self.context.device))
            facts["teacher_top1"] = self._measure(self.data.result, self.teacher).top1
            self.context.reporter.note(f"teacher {share} {facts['teacher_top1']:.2f}%")
        seed_everything(self.recipe.train.seed, Stream.CALIBRATION)  # adapters start at random
        settings = self.recipe.calibration
        # Each process calibrates by whole batches, so that starting values do not depend on how many there are.
        images = list(self._training_images(settings.batches, Stream.CALIBRATION))
        if self._float_teaches and self.folder.writable:
            answers = take_fingerprint(self.model, self.recipe.data)
            save_teacher(self.folder.checkpoint(FLOAT_TEACHER), self.model, answers)
        adapters = fitting_adapters(trained or {}, specs, self.context.device)
        if adapters:
            self.context.reporter.note(f"{len(adapters)} adapters go on as they were trained")
        self.specs = calibrate(self.model, specs, images, start=settings.start, adapters=adapters)
        self._copy_from_first(self.model)  # which also waits until the teacher is there
        facts["calibrated_top1"] = self._evaluate().top1
        self.context.reporter.plan(self.specs)
        self.context.reporter.note(f"quantized {share} before training {facts['calibrated_top1']:.2f}%")
        return self._train_qat(Progress("qat", metrics_lines=progress.metrics_lines, facts=facts))

    def _train_qat(self, progress: Progress, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
        train = self.recipe.train
        if self.teacher is None and train.distillation is not None:
            self.teacher = self._open_float_teacher()
        objective = objective_of(train, self.teacher.to(self.context.device) if self.teacher is not None else None)
        hooks: dict[str, StepHook] = self._average()
        if train.freeze_oscillations is not None:
            # Before the average, which is to see the weights as they are held.
            hooks = {"oscillations": OscillationFreezer(self.model, train.freeze_oscillations), **hooks}
        phase = self._phase(self._settings(), progress, objective, hooks, checkpoint)
        self._train(phase)
        return self._finish(phase)

    @property
    def _float_teaches(self) -> bool:
        """Is the float network still needed, once it is quantized: to teach, or to say what agrees with it?"""
        return not self.recipe.data.labels or (self.recipe.train.distillation is not None and self.teacher is None)

    def _open_float_teacher(self) -> nn.Module:
        """Return the float network that was kept, on the run's device."""
        teacher = open_teacher(self.folder.checkpoint(FLOAT_TEACHER), self.recipe, len(self.data.classes))
        return teacher.to(self.context.device)

    def _labelled_by(self, network: nn.Module) -> DataSet[Split]:
        c = self.context
        return label_by(network, self.data, device=c.device, poll=c.poll, processes=c.processes)

    def _average(self) -> dict[str, StepHook]:
        decay = self.recipe.train.average_decay
        return {} if decay is None else {AVERAGE: WeightAverage(self.model, decay)}

    def _phase(
        self,
        settings: PhaseSettings,
        progress: Progress,
        objective: Objective,
        hooks: dict[str, StepHook],
        checkpoint: Checkpoint | None,
    ) -> Phase:
        state = None
        if checkpoint is not None:
            states = {name: hook.state() for name, hook in hooks.items()}
            require_fit(checkpoint, self.model, states, source=self.folder.checkpoint(LAST))
            state = TrainingState(checkpoint.optimizer, checkpoint.hooks)
        self.phase = Phase(
            self.model,
            self.data.training,
            settings,
            progress,
            device=self.context.device,
            classes=len(self.data.classes),
            objective=objective,
            hooks=hooks,
            state=state,
            processes=self.processes,
            measure=self.measure,
        )
        return self.phase

    def _settings(self, **changes: Any) -> PhaseSettings:
        t = self.recipe.train
        values = {field.name: getattr(t, field.name) for field in fields(PhaseSettings) if hasattr(t, field.name)}
        return PhaseSettings(**{**values, **changes})

    def _train(self, phase: Phase) -> None:
        context, progress = self.context, phase.progress
        self.last_epoch = None

        def after_epoch(record: dict[str, Any]) -> None:
            self.last_epoch = record
            best = f"best_{progress.phase}"
            better = self.data.watch is not None and record["top1"] > progress.facts.get(best, -1.0)
            if better:
                progress.facts[best] = record["top1"]
            self.folder.append_metrics(record)
            self._save(LAST, phase)
            if better:
                with self._averaged(phase):  # whose accuracy it is
                    self._save(BEST, phase)
            require_learning(phase, record)

        def save() -> None:
            self._save(LAST, phase)

        try:
            save()
            phase.run(
                reporter=context.reporter,
                poll=context.poll,
                watch=lambda: self._watch(phase),
                after_epoch=after_epoch,
                save=save,
            )
        except StopRequested as stop:
            save()
            self.processes.wait()  # none may end, and so end all, before the first has saved
            raise Interruption(
                stop.signal_number,
                f"stopped in epoch {progress.epoch + 1} of the {progress.phase} phase; the work so far is saved",
                how_to_go_on(self.recipe, self.folder),
            ) from None
        if self.last_epoch is not None:
            keeps = self.recipe.train.batch_norm_batches == 0
            text = gap_in_words(phase, self.last_epoch, self._measure_averaged(phase), keeps_statistics=keeps)
            if text is not None:
                self._warn(phase, text)

    def _tell_of_cost(self, phase: Phase, accuracy: Accuracy) -> None:
        """Tell where quantization took much, but not of a run that was cut short on purpose."""
        facts, record = phase.progress.facts, self.last_epoch
        if record is None or "float_top1" not in facts or self.recipe.train.max_steps is not None:
            return
        epochs = self.recipe.train.epochs
        tops = {"float_top1": facts["float_top1"], "train_top1": record["train_top1"]}
        text = cost_in_words(accuracy, **tops, epochs=epochs, measure=self.measure)
        if text is not None:
            self._warn(phase, text)

    def _warn(self, phase: Phase, text: str) -> None:
        """Tell now, and in the result."""
        self.context.reporter.note(f"warning: {text}")
        phase.progress.facts.setdefault("warnings", []).append(text)

    def _watch(self, phase: Phase) -> dict[str, Any]:
        """Return what to put beside an epoch: accuracy on the validation split, else on the result's images; betas."""
        self.norms.refresh(phase)
        with record_betas(self.model, self.processes) as betas, self._averaged(phase):
            accuracy = self._evaluate(self.data.watch if self.data.watch is not None else self.data.result)
        watched = {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}
        return {**watched, "beta": betas} if betas else watched

    @contextmanager
    def _averaged(self, phase: Phase) -> Generator[None]:
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

    def _measure_averaged(self, phase: Phase) -> Callable[[Split], Accuracy]:
        def measure(split: Split) -> Accuracy:
            with self._averaged(phase):
                return self._evaluate(split)

        return measure

    def _evaluate(self, split: Split | None = None) -> Accuracy:
        """Measure the network, on the images of the result where no others are given."""
        split = self.data.result if split is None else split
        accuracy = self._measure(split)
        if not math.isfinite(accuracy.loss):
            raise DivergedError(
                "the network answers images with NaN or infinity",
                self.phase.lower_rate if self.phase else "nothing was trained yet: its weights are to blame",
            )
        return accuracy

    def _measure(self, split: Split, model: nn.Module | None = None) -> Accuracy:
        c = self.context
        network = self.model if model is None else model
        return evaluate(network, split, device=c.device, poll=c.poll, processes=self.processes)

    def _copy_from_first(self, model: nn.Module) -> None:
        """Let all processes go on from the network of the first; what they built and read themselves may differ."""
        self.processes.copy_from_first(chain(model.parameters(), model.buffers()))

    def _save(self, name: str, phase: Phase) -> None:
        if not self.folder.writable:
            return
        training = phase.state()
        state = Checkpoint(
            self.recipe,
            phase.progress,
            self.specs,
            self.data.classes,
            self.model.state_dict(),
            training.optimizer,
            training.hooks,
            take_fingerprint(self.model, self.recipe.data),
        )
        save_checkpoint(self.folder.checkpoint(name), state)

    def _training_images(self, count: int, stream: int, part: Part = WHOLE) -> Iterator[torch.Tensor]:
        """Yield `count` batches of shuffled training images on the device, or a part of each; `stream`: the order's."""
        t = self.recipe.train
        batches = self.data.training.train_batches(t.batch_size, seed=(t.seed, stream), part=part)
        for _, (images, _) in zip(range(count), batches, strict=False):
            self.context.poll()
            yield images.to(self.context.device)

    def _finalize_weights(self, phase: Phase) -> None:
        """Bring the model to the weights that are the run's result. Doing it twice changes nothing."""
        average = phase.hooks.get(AVERAGE)
        if average is not None:
            load_state(self.model, average.state())
        if average is not None or self.recipe.train.batch_norm_batches != "auto":  # else the last epoch's watch did it
            self.norms.refresh(phase, averaged=average is not None)
            self._save(LAST, phase)

    def _finish(self, phase: Phase) -> dict[str, Any]:
        """Measure the last weights, never the best epoch, and write the result."""
        self._finalize_weights(phase)
        with record_betas(self.model, self.processes) as betas:
            accuracy = self._evaluate()
        self._tell_of_cost(phase, accuracy)
        result = result_document(
            self.recipe,
            phase.progress,
            accuracy,
            run=str(self.folder.path),
            measured_on=self.data.result_name,
            betas=betas,
            seconds=time.perf_counter() - self.started,
        )
        self.folder.write_result(result)
        return result


def how_to_go_on(recipe: Recipe, folder: RunFolder) -> str:
    """Return the command that goes on with a run, as a hint: it names factories, which a run never imports itself."""
    factory = f"{recipe.model} " if is_factory(recipe.model) else ""
    teacher = factory_that_teaches(recipe)
    beside = "" if teacher in (None, recipe.model) else f" --set {KEY}={teacher}"
    return f"go on with `asq quantize {factory}--resume {folder.path}{beside}`"
