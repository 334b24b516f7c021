"""The ASQ adapter: what a quantizer's input looks like, to a factor on its step size (Eq. 4)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asqcli.arithmetic import formulas
from asqcli.quant.kernels import dispatch
from asqcli.quant.kernels.eager import row_scale
from asqcli.quant.rounding import quantize
from asqcli.quant.spec import AdapterSpec

WEIGHT_QMAX = 127
SMALLEST_WEIGHT_STEP = torch.finfo(torch.float32).tiny * 2**24  # of a row of zeros


class Adapter(nn.Module):
    """Global average pool, Linear, ReLU, Linear: one beta per sample, above 0, near 1 before training.

    Departs from the paper: its last ReLU, clamped at 1e-8, can die and stay dead; here beta = 1 + t for t >= 0 and
    1 / (1 - t) below, which is smooth, positive, never without gradient, and made of exactly rounded operations.
    `output="relu"` gives the paper's form.

    In evaluation the pool and the linear layers are computed in fixed arithmetic, so that a sample's beta does not
    depend on its batch. Weights are rounded to 8 bits, a scale per row, in training too.

    Args:
        channels: of the input.
        spec: hidden units, bits of the weights, form of the output.
        channels_last: is the channel dimension of the input the last one (Linear) or the second (Conv2d)?
    """

    def __init__(self, channels: int, spec: AdapterSpec, *, channels_last: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(spec.widths(channels)))
        self.spec, self.channels_last = spec, channels_last
        last = self.linears[-1]
        # Near 0 but not at 0: at 0 the hidden layer would get no gradient in the first step.
        nn.init.normal_(last.weight, std=0.01 / channels**0.5)
        nn.init.constant_(last.bias, 1.0 if spec.output == "relu" else 0.0)

    @property
    def linears(self) -> list[nn.Linear]:
        """Its layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Return beta, (N, 1, .., 1) with as many dimensions as `x`, float32.

        Args:
            x: (N, C, H, W), or (N, .., C) when `channels_last`; real units.
        """
        t = self._train_output(x) if self.training else self._eval_output(x)
        return formulas.beta(torch, t, self.spec.output).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))

    def _train_output(self, x: Tensor) -> Tensor:
        channel_dim = x.dim() - 1 if self.channels_last else 1
        pooled_dims = [d for d in range(1, x.dim()) if d != channel_dim]
        # Not x.mean(): its backward writes a tensor of the size of x, that of a sum does not.
        hidden = x.sum(dim=pooled_dims) / math.prod(x.shape[d] for d in pooled_dims) if pooled_dims else x
        for index, (weight, bias) in enumerate(self.layers_in_training()):
            if index:
                hidden = F.relu(hidden)
            hidden = F.linear(hidden, weight, bias)
        return hidden

    def layers_in_training(self) -> list[tuple[Tensor, Tensor]]:
        """Return (fake-quantized weight, bias) of each layer, real units; the gradient of the weight by STE."""
        as_float = self.spec.bits == "float"
        return [(layer.weight if as_float else _RoundRows.apply(layer.weight), layer.bias) for layer in self.linears]

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the weight of a layer as training multiplies by it, real units, without its gradient."""
        return weight if self.spec.bits == "float" else _round_rows(weight)

    def _eval_output(self, x: Tensor) -> Tensor:
        if not self.channels_last:
            x = x.movedim(1, -1).contiguous()
        layers = [(*self.integer_weight(layer), layer.bias) for layer in self.linears]
        in_double = [(weight.double(), scale.double(), bias.double()) for weight, scale, bias in layers]
        return formulas.adapter(torch, formulas.mean(torch, x), in_double)

    def extra_repr(self) -> str:
        return str(self.spec)

    def integer_weight(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return (whole numbers in -127..127, scale of each row); with float weights, themselves and 1."""
        if self.spec.bits == "float":
            return layer.weight, torch.ones_like(layer.bias)
        scale = row_scale(layer.weight, WEIGHT_QMAX, SMALLEST_WEIGHT_STEP)
        return quantize(layer.weight, scale, qmin=-WEIGHT_QMAX, qmax=WEIGHT_QMAX), scale.squeeze(1)


def _round_rows(weight: Tensor) -> Tensor:
    return dispatch.round_rows(weight, WEIGHT_QMAX, SMALLEST_WEIGHT_STEP)


class _RoundRows(torch.autograd.Function):
    """Weights, (outputs, inputs), in whole steps of their row. None is clipped: the step is made for the largest."""

    @staticmethod
    def forward(_ctx: Any, weight: Tensor) -> Tensor:
        return _round_rows(weight)

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # one result, one gradient
        return grad
