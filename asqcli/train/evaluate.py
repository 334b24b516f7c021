"""Accuracy of a network on a split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from asqcli.accuracy import Accuracy, AccuracyCounter
from asqcli.data.splits import Split
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import evaluating

# Of a batch. More is not faster, and at 224 pixels 153 images at once took a mobile network 3.7 GB instead of 1.4.
MOST_IMAGES, MOST_PIXELS = 256, 1 << 20


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int | None = None,
    device: torch.device,
    poll: Callable[[], None] = lambda: None,
    classes: int | None = None,
) -> Accuracy:
    """Return the accuracy of `model` in evaluation mode.

    Args:
        batch_size: by default what takes little memory at the size of the images.
        poll: called before each batch; may raise to stop.
        classes: how many logits there must be, where the caller knows.
    Raises:
        UnsupportedError: the network raises, or returns no logits.
    """
    if batch_size is None:
        batch_size = max(1, min(MOST_IMAGES, MOST_PIXELS // split.preprocessing.image_size**2))
    counter = AccuracyCounter()
    with evaluating(model):
        for inputs, labels in split.eval_batches(batch_size):
            poll()
            logits = forward_in_evaluation(model, inputs.to(device), classes=classes)
            counter.add(logits.cpu().to(torch.float64).numpy(), labels.numpy())
    return counter.result()
