"""One phase of training, float or quantized, which can be stopped after any step and gone on with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from asqcli.data.splits import Split, batches_per_pass
from asqcli.errors import DivergedError
from asqcli.measures import ACCURACY, Measure
from asqcli.nn.modes import to_training
from asqcli.nn.precision import FLOAT32, forward_in
from asqcli.processes.alone import ALONE, Processes
from asqcli.seeds import Stream, seed_everything
from asqcli.train.batch_norm import freeze_norms
from asqcli.train.diagnose import first_nonfinite
from asqcli.train.objective import Objective
from asqcli.train.optimizer import learning_rate, make_optimizer, optimizer_state, restore_optimizer
from asqcli.train.passes import Passes, fastest
from asqcli.train.progress import BASELINES, Progress, TrainingState
from asqcli.train.reporter import Reporter
from asqcli.train.step_hooks import StepHook
from asqcli.train.update import Update

SAVE_EVERY_S = 600  # an hour-long epoch must not be lost to a crash


@dataclass(frozen=True)
class PhaseSettings:
    """How one phase trains.

    Attributes:
        max_steps: bounds the whole phase.
        batch_norm: `batch`, or `frozen` statistics.
        head: the layer that steps `head_rate` times as fast as all others, if any.
        step_lr, adapter_lr: as for `make_optimizer`.
        precision: that forward and backward multiply in.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    seed: int
    optimizer: str = "sgd"
    lr_ramp_steps: int = 0
    max_steps: int | None = None
    batch_norm: str = "batch"
    head: str | None = None
    head_rate: float = 1.0
    step_lr: float = 1.0
    adapter_lr: float = 1.0
    precision: str = FLOAT32


class Phase:
    """A network, its optimizer and where they stand.

    Args:
        model: to train, on `device`.
        split: training images.
        settings: the phase's.
        classes: that the network tells apart.
        progress: where to start; advanced in place.
        objective: the loss.
        hooks: what sees the model after every step, by name.
        state: to go on with.
        processes: that train together; each takes its part of every batch.
        measure: what it means that an answer is that of a label.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        settings: PhaseSettings,
        progress: Progress,
        *,
        device: torch.device,
        classes: int,
        objective: Objective,
        hooks: dict[str, StepHook],
        state: TrainingState | None = None,
        processes: Processes = ALONE,
        measure: Measure = ACCURACY,
    ) -> None:
        self.model, self.split, self.settings, self.progress = model, split.at(device), settings, progress
        self.device = device
        self.objective, self.hooks, self.processes = objective, hooks, processes
        self.measure = measure
        self.steps_per_epoch = batches_per_pass(split, settings.batch_size)
        steps = settings.epochs * self.steps_per_epoch
        self.steps = min(steps, settings.max_steps) if settings.max_steps else steps
        self.optimizer = make_optimizer(
            model,
            settings.optimizer,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            head=settings.head,
            head_rate=settings.head_rate,
            step_lr=settings.step_lr,
            adapter_lr=settings.adapter_lr,
        )
        passes = Passes(
            model, objective, classes=classes, precision=settings.precision, device=device, processes=processes
        )
        self.passes = fastest(passes)
        self.update = Update(self.optimizer, self.passes)
        if state is not None:
            restore_optimizer(model, self.optimizer, state.optimizer)
            for name, kept in state.hooks.items():
                hooks[name].load_state(kept)

    @property
    def steps_done(self) -> int:
        """Steps taken in this phase."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    @property
    def finished(self) -> bool:
        """Is no epoch left, not even one that was trained and not yet closed?"""
        return self.progress.epoch * self.steps_per_epoch >= self.steps

    @property
    def epochs(self) -> int:
        """Epochs that the phase takes, one cut short by `max_steps` counted."""
        return math.ceil(self.steps / self.steps_per_epoch)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        ramp = self.settings.lr_ramp_steps
        return learning_rate(self.settings.lr, self.steps_done, self.steps, ramp_steps=ramp)

    @property
    def lower_rate(self) -> str:
        """A hint for who sees this phase diverge."""
        return f"try a lower rate, {self.tenth_of_rate}; the last checkpoint is from before"

    @property
    def tenth_of_rate(self) -> str:
        """The option that sets it."""
        return f"`--set {self.section}.lr={self.settings.lr / 10:g}`"

    @property
    def section(self) -> str:
        """The recipe's section with the phase's rate."""
        return f"train.{self.progress.phase}" if self.progress.phase in BASELINES else "train"

    def state(self) -> TrainingState:
        """Return what to go on with later."""
        hooks = {name: hook.state() for name, hook in self.hooks.items()}
        return TrainingState(optimizer_state(self.model, self.optimizer), hooks)

    def run(
        self,
        *,
        reporter: Reporter,
        poll: Callable[[], None],
        watch: Callable[[], dict[str, Any]],
        after_epoch: Callable[[dict[str, Any]], None],
        save: Callable[[], None],
    ) -> None:
        """Train to the end of the phase.

        Args:
            poll: called before each step; may raise to stop, and `progress` then says where.
            watch: returns what to put beside an epoch, its accuracy first of all.
            after_epoch: called with an epoch's record once the progress stands at the next epoch.
            save: called within long epochs, every ten minutes.
        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        reporter.phase(self.progress.phase, epochs=self.epochs, steps=self.steps, first=self.steps_done)
        to_training(self.model)
        if self.settings.batch_norm == "frozen":
            freeze_norms(self.model)
        while not self.finished:
            start = time.perf_counter()
            self._finish_epoch(reporter, poll, save)
            record = self._close_epoch(watch(), time.perf_counter() - start)
            after_epoch(record)
            reporter.epoch(record)

    def _finish_epoch(self, reporter: Reporter, poll: Callable[[], None], save: Callable[[], None]) -> None:
        """Take the steps that are left of the current epoch."""
        p = self.progress
        # The phases of a run see different orders.
        seed = (self.settings.seed, Stream[p.phase.upper()], p.epoch)
        left = min(self.steps_per_epoch - p.step, self.steps - self.steps_done)
        if left == 0:
            return
        saved = time.monotonic()
        own = self.processes
        batches = self.split.train_batches(self.settings.batch_size, seed=seed, first=p.step, part=own.part)
        for _, (images, labels) in zip(range(left), batches, strict=False):
            poll()
            if time.monotonic() - saved > SAVE_EVERY_S:
                save()
                saved = time.monotonic()
            seed_everything(*seed, p.step, *[own.rank] * (own.rank > 0))  # for dropout and its like
            loss_sum, correct, count = self._step(images.to(self.device), labels.to(self.device))
            p.loss_sum += loss_sum
            p.correct += correct
            p.images += count
            p.step += 1
            reporter.step(epoch=p.epoch, images=count, loss=p.loss_sum / p.images, top1=100 * p.correct / p.images)

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, int, int]:
        """Take one step by this process's part of a batch; return (sum of losses, images right, images) of all."""
        loss, right = self.passes(images, labels)
        loss_sum, correct, count = self.processes.sum(loss.item() * len(labels), int(right), len(labels))
        if not math.isfinite(loss_sum):
            self._diverged(loss_sum, images)
        self.processes.add_gradients(self.model, int(count))
        self.update(self.lr)
        for hook in self.hooks.values():
            hook.after_step(self.model)
        return loss_sum, int(correct), int(count)

    def _diverged(self, loss: float, images: torch.Tensor) -> None:
        with forward_in(self.settings.precision, self.device):
            found = first_nonfinite(self.model, images)
        p, origins = self.progress, self.processes.texts(found or "")
        origin = next(filter(None, origins), None)  # one process's part may be finite
        where = f"; the first NaN or infinity is in {origin}" if origin else ""
        raise DivergedError(
            f"the loss became {loss} in epoch {p.epoch + 1}, step {p.step + 1} of the {p.phase} phase{where}",
            self.lower_rate,
        )

    def _close_epoch(self, watched: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Move the progress to the next epoch; return the record of this one."""
        p = self.progress
        record = {
            "phase": p.phase,
            "measures": self.measure.title,
            "epoch": p.epoch + 1,
            "steps": self.steps_done,
            "lr": self.lr,
            "train_loss": p.loss_sum / p.images,
            "train_top1": round(100 * p.correct / p.images, 2),
            "seconds": round(seconds, 2),
            **watched,
        }
        p.epoch, p.step, p.loss_sum, p.correct, p.images = p.epoch + 1, 0, 0.0, 0, 0
        p.metrics_lines += 1
        return record
