"""What a share of right answers means: accuracy, or agreement with the float network where nothing is labelled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """What it means that a network's top answer is an image's label, and how to speak of it.

    Attributes:
        title: what stands under `measures` in results and metrics.
        share: of the images, how to call it.
        right: how to call an image with such an answer.
        top5: how to call the share of the images whose label is among the first five answers.
    """

    title: str
    share: str
    right: str
    top5: str


ACCURACY = Measure("accuracy", "top-1", "right", "top-5")
# Where nothing is labelled, the labels are the float network's own top answers.
AGREEMENT = Measure(
    "agreement with the float network", "agreement", "as the float network has them", "among the first five"
)


def measure_called(title: str | None) -> Measure:
    """Return the measure of a title; accuracy where a result has none, as before there was another."""
    return AGREEMENT if title == AGREEMENT.title else ACCURACY
