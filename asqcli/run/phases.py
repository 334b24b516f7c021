"""One run: float warm-up, calibration, training, result.

What a run has decided stands in its `Progress.facts` and so in every checkpoint; going on with a run is to enter the
same path at the phase that the checkpoint names.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields

import torch
from torch import nn

from asqcli.accuracy import Accuracy
from asqcli.data.samples import DataSet
from asqcli.data.splits import Split
from asqcli.errors import DivergedError, Interruption, NotLearningError
from asqcli.models.names import is_factory
from asqcli.models.state import load_state, snapshot
from asqcli.nn.calibration import calibrate
from asqcli.nn.modes import to_evaluation, to_training
from asqcli.nn.prepare import LayerPlan
from asqcli.recipe.schema import Recipe, scheme_of
from asqcli.run.build import build_network
from asqcli.run.checkpoint import (
    Checkpoint,
    load_teacher,
    require_fit,
    save_checkpoint,
    save_teacher,
)
from asqcli.run.context import RunContext, StopRequested
from asqcli.run.fingerprint import require_same_network, take_fingerprint
from asqcli.run.folder import BEST, LAST, TEACHER, RunFolder
from asqcli.run.start import Start
from asqcli.seeds import seed_everything
from asqcli.train.adapter_range import record_betas, span
from asqcli.train.batch_norm import (
    USUAL_MOMENTUM,
    batches_to_estimate,
    lagging_norms,
    reestimate_batch_norm,
)
from asqcli.train.evaluate import EVAL_BATCH, evaluate
from asqcli.train.learning import (
    FEWEST_STEPS,
    GAP,
    SAMPLED_IMAGES,
    Guessing,
    answers_alike,
    cost_in_words,
    falls_behind,
)
from asqcli.train.loop import Phase, PhaseSettings
from asqcli.train.objective import Objective
from asqcli.train.progress import Progress, TrainingState
from asqcli.train.step_hooks import OscillationFreezer, StepHook, WeightAverage

SCHEMA = 1
CALIBRATION_STREAM, BATCH_NORM_STREAM = 101, 102  # parts of seeds, beside the phases of `loop`
AVERAGE = "average"
DEAD_SAMPLE = 64  # images


class Run:
    """One run of `asq quantize`, from the start or from a checkpoint."""

    def __init__(self, recipe: Recipe, folder: RunFolder, data: DataSet[Split], context: RunContext) -> None:
        self.recipe, self.folder, self.data, self.context = recipe, folder, data, context
        self.plans: list[LayerPlan] = []  # of the network as it stands: empty while it is float
        self.started = time.perf_counter()
        self.told_of_norms: set[str] = set()  # phases
        self.phase: Phase | None = None  # the latest
        self.last_epoch: dict | None = None  # of it, where one was trained here

    def fresh(self, start: Start, plans: list[LayerPlan]) -> dict:
        """Run everything; return the result."""
        self.model = start.model.to(self.context.device)
        facts = {"weights": start.weights}
        warmup = self.recipe.train.warmup
        if not self.recipe.quantized:
            return self._train_float(Progress("float", facts=facts))
        progress = Progress("warmup", facts=facts)
        if start.warm_up and warmup.epochs and self.recipe.train.max_steps is None:
            self._warm_up(progress)
        elif start.warm_up:
            facts["float_trained"] = False
            # The batch-norm statistics of a network that was never trained say nothing of what flows through it, and
            # starting values read off with them would make training diverge.
            self._reestimate_batch_norm(self.recipe.calibration.batches)
        return self._quantize(progress, plans)

    def resume(self, checkpoint: Checkpoint, plans: list[LayerPlan], model: nn.Module) -> dict:
        """Go on from a checkpoint; return the result."""
        self.model, self.plans, progress = model.to(self.context.device), checkpoint.plans, checkpoint.progress
        self.folder.cut_metrics(progress.metrics_lines)
        if progress.phase == "float":
            return self._train_float(progress, checkpoint)
        if progress.phase == "qat":
            return self._train_qat(progress, checkpoint)
        self._warm_up(progress, checkpoint)
        return self._quantize(progress, plans)

    def _warm_up(self, progress: Progress, checkpoint: Checkpoint | None = None) -> None:
        warmup = self.recipe.train.warmup
        progress.facts["warmup_epochs"] = warmup.epochs
        self.context.reporter.note(f"training a float baseline first, epochs: {warmup.epochs}")
        settings = self._settings(**warmup.model_dump())
        self._train(self._phase(settings, progress, Objective(), {}, checkpoint))

    def _train_float(self, progress: Progress, checkpoint: Checkpoint | None = None) -> dict:
        objective = Objective(label_smoothing=self.recipe.train.label_smoothing)
        phase = self._phase(self._settings(), progress, objective, self._average(), checkpoint)
        self._train(phase)
        return self._finish(phase)

    def _quantize(self, progress: Progress, plans: list[LayerPlan]) -> dict:
        """From a float network to the result."""
        facts = progress.facts
        facts["float_top1"] = self._evaluate().top1
        self.context.reporter.note(f"float top-1 {facts['float_top1']:.2f}% on {self.data.result_name}")
        seed_everything(self.recipe.train.seed, CALIBRATION_STREAM)  # adapters start at random
        settings = self.recipe.calibration
        images = list(self._training_images(settings.batches, CALIBRATION_STREAM))
        if self.recipe.train.distillation is not None:
            answers = take_fingerprint(self.model, self.recipe.data)
            save_teacher(self.folder.checkpoint(TEACHER), self.model, answers)
        self.plans = calibrate(self.model, plans, images, start=settings.start)
        facts["calibrated_top1"] = self._evaluate().top1
        self.context.reporter.plan(self.plans)
        self.context.reporter.note(f"quantized top-1 before training {facts['calibrated_top1']:.2f}%")
        return self._train_qat(Progress("qat", metrics_lines=progress.metrics_lines, facts=facts))

    def _train_qat(self, progress: Progress, checkpoint: Checkpoint | None = None) -> dict:
        train = self.recipe.train
        objective = Objective(label_smoothing=train.label_smoothing)
        if train.distillation is not None:
            objective = Objective(
                label_smoothing=train.label_smoothing, teacher=self._teacher(), **train.distillation.model_dump()
            )
        hooks: dict[str, StepHook] = self._average()
        if train.freeze_oscillations is not None:
            # Before the average, which is to see the weights as they are held.
            hooks = {"oscillations": OscillationFreezer(self.model, train.freeze_oscillations), **hooks}
        phase = self._phase(self._settings(), progress, objective, hooks, checkpoint)
        self._train(phase)
        return self._finish(phase)

    def _teacher(self) -> nn.Module:
        """Return the float network as it was before quantization, from the file that `_quantize` wrote."""
        teacher, file = build_network(self.recipe, len(self.data.classes)), self.folder.checkpoint(TEACHER)
        answers = load_teacher(file, teacher)
        require_same_network(teacher, answers, self.recipe.data, name=self.recipe.model, source=str(file))
        to_evaluation(teacher)
        return teacher.to(self.context.device)

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
            self.data.train,
            settings,
            progress,
            device=self.context.device,
            classes=len(self.data.classes),
            objective=objective,
            hooks=hooks,
            state=state,
        )
        return self.phase

    def _settings(self, **changes) -> PhaseSettings:
        t = self.recipe.train
        values = {field.name: getattr(t, field.name) for field in fields(PhaseSettings)}
        return PhaseSettings(**{**values, **changes})

    def _train(self, phase: Phase) -> None:
        context, progress = self.context, phase.progress
        self.last_epoch = None

        def after_epoch(record: dict) -> None:
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
            self._require_learning(phase, record)

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
            raise Interruption(
                stop.signal_number,
                f"stopped in epoch {progress.epoch + 1} of the {progress.phase} phase; the work so far is saved",
                how_to_go_on(self.recipe, self.folder),
            ) from None
        if self.last_epoch is not None:
            self._compare_with_training(phase, self.last_epoch)

    def _require_learning(self, phase: Phase, record: dict) -> None:
        """End a phase that trains nothing: at once where all images get one answer, else when half of it is over.

        Raises:
            NotLearningError: says what to change.
        """
        images = min(record["steps"], phase.steps_per_epoch) * self.recipe.train.batch_size
        reached = {"loss": None if phase.objective.teacher else record["train_loss"], "top1": record["train_top1"]}
        if record["steps"] < FEWEST_STEPS or not Guessing.among(self.data.train.labels).is_not_beaten(
            **reached, images=min(images, len(self.data.train))
        ):
            return
        dead = answers_alike(self.model, self._sample().to(self.context.device))
        if not dead and 2 * phase.steps_done < phase.steps:
            return
        what = "the network gives every image the same answer" if dead else "the network still only guesses"
        if phase.settings.optimizer == "sgd":
            hint = (
                f"try `--set {phase.section}.optimizer=adamw`, without a rate of your own: SGD's first steps kill the "
                "ReLUs of a network without batch norm"
            )
        else:
            hint = f"try a tenth of the rate, {phase.tenth_of_rate}"
        raise NotLearningError(
            f"{what} after {record['steps']} steps of the {phase.progress.phase} phase: its loss is "
            f"{record['train_loss']:.3f}, and {record['train_top1']:.2f}% of the training images are classified right",
            hint,
        )

    def _sample(self) -> torch.Tensor:
        """Return a few training images as evaluation sees them, (N, 3, H, W)."""
        return next(self.data.train.spread(DEAD_SAMPLE).eval_batches(DEAD_SAMPLE))[0]

    def _compare_with_training(self, phase: Phase, record: dict) -> None:
        """Measure some training images in evaluation, too, and tell where training saw something else in them.

        Needless where evaluation did about as well on images that were not trained on.
        """
        if record["train_top1"] - record["top1"] <= GAP:
            return
        images = min(record["steps"], phase.steps_per_epoch) * self.recipe.train.batch_size
        sample = self.data.train.spread(min(SAMPLED_IMAGES, images))
        with self._averaged(phase):
            accuracy = self._evaluate(sample)
        if not falls_behind(accuracy, train_top1=record["train_top1"], images=min(images, len(self.data.train))):
            return
        text = (
            f"training had {record['train_top1']:.2f}% of its images right in the last epoch of the "
            f"{phase.progress.phase} phase, and evaluation has {accuracy.top1:.2f}% of {accuracy.images} of them: "
        )
        unrefreshed = self.recipe.train.batch_norm_batches == 0
        to_training(self.model)
        if unrefreshed and lagging_norms(self.model, steps=phase.steps_done, from_scratch=True):
            text += "batch-norm statistics lag behind the weights; leave `train.batch_norm_batches` at auto"
        else:
            text += "the network computes something else in evaluation; so does batch norm over very small batches"
        self._warn(phase, text)

    def _tell_of_cost(self, phase: Phase, accuracy: Accuracy) -> None:
        """Tell where quantization took much, but not of a run that was cut short on purpose."""
        facts, record = phase.progress.facts, self.last_epoch
        if record is None or "float_top1" not in facts or self.recipe.train.max_steps is not None:
            return
        epochs = self.recipe.train.epochs
        text = cost_in_words(accuracy, float_top1=facts["float_top1"], train_top1=record["train_top1"], epochs=epochs)
        if text is not None:
            self._warn(phase, text)

    def _warn(self, phase: Phase, text: str) -> None:
        """Tell now, and in the result."""
        self.context.reporter.note(f"warning: {text}")
        phase.progress.facts.setdefault("warnings", []).append(text)

    def _watch(self, phase: Phase) -> dict:
        """Return what to put beside an epoch: accuracy on the validation split, else on the result's images; betas."""
        self._refresh_batch_norm(phase)
        with record_betas(self.model) as betas, self._averaged(phase):
            accuracy = self._evaluate(self.data.watch if self.data.watch is not None else self.data.result)
        watched = {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}
        return {**watched, "beta": betas} if betas else watched

    @contextmanager
    def _averaged(self, phase: Phase) -> Iterator[None]:
        """Hold the model at the average of its weights, where there is one, with statistics of its own."""
        average = phase.hooks.get(AVERAGE)
        if average is None:
            yield
            return
        own = snapshot(self.model)
        load_state(self.model, average.state())
        try:
            self._refresh_batch_norm(phase, averaged=True)
            yield
        finally:
            load_state(self.model, own)

    def _evaluate(self, split: Split | None = None) -> Accuracy:
        """Measure the network, on the images of the result where no others are given."""
        split = self.data.result if split is None else split
        accuracy = evaluate(
            self.model, split, batch_size=EVAL_BATCH, device=self.context.device, poll=self.context.poll
        )
        if not math.isfinite(accuracy.loss):
            raise DivergedError(
                "the network answers images with NaN or infinity",
                self.phase.lower_rate if self.phase else "nothing was trained yet: its weights are to blame",
            )
        return accuracy

    def _save(self, name: str, phase: Phase) -> None:
        training = phase.state()
        state = Checkpoint(
            self.recipe,
            phase.progress,
            self.plans,
            self.data.classes,
            self.model.state_dict(),
            training.optimizer,
            training.hooks,
            take_fingerprint(self.model, self.recipe.data),
        )
        save_checkpoint(self.folder.checkpoint(name), state)

    def _training_images(self, count: int, stream: int) -> Iterator[torch.Tensor]:
        """Yield `count` batches of shuffled training images on the device; `stream` names the order."""
        t = self.recipe.train
        batches = self.data.train.train_batches(t.batch_size, seed=(t.seed, stream))
        for _, (images, _) in zip(range(count), batches, strict=False):
            self.context.poll()
            yield images.to(self.context.device)

    def _reestimate_batch_norm(self, batches: int) -> None:
        reestimate_batch_norm(self.model, self._training_images(batches, BATCH_NORM_STREAM))

    def _refresh_batch_norm(self, phase: Phase, *, averaged: bool = False) -> None:
        """Estimate the statistics anew where they cannot have followed the weights, or where the recipe wants it.

        Training goes on from there: it normalises by the batch at hand, so that only evaluation sees the difference.
        Doing it twice changes nothing.

        Args:
            averaged: are these averages of weights, to which the running statistics do not belong?
        """
        wanted = self.recipe.train.batch_norm_batches
        if wanted != "auto":
            # The running statistics belong to the weights before averaging: at 2 bits they cost half of the accuracy.
            if wanted or averaged:
                self._reestimate_batch_norm(wanted or self._batches_to_estimate(phase))
            return
        to_training(self.model)
        from_scratch = phase.progress.phase != "qat" or not phase.progress.facts.get("float_trained", True)
        lagging = lagging_norms(self.model, steps=phase.steps_done, from_scratch=from_scratch)
        if not lagging and not averaged:
            return
        batches = self._batches_to_estimate(phase)
        slow = [norm.momentum for norm in lagging if norm.momentum is None or norm.momentum < USUAL_MOMENTUM]
        if slow and phase.progress.phase not in self.told_of_norms:
            self.told_of_norms.add(phase.progress.phase)
            momenta = sorted({"cumulative" if m is None else f"{m:g}" for m in slow})
            self.context.reporter.note(
                f"{len(slow)} batch norms average too slowly to follow the weights (momentum {', '.join(momenta)}): "
                f"their statistics are estimated anew before each evaluation, from {batches} training batches"
            )
        self._reestimate_batch_norm(batches)

    def _batches_to_estimate(self, phase: Phase) -> int:
        steps = min(phase.steps_done, phase.steps)
        return batches_to_estimate(batch_size=self.recipe.train.batch_size, steps=steps)

    def _finalize_weights(self, phase: Phase) -> None:
        """Bring the model to the weights that are the run's result. Doing it twice changes nothing."""
        average = phase.hooks.get(AVERAGE)
        if average is not None:
            load_state(self.model, average.state())
        if average is not None or self.recipe.train.batch_norm_batches != "auto":  # else the last epoch's watch did it
            self._refresh_batch_norm(phase, averaged=average is not None)
            self._save(LAST, phase)

    def _finish(self, phase: Phase) -> dict:
        """Measure the last weights, never the best epoch, and write the result."""
        self._finalize_weights(phase)
        with record_betas(self.model) as betas:
            accuracy = self._evaluate()
        self._tell_of_cost(phase, accuracy)
        recipe, progress, facts = self.recipe, phase.progress, phase.progress.facts
        result = {
            "schema": SCHEMA,
            "run": str(self.folder.path),
            "model": recipe.model,
            "scheme": scheme_of(recipe.weights.quantizer, recipe.activations.quantizer),
            "weight_bits": getattr(recipe.weights, "bits", "float"),
            "activation_bits": getattr(recipe.activations, "bits", "float"),
            "layer_rules": len(recipe.layers),
            "weights": facts["weights"],
            "warmup_epochs": facts.get("warmup_epochs", 0),
            "data": recipe.data.name,
            "measured_on": self.data.result_name,
            "float_top1": facts.get("float_top1", accuracy.top1),
            "float_trained": facts.get("float_trained", True),
            "calibrated_top1": facts.get("calibrated_top1"),
            **asdict(accuracy),
            **({"beta": list(span(betas))} if betas else {}),
            "warnings": facts.get("warnings", []),
            "epochs": progress.epoch,
            "seed": recipe.train.seed,
            "seconds": round(time.perf_counter() - self.started, 1),
        }
        self.folder.write_result(result)
        return result


def how_to_go_on(recipe: Recipe, folder: RunFolder) -> str:
    factory = f"{recipe.model} " if is_factory(recipe.model) else ""
    return f"go on with `asq quantize {factory}--resume {folder.path}`"
