"""One run: float warm-up, calibration, training, result.

What a run has decided stands in its `Progress.facts` and so in every checkpoint; going on with a run is to enter the
same path at the phase that the checkpoint names.
"""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from asqcli.data.samples import DataSet
from asqcli.data.splits import Split
from asqcli.nn.adapters import TrainedAdapters, fitting_adapters
from asqcli.nn.calibration import calibrate
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.schema import Recipe
from asqcli.run.baseline import baseline_in_words, baseline_phase
from asqcli.run.checkpoint import Checkpoint, save_checkpoint
from asqcli.run.context import RunContext
from asqcli.run.fingerprint import take_fingerprint
from asqcli.run.folder import FLOAT_TEACHER, TEACHER, RunFolder
from asqcli.run.images import known_of
from asqcli.run.kept_phase import KeptPhase
from asqcli.run.named_teacher import NamedTeacher
from asqcli.run.network import AVERAGE, NetworkInRun
from asqcli.run.result import result_document
from asqcli.run.start import Start
from asqcli.run.teacher import objective_of, open_teacher, save_teacher
from asqcli.seeds import Stream, seed_everything
from asqcli.train.objective import Objective
from asqcli.train.progress import Progress
from asqcli.train.step_hooks import OscillationFreezer, StepHook, WeightAverage

WARNING = "warning: "  # how a note begins that the result keeps, too


class Run:
    """One run of `asq quantize`, from the start or from a checkpoint.

    Args:
        model: float at the start, else as the checkpoint has it.
    """

    def __init__(
        self, recipe: Recipe, folder: RunFolder, data: DataSet[Split], context: RunContext, model: nn.Module
    ) -> None:
        self.recipe, self.folder, self.context = recipe, folder, context
        self.measure = recipe.data.measure
        context.reporter.measures(self.measure)
        self.network = NetworkInRun(model, recipe, data, context)
        self.teacher: nn.Module | None = None  # that the recipe names; in the end the float network, if it teaches
        self.original: nn.Module | None = None  # where the weights are of a quantized run: the float network of that
        self.started = time.perf_counter()

    def fresh(self, start: Start, specs: list[LayerSpec], teacher: NamedTeacher | None) -> dict[str, Any]:
        """Run everything; return the result."""
        self.folder.cut_metrics(0)  # of a run that was stopped before its first checkpoint
        if start.original is not None:
            self.original, start.original = start.original.to(self.context.device), None  # nobody else holds it then
        facts: dict[str, Any] = {"weights": start.weights, "pretrained": start.pretrained}
        facts["images"] = known_of(self.network.data)  # before the float network labels them
        if not self.recipe.data.labels:
            self.network.label_data(self._float_network)
        if told := [note.removeprefix(WARNING) for note in start.notes if note.startswith(WARNING)]:
            facts["warnings"] = told
        if start.new_head is not None:
            facts["new_head"] = start.new_head
        if start.quantized and not start.needs_training and self.original is None:
            facts["float_of_quantized"] = True
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
            self.network.norms.reestimate(self.recipe.calibration.batches)
        # After a float phase they would be those of another network, and lost to a run that goes on from there.
        return self._quantize(progress, specs, {} if start.needs_training else start.adapters)

    def resume(self, checkpoint: Checkpoint, specs: list[LayerSpec], teacher: nn.Module | None) -> dict[str, Any]:
        """Go on from a checkpoint; return the result."""
        self.network.specs, self.teacher, progress = checkpoint.specs, teacher, checkpoint.progress
        if not self.recipe.data.labels:
            self.network.label_data(self._open_float_teacher())
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
        self._phase(progress, Objective(), checkpoint, changes=changes).train()

    def _train_float(self, progress: Progress, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
        objective = Objective(label_smoothing=self.recipe.train.label_smoothing)
        return self._train_to_the_end(self._phase(progress, objective, checkpoint, hooks=self._average()))

    def _quantize(
        self, progress: Progress, specs: list[LayerSpec], trained: TrainedAdapters | None = None
    ) -> dict[str, Any]:
        """From a float network to the result.

        Args:
            trained: adapters of the quantized run that its weights are of.
        """
        network, device, note = self.network, self.context.device, self.context.reporter.note
        facts, share = progress.facts, self.measure.share
        facts["float_top1"] = network.evaluate(network=self.original).top1
        if self.recipe.data.labels:
            note(f"float {share} {facts['float_top1']:.2f}% on {network.data.result_name}")
        if self.teacher is not None:
            network.copy_from_first(self.teacher.to(device))
            facts["teacher_top1"] = network.measure(network.data.result, self.teacher).top1
            note(f"teacher {share} {facts['teacher_top1']:.2f}%")
        seed_everything(self.recipe.train.seed, Stream.CALIBRATION)  # adapters start at random
        settings = self.recipe.calibration
        # Each process calibrates by whole batches, so that starting values do not depend on how many there are.
        images = list(network.training_images(settings.batches, Stream.CALIBRATION))
        if self.teacher is None and (distillation := self.recipe.train.distillation) is not None:
            share = f"{100 * distillation.weight:g}% of the loss is the distance from its answers"
            note(f"teacher: the float network; {share}")
        if self._float_teaches and self.folder.writable:
            answers = take_fingerprint(self._float_network, self.recipe.data)
            save_teacher(self.folder.checkpoint(FLOAT_TEACHER), self._float_network, answers)
        self.original = None
        adapters = fitting_adapters(trained or {}, specs, device)
        if adapters:
            note(f"{len(adapters)} adapters go on as they were trained")
        network.specs = calibrate(network.model, specs, images, start=settings.start, adapters=adapters)
        network.norms.settle(len(network.data.training))
        network.copy_from_first(network.model)  # which also waits until the teacher is there
        facts["calibrated_top1"] = network.evaluate().top1
        self.context.reporter.plan(network.specs)
        note(f"quantized {share} before training {facts['calibrated_top1']:.2f}%")
        return self._train_qat(Progress("qat", metrics_lines=progress.metrics_lines, facts=facts))

    def _train_qat(self, progress: Progress, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
        train = self.recipe.train
        if self.teacher is None and train.distillation is not None:
            self.teacher = self._open_float_teacher()
        objective = objective_of(train, self.teacher.to(self.context.device) if self.teacher is not None else None)
        hooks: dict[str, StepHook] = self._average()
        if train.freeze_oscillations is not None:
            # Before the average, which is to see the weights as they are held.
            hooks = {"oscillations": OscillationFreezer(self.network.model, train.freeze_oscillations), **hooks}
        return self._train_to_the_end(self._phase(progress, objective, checkpoint, hooks=hooks))

    @property
    def _float_network(self) -> nn.Module:
        """The one that the quantized network is compared with, until it is quantized itself."""
        return self.network.model if self.original is None else self.original

    @property
    def _float_teaches(self) -> bool:
        """Is the float network still needed, once it is quantized: to teach, or to say what agrees with it?"""
        return not self.recipe.data.labels or (self.recipe.train.distillation is not None and self.teacher is None)

    def _open_float_teacher(self) -> nn.Module:
        """Return the float network that was kept, on the run's device."""
        kept = self.folder.checkpoint(FLOAT_TEACHER)
        return open_teacher(kept, self.recipe, len(self.network.data.classes)).to(self.context.device)

    def _average(self) -> dict[str, StepHook]:
        decay = self.recipe.train.average_decay
        return {} if decay is None else {AVERAGE: WeightAverage(self.network.model, decay)}

    def _phase(
        self,
        progress: Progress,
        objective: Objective,
        checkpoint: Checkpoint | None,
        *,
        changes: dict[str, Any] | None = None,
        hooks: dict[str, StepHook] | None = None,
    ) -> KeptPhase:
        return KeptPhase(
            self.network, self.folder, progress, objective, changes=changes, hooks=hooks, checkpoint=checkpoint
        )

    def _train_to_the_end(self, kept: KeptPhase) -> dict[str, Any]:
        """Train the last phase, and write the result."""
        kept.train()
        accuracy, betas = kept.measure()
        kept.tell_of_cost(accuracy)
        result = result_document(
            self.recipe,
            kept.progress,
            accuracy,
            run=str(self.folder.path),
            measured_on=self.network.data.result_name,
            betas=betas,
            seconds=time.perf_counter() - self.started,
        )
        self.folder.write_result(result)
        return result
