"""The modules that hold a layer's weight quantizer: uniform, or by a level set."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from asqcli.quant.bounds import integer_bounds
from asqcli.quant.fake_quant import (
    fake_quantize,
    fake_quantize_to_levels,
    gradient_scale,
    nearest_level,
    quantize,
    quantize_to_levels,
)
from asqcli.quant.levels import DEFAULT_GRID, LevelSet, apot_levels, post_levels, pot_levels, uniform_level_table
from asqcli.quant.step_size import SMALLEST_STEP, least_squares_start, lsq_start

START_SAMPLES, START_SAMPLES_PER_ROW = 2**16, 2**10


class WeightQuantizer(nn.Module, ABC):
    """What both weight quantizers promise.

    Weights of shape (C_out, ..) share one scale parameter per output channel, or one per tensor.
    """

    code_bits: int
    level_table: tuple[float, ...]

    def __init__(self, channels: int, *, per_channel: bool) -> None:
        super().__init__()
        self.per_channel = per_channel
        self.scale_parameter_shape = (channels if per_channel else 1,)

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Return the fake-quantized weight, shape of `weight`, real units."""

    @abstractmethod
    def to_levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels (table entries, shape of `weight`) and weight_scale ((C_out,) or (1,), real units)."""

    @abstractmethod
    def nearest_level(self, levels: Tensor) -> Tensor:
        """Return the entry of the level table nearest to each value, which is in units of the table."""

    @abstractmethod
    def start(self, weight: Tensor, method: str) -> None:
        """Set the scale parameter from the weights; `method` is "mse" or "lsq"."""

    @torch.no_grad()
    def project(self) -> None:
        """Bring the scale parameter back above 0; call after each optimizer step."""
        for parameter in self.parameters(recurse=False):
            parameter.clamp_(min=SMALLEST_STEP)

    @property
    def integer(self) -> bool:
        """Are all levels integers, so that an integer engine can run them?"""
        return True

    def _sampled_rows(self, weight: Tensor) -> Tensor:
        """Return `_rows`, long ones sampled at the same places for every call: enough for a start."""
        rows = self._rows(weight)
        count = max(START_SAMPLES // rows.shape[0], START_SAMPLES_PER_ROW)
        if rows.shape[1] <= count:
            return rows
        return rows[:, torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:count]]

    def _rows(self, weight: Tensor) -> Tensor:
        """View the weights that share a scale parameter as the rows of a matrix."""
        return weight.reshape(self.scale_parameter_shape[0], -1)

    @staticmethod
    def _over_channels(parameter: Tensor, weight: Tensor) -> Tensor:
        """Shape a (C_out,) or (1,) parameter so that it broadcasts over `weight`."""
        return parameter.reshape(-1, *[1] * (weight.dim() - 1))


class UniformWeightQuantizer(WeightQuantizer):
    """LSQ weights: whole numbers of a learned step size, in two's complement.

    Args:
        channels: C_out.
        bits: 2 to 8.
        per_channel: one step size per output channel, or one for all.
    """

    def __init__(self, channels: int, *, bits: int, per_channel: bool = True) -> None:
        super().__init__(channels, per_channel=per_channel)
        self.qmin, self.qmax = integer_bounds(bits, signed=True)
        self.code_bits, self.level_table = bits, uniform_level_table(bits)
        self.step_size = nn.Parameter(torch.ones(self.scale_parameter_shape))

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(
            weight,
            self._over_channels(self.step_size, weight),
            qmin=self.qmin,
            qmax=self.qmax,
            step_gradient_scale=gradient_scale(self._rows(weight).shape[1], self.qmax),
        )

    def to_levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        step_size = self._over_channels(self.step_size, weight)
        return quantize(weight, step_size, qmin=self.qmin, qmax=self.qmax), self.step_size

    def nearest_level(self, levels: Tensor) -> Tensor:
        return levels.round().clamp(self.qmin, self.qmax)

    @torch.no_grad()
    def start(self, weight: Tensor, method: str) -> None:
        rows = self._sampled_rows(weight)
        if method == "lsq":
            self.step_size.copy_(lsq_start(rows, self.qmax))
            return
        # The negative bound is one step wider, so the range that a threshold can mean is taken from it.
        threshold = least_squares_start(
            rows, lambda x, t: fake_quantize(x, t / -self.qmin, qmin=self.qmin, qmax=self.qmax)
        )
        self.step_size.copy_(threshold / -self.qmin)


class LevelWeightQuantizer(WeightQuantizer):
    """POST, POT or APoT weights: entries of a level table times a learned clipping threshold.

    Args:
        channels: C_out.
        level_set: the levels.
        per_channel: one threshold per output channel, or one for all.
        normalize: subtract the mean of the layer's weights and divide by their standard deviation first (APoT's
            weight normalisation).
    """

    def __init__(
        self, channels: int, *, level_set: LevelSet, per_channel: bool = True, normalize: bool = False
    ) -> None:
        super().__init__(channels, per_channel=per_channel)
        self.level_set, self.normalize = level_set, normalize
        self.code_bits, self.level_table = level_set.code_bits, level_set.level_table
        self.clipping_threshold = nn.Parameter(torch.ones(self.scale_parameter_shape))

    def forward(self, weight: Tensor) -> Tensor:
        weight = self._normalized(weight)
        return fake_quantize_to_levels(
            weight,
            self._over_channels(self.clipping_threshold, weight),
            self.level_set,
            threshold_gradient_scale=gradient_scale(self._rows(weight).shape[1], len(self.level_set.magnitudes)),
        )

    def to_levels(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        weight = self._normalized(weight)
        threshold = self._over_channels(self.clipping_threshold, weight)
        levels, scale = quantize_to_levels(weight, threshold, self.level_set)
        return levels, scale.flatten()

    def nearest_level(self, levels: Tensor) -> Tensor:
        return nearest_level(levels, self.level_set)

    @torch.no_grad()
    def start(self, weight: Tensor, method: str) -> None:
        # LSQ's rule is made for uniform steps; a threshold always starts at the least squared error.
        rows = self._sampled_rows(self._normalized(weight))
        self.clipping_threshold.copy_(
            least_squares_start(rows, lambda x, t: fake_quantize_to_levels(x, t, self.level_set))
        )

    @property
    def integer(self) -> bool:
        return self.level_set.integer

    def _normalized(self, weight: Tensor) -> Tensor:
        return (weight - weight.mean()) / weight.std() if self.normalize else weight


def make_weight_quantizer(
    channels: int,
    *,
    quantizer: str,
    bits: int,
    per: str = "channel",
    grid: str = DEFAULT_GRID,
    levels: str = "codes",
    normalize: bool = False,
) -> WeightQuantizer:
    """Return the weight quantizer that a recipe's `weights` section describes."""
    per_channel = per == "channel"
    if quantizer == "lsq":
        return UniformWeightQuantizer(channels, bits=bits, per_channel=per_channel)
    printed = levels == "printed"
    level_set = {
        "post": lambda: post_levels(bits, grid=grid, printed=printed),
        "pot": lambda: pot_levels(bits, printed=printed),
        "apot": lambda: apot_levels(bits),
    }[quantizer]()
    return LevelWeightQuantizer(channels, level_set=level_set, per_channel=per_channel, normalize=normalize)
