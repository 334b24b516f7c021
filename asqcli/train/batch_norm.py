"""Batch-norm statistics estimated anew for the weights as they are at the end of training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asqcli.nn.modes import evaluating
from asqcli.train.forward import forward_in_training


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of `model` by the plain averages over `batches`.

    Quantized weights jump between levels, so running averages lag behind them; that costs most in depthwise networks.

    Args:
        batches: training images, (N, 3, H, W) each, on the model's device.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative average
            norm.train()
        for batch in batches:
            forward_in_training(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
