"""Where a training step goes: float steps and the quantized one side by side, their memory, the quantized operators."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asqcli.nn.calibration import calibrate
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import to_evaluation, to_training
from asqcli.nn.precision import BFLOAT16, FLOAT32, multiplies_bfloat16
from asqcli.quant.fake_quant import COMPUTED_AGAIN
from asqcli.quant.spec import LayerSpec
from asqcli.recipe.schema import Train
from asqcli.train.batch_norm import freeze_norms
from asqcli.train.objective import Objective
from asqcli.train.optimizer import make_optimizer
from asqcli.train.passes import Passes, fastest
from asqcli.train.update import Update

WARM_STEPS, TIMED_STEPS, TRACED_STEPS = 3, 10, 3
ACTIVITIES = [torch.profiler.ProfilerActivity.CPU]
# Names of operators to the part of the step that they belong to; the first that matches counts.
SMALL_PARTS = "adapters, pools and linear layers"
ROUNDING = "rounding to bfloat16, and scales"
PARTS = {
    "FakeQuantize": "fake quantizers",
    COMPUTED_AGAIN: "fake quantizers",
    "_Operand": ROUNDING,
    "_Result": ROUNDING,
    "conv": "convolutions",
    "_Product": "convolutions",
    "batch_norm": "batch norm",
    "_BatchNorm": "batch norm",
    "mean": SMALL_PARTS,
    "mm": SMALL_PARTS,
    "linear": SMALL_PARTS,
    "threshold_backward": "relu",
    "clamp_min": "relu",
    "relu": "relu",
}


@dataclass(frozen=True)
class StepProfile:
    """What was measured.

    Attributes:
        precision: that the quantized step multiplies in.
        float_ms, float_bf16_ms, quantized_ms: medians of a whole step, taking turns in one run: of the float network in
            float32 and in bfloat16, with PyTorch's batch norm, and of the quantized one. The second is None where
            nobody asked for bfloat16 and nothing here multiplies it.
        teacher_ms: median of what a teacher takes to answer a batch, which each quantized step waits for beside its own
            time; None where none teaches.
        images_per_second: of quantized steps, with the teacher's answers.
        sections_ms: medians of the parts of the quantized step that follow each other: forward, backward, update.
        parts: share of the quantized step's processor time by part, in percent, largest first.
        steps_per_epoch: that a run would take.
        float_peak_mib, peak_mib: the most memory that tensors take within a float and a quantized step, beyond what
            they hold before it.
    """

    precision: str
    float_ms: float
    float_bf16_ms: float | None
    quantized_ms: float
    teacher_ms: float | None
    images_per_second: float
    sections_ms: dict[str, float]
    parts: dict[str, float]
    steps_per_epoch: int
    float_peak_mib: float
    peak_mib: float

    @property
    def ratio(self) -> float:
        """The quantized step in units of the float step in float32."""
        return self.quantized_ms / self.float_ms

    @property
    def whole_ms(self) -> float:
        """What a step of a run takes."""
        return self.quantized_ms + (self.teacher_ms or 0.0)


def profile_step(
    model: nn.Module,
    specs: list[LayerSpec],
    batches: Iterable[tuple[Tensor, Tensor]],
    train: Train,
    *,
    start: str,
    classes: int,
    steps_per_epoch: int,
    teacher: nn.Module | Literal["itself"] | None = None,
) -> StepProfile:
    """Measure steps of the float `model` and of its quantized twin, which `model` becomes.

    Args:
        batches: (images, labels) on the model's device; the first ones calibrate.
        train: the recipe's section, for the optimizer.
        classes: that the network tells apart.
        teacher: the network that teaches, on the model's device; `itself` is the float model.
    """
    batches = list(batches)
    twin, device = copy.deepcopy(model), batches[0][0].device
    teacher = copy.deepcopy(model) if teacher == "itself" else teacher
    calibrate(model, specs, [images for images, _ in batches], start=start)
    taken = {"float": _Step(twin, batches, train, classes, FLOAT32, own_kernels=False)}
    if train.precision == BFLOAT16 or multiplies_bfloat16(device):
        taken["float_bf16"] = _Step(copy.deepcopy(twin), batches, train, classes, BFLOAT16, own_kernels=False)
    taken["quantized"] = _Step(model, batches, train, classes, train.precision)
    steps: dict[str, Callable[[], float]] = {**taken, **({"teacher": _Answers(teacher, batches)} if teacher else {})}
    for step in steps.values():
        for _ in range(WARM_STEPS):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TIMED_STEPS):
        for name, step in steps.items():
            times[name].append(step())
    sections = taken["quantized"].sections
    medians = {name: statistics.median(values) for name, values in times.items()}
    return StepProfile(
        precision=train.precision,
        float_ms=medians["float"],
        float_bf16_ms=medians.get("float_bf16"),
        quantized_ms=medians["quantized"],
        teacher_ms=medians.get("teacher"),
        images_per_second=round(1000 * len(batches[0][0]) / (medians["quantized"] + medians.get("teacher", 0.0)), 1),
        sections_ms={name: statistics.median(values[WARM_STEPS:]) for name, values in sections.items()},
        parts=_parts(taken["quantized"]),
        steps_per_epoch=steps_per_epoch,
        float_peak_mib=_peak_mib(taken["float"]),
        peak_mib=_peak_mib(taken["quantized"]),
    )


class _Step:
    """One step of training, timed by section."""

    def __init__(
        self,
        model: nn.Module,
        batches: list[tuple[Tensor, Tensor]],
        train: Train,
        classes: int,
        precision: str,
        *,
        own_kernels: bool = True,
    ) -> None:
        to_training(model)
        if train.batch_norm == "frozen":
            freeze_norms(model)
        self.batches, self.taken = batches, 0
        device = batches[0][0].device
        passes = Passes(
            model, Objective(), classes=classes, precision=precision, device=device, own_kernels=own_kernels
        )
        self.passes = fastest(passes)
        self.optimizer = make_optimizer(
            model, train.optimizer, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        self.update, self.lr = Update(self.optimizer, self.passes), train.lr
        self.sections: dict[str, list[float]] = {}

    def __call__(self) -> float:
        """Take a step; return its time in milliseconds."""
        images, labels = self.batches[self.taken % len(self.batches)]
        self.taken += 1
        begin = time.perf_counter()
        if isinstance(passes := self.passes, Passes):
            passes.clear()
            loss, _ = self._timed("forward", lambda: passes.forward(images, labels))
            self._timed("backward", lambda: passes.backward(loss, len(labels)))
        else:
            self._timed("forward and backward", lambda: passes(images, labels))
        self._timed("update", lambda: self.update(self.lr))
        return 1000 * (time.perf_counter() - begin)

    def _timed(self, section: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        if self.batches[0][0].is_cuda:
            torch.cuda.synchronize()
        self.sections.setdefault(section, []).append(1000 * (time.perf_counter() - begin))
        return result


class _Answers:
    """The answers of a teacher to one batch, timed."""

    def __init__(self, teacher: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
        to_evaluation(teacher)
        self.teacher, self.batches, self.taken = teacher, batches, 0

    @torch.no_grad()
    def __call__(self) -> float:
        """Let it answer; return its time in milliseconds."""
        images, _ = self.batches[self.taken % len(self.batches)]
        self.taken += 1
        begin = time.perf_counter()
        forward_in_evaluation(self.teacher, images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - begin)


def _parts(step: _Step) -> dict[str, float]:
    """Return the share of each part in the processor time of some steps, in percent."""
    with torch.profiler.profile(activities=ACTIVITIES, acc_events=True) as trace:
        for _ in range(TRACED_STEPS):
            step()
    parts: dict[str, float] = {}
    for event in trace.events() or ():
        part = _part_of(event)
        parts[part] = parts.get(part, 0.0) + event.self_cpu_time_total
    total = sum(parts.values())
    shares = {name: round(100 * spent / total, 1) for name, spent in parts.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _peak_mib(step: _Step) -> float:
    """Return the most memory that PyTorch's tensors take within a step, beyond what they hold before it."""
    step.optimizer.zero_grad(set_to_none=True)  # the profiler complains of what was allocated before it
    with torch.profiler.profile(activities=ACTIVITIES, profile_memory=True) as trace:
        step()
    # The public tables add allocations up by operator; only the raw events tell when each came.
    raw: Any = trace.profiler
    changes = sorted((e.start_ns(), e.nbytes()) for e in raw.kineto_results.events() if e.name() == "[memory]")
    return round(max(accumulate(size for _, size in changes), default=0) / 2**20, 1)


def _part_of(event: Any) -> str:
    """Return the part that an operator belongs to: its own, or that of the nearest caller that has one."""
    while event is not None:
        for key, part in PARTS.items():
            if key in event.name:
                return part
        event = event.cpu_parent
    return "everything else"
