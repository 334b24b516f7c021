"""Parameter groups and the learning rate of the paper's section 4.1."""

from __future__ import annotations

import math

import torch
from torch import nn

from asqcli.quant.adapter import Adapter

DECAYED = (nn.Conv2d, nn.Linear)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return SGD's groups: weight decay on the weights of convolutions and linear layers, none on anything else.

    Steps, thresholds, adapters, batch norm and biases are not decayed: a decayed step shrinks the range that it
    stands for.
    """
    in_adapters = {id(p) for m in model.modules() if isinstance(m, Adapter) for p in m.parameters()}
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, DECAYED)} - in_adapters
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Return SGD over `parameter_groups`."""
    return torch.optim.SGD(parameter_groups(model, weight_decay), lr=lr, momentum=momentum)


def cosine_lr(lr: float, step: int, steps: int) -> float:
    """Return the learning rate of a step: from `lr` to 0 along half a cosine, without restarts.

    >>> cosine_lr(0.1, 5, 10)
    0.05
    """
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))
