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
    model: nn.Module, split: Split, *, batch_size: int, device: torch.device, poll: Callable[[], None] = lambda: None
) -> Accuracy:
    """Return the accuracy of `model` in evaluation mode.

    Args:
        poll: called before each batch; may raise to stop.
    """
    counter = AccuracyCounter()
    with evaluating(model):
        for inputs, labels in split.eval_batches(batch_size):
            poll()
            counter.add(forward_in_evaluation(model, inputs.to(device)).cpu().numpy(), labels.numpy())
    return counter.result()
