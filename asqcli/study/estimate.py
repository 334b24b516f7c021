"""How long cells will take: from those of the study that trained before, else from a step that is timed.

Evaluation counts only where it was measured, that is, in cells that trained; the start of a process never does. And
cells at work side by side slow each other.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from asqcli.recipe.schema import Recipe
from asqcli.study.cells import Cell
from asqcli.study.command import start_arguments
from asqcli.study.processes import reason_of
from asqcli.study.work import Work

FLOAT_PHASES = ("warmup", "finetune")  # before quantization


@dataclass(frozen=True)
class _Pace:
    """Seconds that a cell took: all of its float phases, and an epoch after them."""

    row: str
    before: float
    epoch: float


def cost_of_a_step(recipe: Recipe) -> tuple[Any, ...]:
    """Return what decides the time of a step, the quantizers aside."""
    t, teacher = recipe.train, recipe.train.distillation
    taught = None if teacher is None else (teacher.teacher, teacher.teacher_weights)
    return recipe.model, recipe.data.name, recipe.data.image_size, t.batch_size, t.precision, taught


def _cost(recipe: Recipe) -> tuple[Any, ...]:
    """Return what decides the time of an epoch, the quantizers aside."""
    return *cost_of_a_step(recipe), recipe.train.max_steps, recipe.quantized


class Estimator:
    """Tells how long cells will take, by those that are done."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.row_of = {cell.name: row.name for row in work.study.rows for cell in row.cells}
        self.paces: dict[tuple[Any, ...], list[_Pace]] = {}
        for cell in work.study.cells:
            if work.outcomes[cell.name].status == "done":
                self.add(cell)

    def add(self, cell: Cell) -> None:
        """Learn from a cell that is done."""
        spent, before = self._spent(cell)
        if spent > 0:
            pace = _Pace(self.row_of[cell.name], before, (spent - before) / max(1, cell.recipe.train.epochs))
            self.paces.setdefault(_cost(cell.recipe), []).append(pace)

    def seconds(self, cell: Cell) -> float | None:
        """Return how long a cell will still take, None where no cell like it is done.

        Cells of its own row go first; others have the same network, images and batch.
        """
        paces = self.paces.get(_cost(cell.recipe), [])
        paces = [pace for pace in paces if pace.row == self.row_of[cell.name]] or paces
        if not paces:
            return None
        before, epoch = (
            statistics.median(values) for values in zip(*((p.before, p.epoch) for p in paces), strict=True)
        )
        return max(0.0, before + epoch * cell.recipe.train.epochs - self._spent(cell)[0])

    def all_seconds(self, cells: Iterable[Cell], jobs: int) -> float | None:
        """Return how long cells will take together, None where that is not known of all."""
        seconds = [self.seconds(cell) for cell in cells]
        known = [value for value in seconds if value is not None]
        return sum(known) / jobs if len(known) == len(seconds) else None

    def _spent(self, cell: Cell) -> tuple[float, float]:
        """Return how many seconds a cell has trained, and how many of them in float before quantization."""
        records = self.work.run(cell).metrics()
        before = sum(record["seconds"] for record in records if record["phase"] in FLOAT_PHASES)
        return sum(record["seconds"] for record in records), before


@dataclass(frozen=True)
class TimedStep:
    """What `asq quantize --profile` says of a cell.

    Attributes:
        float_ms, quantized_ms: of a step, the latter with the answers of its teacher.
        steps: of an epoch.
    """

    float_ms: float
    quantized_ms: float
    steps: int

    def seconds(self, recipe: Recipe) -> float:
        """Return how long the steps of a recipe take, float training included where it names no weights."""
        t = recipe.train
        ms = self.quantized_ms if recipe.quantized else self.float_ms
        steps = self.steps * t.epochs if t.max_steps is None else min(t.max_steps, self.steps * t.epochs)
        warms_up = recipe.quantized and t.max_steps is None and recipe.pretrained in ("none", "auto")
        before = self.steps * t.warmup.epochs * self.float_ms if warms_up else 0.0
        return (steps * ms + before) / 1000


class NotTimed(NamedTuple):
    """Why the process ended that was to time a step, and its exit code."""

    reason: str
    code: int


def time_a_step(cell: Cell, threads: int | None) -> TimedStep | NotTimed:
    """Measure a few steps of a cell in a process of its own."""
    arguments = [*start_arguments(cell.request, out=None, threads=threads), "--profile", "--json"]
    command = [sys.executable, "-m", "asqcli", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        return NotTimed(reason_of(done.returncode, done.stdout), done.returncode)
    document = json.loads(done.stdout)
    quantized = document["quantized_ms"] + (document["teacher_ms"] or 0.0)
    return TimedStep(document["float_ms"], quantized, document["steps_per_epoch"])


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> duration(42), duration(600), duration(9_000), duration(400_000)
    ('42 s', '10 min', '2.5 h', '4.6 days')
    """
    for unit, size in (("days", 86_400), ("h", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
