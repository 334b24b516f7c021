"""Accuracy from logits, in NumPy: the same count for training, evaluation and the integer engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """top1 and top5 in percent, rounded to two places (top5 is 100 with up to 5 classes).

    loss: mean cross-entropy; NaN where a logit is NaN or infinite.
    """

    top1: float
    top5: float
    loss: float
    images: int


class AccuracyCounter:
    """Adds up batches, of whatever size. A NaN among the logits ranks before all others: it is not right by chance."""

    def __init__(self) -> None:
        self._top1 = self._top5 = self._images = 0
        self._losses: list[float] = []

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch; of equal logits the first class ranks higher.

        Args:
            logits: (N, classes), float.
            labels: (N,), int.
        """
        logits, rows = logits.astype(np.float64), np.arange(len(labels))
        own = logits[rows, labels][:, None]
        before = np.arange(logits.shape[1]) < labels[:, None]
        rank = (~(logits <= own) | ((logits == own) & before)).sum(axis=1)
        self._top1 += int((rank < 1).sum())
        self._top5 += int((rank < 5).sum())
        self._images += len(labels)
        self._losses += (-log_softmax(logits)[rows, labels]).tolist()

    def result(self, add_up: Callable[..., tuple[float, ...]] = lambda *sums: sums) -> Accuracy:
        """Return the accuracy of all batches so far, one image at least.

        Args:
            add_up: adds each of these sums up with those of other counters.
        """
        loss = math.fsum(self._losses)  # exact: an engine and a network have batches of different sizes
        top1, top5, loss, n = add_up(self._top1, self._top5, loss, self._images)
        return Accuracy(round(100 * top1 / n, 2), round(100 * top5 / n, 2), loss / n, int(n))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the classes' shares, (N, classes)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
