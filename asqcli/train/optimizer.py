"""Parameter groups, optimizers and the learning rate: the paper's section 4.1, and AdamW for networks without norms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from asqcli.nn.prepare import quantizers
from asqcli.quant.adapter import Adapter

DECAYED = (nn.Conv2d, nn.Linear)
SECOND_MOMENT_DECAY = 0.99  # a phase may have 100 steps: PyTorch's 0.999 would remember the first gradients in the last

RATE = "rate"  # a parameter group's, in units of the phase's learning rate

# The counter of updates in a parameter's state; all else there has the shape of the parameter.
UPDATES = "step"
KEPT = {"sgd": {"momentum_buffer"}, "adamw": {"exp_avg", "exp_avg_sq", UPDATES}}  # state of each parameter


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return an optimizer's groups: weight decay on the weights of convolutions and linear layers, none on all else.

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


def make_optimizer(
    model: nn.Module,
    kind: str,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    head: str | None = None,
    head_rate: float = 1.0,
    step_lr: float = 1.0,
    adapter_lr: float = 1.0,
) -> torch.optim.Optimizer:
    """Return an optimizer over `parameter_groups`, in which each group has its share of the rate under RATE.

    Args:
        kind: sgd, or adamw (Loshchilov and Hutter 2019), whose first moment decays by `momentum`.
        head: the name of the layer that steps `head_rate` times as fast as all others, if any.
        step_lr, adapter_lr: rates of the quantizers' steps, thresholds and offsets, and of adapters, in units of `lr`.
    """
    rates = {id(p): step_lr for q in quantizers(model) for p in q.parameters(recurse=False)}
    rates |= {id(p): adapter_lr for m in model.modules() if isinstance(m, Adapter) for p in m.parameters()}
    if head is not None:
        rates |= {id(p): head_rate for p in model.get_submodule(head).parameters()}
    groups = [
        {**group, "params": [p for p in group["params"] if rates.get(id(p), 1.0) == rate], RATE: rate}
        for group in parameter_groups(model, weight_decay)
        for rate in dict.fromkeys(rates.get(id(p), 1.0) for p in group["params"])
    ]
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, SECOND_MOMENT_DECAY))
    # In lists on a CPU, too: a quantized network has hundreds of small parameters, and each call of PyTorch costs.
    if not all(p.is_cuda for p in model.parameters()):
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, foreach=True)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    optimizer.register_step_pre_hook(give_momenta)
    for group in optimizer.param_groups:  # tensors, which a recorded update reads anew each time
        group["lr"] = torch.tensor(lr, dtype=torch.float32, device=group["params"][0].device)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of an optimizer of `make_optimizer`, in which each group has its share."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr * group[RATE])
        else:
            group["lr"] = lr * group[RATE]


def rates_are_tensors(optimizer: torch.optim.Optimizer) -> bool:
    """Are the rates of all groups tensors, so that a recorded update may have another rate each time?"""
    return all(isinstance(group["lr"], Tensor) for group in optimizer.param_groups)


def give_momenta(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Give each parameter with a gradient a momentum: PyTorch's fused form takes all of a group or none.

    In a network that skips layers some have their first gradient later than others.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is not None and "momentum_buffer" not in (state := optimizer.state[parameter]):
                state["momentum_buffer"] = torch.zeros_like(parameter)


def learning_rate(lr: float, step: int, steps: int, *, ramp_steps: int = 0) -> float:
    """Return the learning rate of a step: from `lr` to 0 along half a cosine, without restarts.

    In the first `ramp_steps` the rate is also multiplied by a factor that rises in equal parts to 1.

    >>> learning_rate(0.1, 5, 10)
    0.05
    >>> learning_rate(0.1, 0, 10, ramp_steps=4)
    0.025
    """
    rising = min(1.0, (step + 1) / ramp_steps) if ramp_steps else 1.0
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps)) * rising


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return what the optimizer keeps of each parameter: by the kind of tensor, then by the parameter's name.

    SGD keeps a `momentum_buffer`; AdamW `exp_avg`, `exp_avg_sq` and `step`, the updates so far. A parameter without a
    gradient has none.
    """
    state: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        for kind, tensor in optimizer.state.get(parameter, {}).items():
            if tensor is not None:
                state.setdefault(kind, {})[name] = tensor
    return state


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, dict[str, Tensor]]) -> None:
    """Give the optimizer what `optimizer_state` returned."""
    parameters = dict(model.named_parameters())
    for kind, tensors in state.items():
        for name, tensor in tensors.items():
            # PyTorch's AdamW counts its updates on the CPU.
            device = "cpu" if kind == UPDATES else parameters[name].device
            optimizer.state[parameters[name]][kind] = tensor.to(device)
