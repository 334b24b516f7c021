"""Hooks after each step of training: a moving average of the weights; freezing of oscillating ones.

Each has a state that checkpoints keep, so that a resumed run goes on with it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from asqcli.models.state import is_extra
from asqcli.nn.prepare import quant_layers
from asqcli.quant.weight_quantizers import WeightQuantizer


class StepHook(Protocol):
    """What the training loop asks of a hook."""

    def after_step(self, model: nn.Module) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...


class WeightAverage:
    """An exponential moving average of all parameters; buffers such as batch-norm statistics are copied.

    The extra state of modules is no part of it: it stays with the model.

    Args:
        model: what to average; its present state is the start.
        decay: share of the old average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in _tensors(model)}

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))  # as in state_dict, under each of its names
        for name, tensor in _tensors(model):
            if name in parameters:
                self.average[name].lerp_(tensor, 1 - self.decay)
            else:
                self.average[name].copy_(tensor)

    def state(self) -> dict[str, Tensor]:
        return self.average

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            self.average[name].copy_(tensor)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in model.state_dict().items() if not is_extra(name)]


class OscillationFreezer:
    """Freezes weights that keep jumping between two levels (Nagel et al. 2022, "Overcoming oscillations").

    A jump counts when its direction is opposite to the weight's last one. A weight whose running frequency of such
    jumps passes `threshold` is held at the rounded running mean of its levels for the rest of the phase.

    Args:
        model: with quantized layers; those with float or normalised weights are passed over.
        threshold: jumps per step.
        momentum: of the running frequency and mean.
    """

    def __init__(self, model: nn.Module, threshold: float, momentum: float = 0.01) -> None:
        self.threshold, self.momentum = threshold, momentum
        self.layers = {
            name: (layer, quantizer)
            for name, layer in quant_layers(model)
            if (quantizer := layer.weight_quantizer) is not None and self._can_hold(quantizer)
        }
        self.tensors: dict[str, Tensor] = {}
        for name, (layer, quantizer) in self.layers.items():
            levels = self._levels(layer.weight, quantizer)
            self.tensors |= {
                f"{name}/levels": levels,
                f"{name}/mean": levels.clone(),
                f"{name}/direction": torch.zeros_like(levels),
                f"{name}/frequency": torch.zeros_like(levels),
                f"{name}/frozen": torch.zeros_like(levels, dtype=torch.bool),
            }

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        for name, (layer, quantizer) in self.layers.items():
            levels, mean, direction, frequency, frozen = (
                self.tensors[f"{name}/{part}"] for part in ("levels", "mean", "direction", "frequency", "frozen")
            )
            now, scale = quantizer.to_levels(layer.weight)
            now = torch.where(frozen, levels, now)  # the optimizer moves what is held, too
            jump = (now - levels).sign()
            oscillated = (jump != 0) & (jump == -direction)
            direction.copy_(torch.where(jump != 0, jump, direction))
            frequency.lerp_(oscillated.to(frequency.dtype), self.momentum)
            mean.lerp_(now, self.momentum)
            begin = ~frozen & (frequency > self.threshold)
            levels.copy_(torch.where(begin, quantizer.nearest_level(mean), now))
            frozen |= begin
            real = levels * scale.reshape(-1, *[1] * (levels.dim() - 1))
            layer.weight.copy_(torch.where(frozen, real, layer.weight))

    def state(self) -> dict[str, Tensor]:
        return self.tensors

    def load_state(self, state: dict[str, Tensor]) -> None:
        for name, tensor in state.items():
            self.tensors[name].copy_(tensor)

    @staticmethod
    def _can_hold(quantizer: WeightQuantizer) -> bool:
        """With APoT's normalisation a level is no fixed value of its weight."""
        return not getattr(quantizer, "normalize", False)

    @staticmethod
    @torch.no_grad()
    def _levels(weight: Tensor, quantizer: WeightQuantizer) -> Tensor:
        return quantizer.to_levels(weight)[0].clone()
