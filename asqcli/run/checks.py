"""Does a phase learn anything, and does evaluation see what training saw? Looked at after epochs and phases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from asqcli.accuracy import Accuracy
from asqcli.data.splits import Split
from asqcli.errors import NotLearningError
from asqcli.measures import ACCURACY
from asqcli.nn.modes import to_training
from asqcli.train.batch_norm import lagging_norms
from asqcli.train.learning import FEWEST_STEPS, GAP, SAMPLED_IMAGES, Guessing, answers_alike, falls_behind
from asqcli.train.loop import Phase

DEAD_SAMPLE = 64  # images


def require_learning(phase: Phase, record: dict[str, Any]) -> None:
    """End a phase that trains nothing: at once where all images get one answer, else when half of it is over.

    That a network beats guessing is asked of labels alone: photos may well all look alike to the float network.

    Args:
        record: of the epoch that ended.
    Raises:
        NotLearningError: says what to change.
    """
    counts = phase.measure is ACCURACY
    if record["steps"] < FEWEST_STEPS:
        return
    if counts and not Guessing.among(phase.split.labels).is_not_beaten(
        loss=None if phase.objective.teacher else record["train_loss"],
        top1=record["train_top1"],
        images=min(_images_seen(phase, record), len(phase.split)),
    ):
        return
    dead = answers_alike(phase.model, _sample(phase.split).to(phase.device))
    if not dead and (not counts or 2 * phase.steps_done < phase.steps):
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
        f"{record['train_loss']:.3f}, and {record['train_top1']:.2f}% of the training images are classified "
        f"{phase.measure.right}",
        hint,
    )


def gap_in_words(
    phase: Phase, record: dict[str, Any], measure: Callable[[Split], Accuracy], *, keeps_statistics: bool
) -> str | None:
    """Return what evaluation makes of training images, where training saw something else in them; else None.

    Nothing is measured where evaluation did about as well on images that were not trained on.

    Args:
        record: of the phase's last epoch.
        measure: evaluates the network that the phase ends with.
        keeps_statistics: are batch-norm statistics never estimated anew?
    """
    if record["train_top1"] - record["top1"] <= GAP:
        return None
    images = _images_seen(phase, record)
    accuracy = measure(phase.split.spread(min(SAMPLED_IMAGES, images)))
    if not falls_behind(accuracy, train_top1=record["train_top1"], images=min(images, len(phase.split))):
        return None
    text = (
        f"training had {record['train_top1']:.2f}% of its images {phase.measure.right} in the last epoch of the "
        f"{phase.progress.phase} phase, and evaluation has {accuracy.top1:.2f}% of {accuracy.images} of them: "
    )
    to_training(phase.model)
    if keeps_statistics and lagging_norms(phase.model, steps=phase.steps_done, from_scratch=True):
        return text + "batch-norm statistics lag behind the weights; leave `train.batch_norm_batches` at auto"
    return text + "the network computes something else in evaluation; so does batch norm over very small batches"


def _images_seen(phase: Phase, record: dict[str, Any]) -> int:
    """Return how many images an epoch's figures are over."""
    return min(record["steps"], phase.steps_per_epoch) * phase.settings.batch_size


def _sample(split: Split) -> torch.Tensor:
    """Return a few training images as evaluation sees them, (N, 3, H, W)."""
    return next(split.spread(DEAD_SAMPLE).eval_batches(DEAD_SAMPLE))[0]
