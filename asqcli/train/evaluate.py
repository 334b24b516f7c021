"""Accuracy of a network on a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from asqcli.data.splits import Split

EVAL_BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """top1 and top5 in percent, rounded to two places (top5 is 100 with up to 5 classes); loss: mean cross-entropy."""

    top1: float
    top5: float
    loss: float
    images: int


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, *, batch_size: int, device: torch.device, poll: Callable[[], None] = lambda: None
) -> Accuracy:
    """Return the accuracy of `model` in evaluation mode.

    Args:
        poll: called before each batch; may raise to stop.
    """
    training = model.training
    model.eval()
    top1 = top5 = images = 0
    loss = 0.0
    try:
        for inputs, labels in split.eval_batches(batch_size):
            poll()
            logits, labels = model(inputs.to(device)), labels.to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
            hits = ranked == labels[:, None]
            top1 += hits[:, 0].sum().item()
            top5 += hits.any(dim=1).sum().item()
            images += len(labels)
    finally:
        model.train(training)
    return Accuracy(round(100 * top1 / images, 2), round(100 * top5 / images, 2), loss / images, images)
