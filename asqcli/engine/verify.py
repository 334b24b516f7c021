"""The engine beside another that must give the same: every code, accumulator and logit, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from asqcli.engine.interface import Observer

Runner = Callable[[np.ndarray, Observer], np.ndarray]  # (input, observer) to logits, as `Session.run`


@dataclass
class LayerDifference:
    """Values of one layer that differ."""

    codes: int = 0
    accumulators: int = 0


@dataclass
class Verification:
    """The differences between two runners on the same images.

    Attributes:
        images, same_labels: how many, and for how many of them the most likely class was the same.
        logit_mismatches: logits that differ at all.
        max_abs_logit_difference: the largest difference.
        layers: each layer's differences, in order of execution.
    """

    images: int = 0
    same_labels: int = 0
    logit_mismatches: int = 0
    max_abs_logit_difference: float = 0.0
    layers: dict[str, LayerDifference] = field(default_factory=dict)

    @property
    def label_agreement(self) -> float:
        """Percent."""
        return 100 * self.same_labels / max(1, self.images)

    @property
    def code_mismatches(self) -> int:
        return sum(layer.codes for layer in self.layers.values())

    @property
    def accumulator_mismatches(self) -> int:
        return sum(layer.accumulators for layer in self.layers.values())

    @property
    def exact(self) -> bool:
        """Is everything equal, as the format promises on a CPU?"""
        return not (self.logit_mismatches or self.code_mismatches or self.accumulator_mismatches)


def verify(ours: Runner, reference: Runner, batches: Iterable[np.ndarray]) -> Verification:
    """Return how two runners compare.

    Args:
        batches: inputs, (N, 3, H, W) float32, none larger than a session's `batch`.
    """
    result = Verification()
    for inputs in batches:
        seen, expected = _Record(), _Record()
        logits, wanted = ours(inputs, seen), reference(inputs, expected)
        result.images += len(inputs)
        result.same_labels += int((logits.argmax(axis=1) == wanted.argmax(axis=1)).sum())
        result.logit_mismatches += int((logits != wanted).sum())
        result.max_abs_logit_difference = max(
            result.max_abs_logit_difference, float(np.abs(logits.astype(np.float64) - wanted).max(initial=0.0))
        )
        for name in dict.fromkeys([*seen.layers, *expected.layers]):
            codes, accumulators = seen.layers.get(name, ([], []))
            other_codes, other_accumulators = expected.layers.get(name, ([], []))
            layer = result.layers.setdefault(name, LayerDifference())
            layer.codes += _differing(codes, other_codes)
            layer.accumulators += _differing(accumulators, other_accumulators)
    return result


class _Record:
    """An observer that keeps what it sees of one batch, by layer."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}

    def __call__(self, name: str, codes: np.ndarray, accumulators: np.ndarray) -> None:
        kept = self.layers.setdefault(name, ([], []))
        kept[0].append(codes)
        kept[1].append(accumulators.astype(np.float32))  # as scales meet them: whole numbers above 2^24 are rounded


def _differing(ours: list[np.ndarray], others: list[np.ndarray]) -> int:
    """Return how many values differ; a layer that one side never ran differs in all."""
    sizes = [sum(a.size for a in side) for side in (ours, others)]
    if sizes[0] != sizes[1]:
        return max(sizes)
    return sum(int((a != b).sum()) for a, b in zip(ours, others, strict=True))
