"""Does a network learn, and does evaluation see what training saw? Two ways in which every figure can be nonsense."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asqcli.accuracy import Accuracy
from asqcli.measures import ACCURACY, Measure
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import evaluating

FEWEST_STEPS = 100  # before a network that still guesses is given up
STUCK = 0.99  # share of the loss of guessing
DEVIATIONS = 4  # standard deviations of a share that was counted over few images
GAP = 10.0  # points of top-1 between training and evaluation that call for an explanation
SAMPLED_IMAGES = 512
COSTLY = 3.0  # points of top-1 that quantization may take before that is told
COSTLY_AGREEMENT = 10.0  # the same of agreement: networks of equal accuracy differ in the images that they get wrong


@dataclass(frozen=True)
class Guessing:
    """What a network reaches that does not look at its images and knows only how common each class is.

    Attributes:
        loss: cross-entropy, the entropy of the classes; ln(classes) where all are equally common.
        top1: percent.
    """

    loss: float
    top1: float

    @classmethod
    def among(cls, labels: Tensor) -> Guessing:
        """Return it for training labels, (N,) int64.

        >>> Guessing.among(torch.tensor([0, 1, 2, 3]))
        Guessing(loss=1.3862943611198906, top1=25.0)
        """
        shares = torch.bincount(labels).double() / len(labels)
        present = shares[shares > 0]
        return cls(-(present * present.log()).sum().item(), 100 * shares.max().item())

    def is_not_beaten(self, *, loss: float | None, top1: float, images: int) -> bool:
        """Is what was reached over `images` images no better than guessing, but for luck?

        Args:
            loss: mean cross-entropy, or None where something else was minimized.
        """
        luck = DEVIATIONS * _deviation(self.top1, images)
        return top1 <= self.top1 + luck and (loss is None or loss >= STUCK * self.loss)


@torch.no_grad()
def answers_alike(model: nn.Module, images: Tensor) -> bool:
    """Does the network give all images the same logits, as one does whose ReLUs have all died?

    Args:
        images: several different ones, (N, 3, H, W).
    """
    with evaluating(model):
        logits = forward_in_evaluation(model, images)
    spread = (logits.amax(dim=0) - logits.amin(dim=0)).max()
    return bool(spread <= 1e-6 * logits.abs().max().clamp(min=1.0))


def falls_behind(evaluated: Accuracy, *, train_top1: float, images: int) -> bool:
    """Is top-1 on training images far lower in evaluation than it was in training?

    Augmentation and dropout make training harder, so that the difference usually has the other sign.

    Args:
        evaluated: on a sample of the training images.
        train_top1: percent, over the last epoch's `images` images.
    """
    luck = DEVIATIONS * math.hypot(_deviation(train_top1, images), _deviation(evaluated.top1, evaluated.images))
    return train_top1 - evaluated.top1 > max(GAP, luck)


def cost_in_words(
    evaluated: Accuracy, *, float_top1: float, train_top1: float, epochs: int, measure: Measure = ACCURACY
) -> str | None:
    """Return what quantization took from the float network and what may bring it back; None where that is little.

    Args:
        evaluated: the quantized network, on the images that `float_top1` was measured on.
        float_top1, train_top1: percent; the latter over the last epoch of `epochs`.
        measure: what all these are.
    """
    cost = float_top1 - evaluated.top1
    if cost <= (COSTLY if measure is ACCURACY else COSTLY_AGREEMENT):
        return None
    if measure is ACCURACY:
        text = f"top-1 is {cost:.2f} points below the float network's {float_top1:.2f}%"
    else:
        text = f"{measure.share} with the float network is {evaluated.top1:.2f}%"
    text += f", and training had {train_top1:.2f}% {measure.right} in its last epoch: try "
    return text + (f"`--epochs {2 * epochs}`, then more bits" if train_top1 < float_top1 else "more bits")


def _deviation(top1: float, images: int) -> float:
    """Return the standard deviation of a top-1 that was counted over `images` images, in points."""
    return math.sqrt(top1 * (100 - top1) / images)
