"""Batch norm in training, and as a multiplication and an addition in evaluation.

v = v * g[c]        v = v + b[c]        each rounded to float32, so that an integer engine can do the same
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from asqcli.nn.geometry import Geometry
from asqcli.nn.layers import MixedIn, as_class, quantized_layer
from asqcli.quant.gradients import Gradients, from_saved

Norm = TypeVar("Norm", bound="TwoStepNorm")


class TwoStepNorm(MixedIn):
    """Batch norm that evaluates as a multiplication and an addition, each rounded; mixed into torch's.

    g = gamma / sqrt(variance + eps) and b = beta - mean * g are computed in double and rounded once. They are not
    merged into weights or scales, which would move the rounding.
    """

    if TYPE_CHECKING:
        weight: Tensor | None
        bias: Tensor | None
        running_mean: Tensor | None
        running_var: Tensor | None
        eps: float

    @classmethod
    def from_float(cls: type[Norm], layer: nn.Module) -> Norm:
        """Return a twin of `layer` that shares its parameters, statistics and hooks."""
        return as_class(cls, layer)

    def forward(self, input: Tensor) -> Tensor:
        return quantized_layer(self, input)

    def compute(self, input: Tensor, *_: Geometry) -> Tensor:
        """Return the normalised input."""
        if self.training or self.running_mean is None:
            return self.compute_in_float(input)
        return _ByStatistics.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.eps, *self.multiplier_and_addend()
        )

    def compute_in_bfloat16(self, input: Tensor, _dtype: torch.dtype, *_: Geometry) -> Tensor:
        """Return what `compute` does, in the type of the input."""
        if self.training or self.running_mean is None or input.dtype != torch.bfloat16:
            return self.compute(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def compute_in_float(self, input: Tensor) -> Tensor:
        """Return what the float layer gives."""
        return _BatchNorm.forward(self, input)  # pyright: ignore[reportArgumentType]: it is mixed into one

    @torch.no_grad()
    def multiplier_and_addend(self) -> tuple[Tensor, Tensor]:
        """Return (g, b), (C,) each, float32."""
        mean, variance = self.running_mean, self.running_var
        assert mean is not None and variance is not None
        gamma = 1.0 if self.weight is None else self.weight.double()
        g = gamma / (variance.double() + self.eps).sqrt()
        b = -mean.double() * g
        if self.bias is not None:
            b = b + self.bias.double()
        return g.float(), b.float()


class _ByStatistics(torch.autograd.Function):
    """`x * g + b` by given statistics, with PyTorch's backward: that of a product and a sum would be four passes."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        _bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        g: Tensor,
        b: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        pixels = [1] * (x.dim() - 2)
        return x.mul(g.reshape(-1, *pixels)).add_(b.reshape(-1, *pixels))

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], gradient: Tensor) -> Gradients:
        x, weight, mean, variance = saved
        grads = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, list(ctx.needs_input_grad[:3])
        )
        return *grads, *[None] * 5


class TwoStepBatchNorm1d(TwoStepNorm, nn.BatchNorm1d):
    """Of features, (N, C), or of lines, (N, C, length)."""


class TwoStepBatchNorm2d(TwoStepNorm, nn.BatchNorm2d):
    """Of images, (N, C, H, W)."""


def two_step_kind(norm: type[nn.Module]) -> type[TwoStepNorm]:
    """Return the class of a batch norm's twin, or what the class of a derived one's twin is made with."""
    kinds = {nn.BatchNorm1d: TwoStepBatchNorm1d, nn.BatchNorm2d: TwoStepBatchNorm2d}
    return next((kind for base, kind in kinds.items() if issubclass(norm, base)), TwoStepNorm)
