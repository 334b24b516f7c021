"""Accuracy of a network on a split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from asqcli.accuracy import Accuracy, AccuracyCounter
from asqcli.data.splits import Split
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import evaluating

EVAL_BATCH = 256


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int,
    device: torch.device,
    poll: Callable[[], None] = lambda: None,
    classes: int | None = None,
) -> Accuracy:
    """Return the accuracy of `model` in evaluation mode.

    Args:
        poll: called before each batch; may raise to stop.
        classes: how many logits there must be, where the caller knows.
    Raises:
        UnsupportedError: the network raises, or returns no logits.
    """
    counter = AccuracyCounter()
    with evaluating(model):
        for inputs, labels in split.eval_batches(batch_size):
            poll()
            logits = forward_in_evaluation(model, inputs.to(device), classes=classes)
            counter.add(logits.cpu().to(torch.float64).numpy(), labels.numpy())
    return counter.result()
