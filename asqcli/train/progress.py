"""Where a run stands, and what training goes on with from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Phases of float training before quantization: of a network with random weights, of one whose head alone is new.
BASELINES = ("warmup", "finetune")


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        phase: one of the BASELINES, float or qat.
        epoch, step: the next step to take; step counts within the epoch.
        loss_sum, correct, images: of this epoch's steps so far.
        metrics_lines: lines of metrics.jsonl that belong to this state.
        facts: results of what came before, such as float_top1.
    """

    phase: str
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    metrics_lines: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingState:
    """What training keeps beside the model.

    Attributes:
        optimizer: `optimizer_state` of the optimizer.
        hooks: the states of the step hooks, by their names.
    """

    optimizer: dict[str, dict[str, Tensor]]
    hooks: dict[str, dict[str, Tensor]]
