"""The product of a convolution, in codes, whose input needs no gradient: the first of a network, of images.

Its step size s needs one all the same. By Eq. 7 that is made of the input's, which is a convolution in the other
direction; to the three channels of an image that takes a GPU a fifth of a step of ResNet-18. With codes c, levels l,
dy the gradient of the product c * l, and t = c - x/s where x/s lies inside the bounds, c elsewhere:

    ds = 1/s <l^T dy, t> = 1/s <dy, t * l> = 1/s <dl', l>        dl' = the gradient of levels by which t is multiplied

so that it costs another gradient of the weights, which is made along with theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.nn.geometry import Geometry
from asqcli.quant.activation_quantizers import ActivationQuantizer, StepSizeQuantizer
from asqcli.quant.fake_quant import gradient_scale
from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels import dispatch
from asqcli.quant.kernels.grid import UniformGrid, bounds


def fits(x: Tensor, quantizer: ActivationQuantizer, geometry: Geometry) -> bool:
    """Are these gradients all that a product of `x` needs, and can they be had so?"""
    one_step = isinstance(quantizer, StepSizeQuantizer) and quantizer.adapter is None
    return one_step and x.dim() == 4 and not x.requires_grad and not isinstance(geometry.padding, str)


def product(x: Tensor, quantizer: ActivationQuantizer, levels: Tensor, geometry: Geometry) -> Tensor:
    """Return the product of the codes of `x` and of `levels`, where it `fits`; with gradients of levels and step size.

    Args:
        x: (N, C, H, W), real units.
        levels: (C_out, C / groups, K_h, K_w), of a type that the codes have, too.
    """
    qmin, qmax, step_size = quantizer.integer_form()
    return _Product.apply(
        step_size, levels, x, UniformGrid(qmin, qmax), gradient_scale(x.shape[1:].numel(), qmax), geometry
    )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        step_size: Tensor,
        levels: Tensor,
        x: Tensor,
        grid: UniformGrid,
        factor: float,
        geometry: Geometry,
    ) -> Tensor:
        codes = dispatch.codes(x, step_size, grid, levels.dtype)
        ctx.save_for_backward(step_size, levels, x)
        ctx.grid, ctx.factor, ctx.geometry = grid, factor, geometry
        return F.conv2d(codes, levels, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        step_size, levels, x = saved
        codes = dispatch.codes(x, step_size, ctx.grid, levels.dtype)
        if not ctx.needs_input_grad[0]:
            return None, _of_levels(grad, codes, levels, ctx.geometry), *[None] * 4
        v = x.float() * (1.0 / step_size)
        inside = torch.ops.aten.hardtanh_backward(v, v, *bounds(ctx.grid))  # v, 0 where clipped
        t = (codes - inside).to(torch.bfloat16).to(levels.dtype)
        if ctx.geometry.groups == 1:
            both = _of_levels(grad, torch.cat([codes, t], dim=1), torch.cat([levels, levels], dim=1), ctx.geometry)
            of_levels, of_t = both.chunk(2, dim=1)
        else:
            of_levels, of_t = (_of_levels(grad, operand, levels, ctx.geometry) for operand in (codes, t))
        of_step = (of_t.float() * levels).sum() / step_size * ctx.factor
        return of_step, of_levels, *[None] * 4


def _of_levels(grad: Tensor, operand: Tensor, levels: Tensor, geometry: Geometry) -> Tensor:
    """Return the gradient of levels that an operand was multiplied by."""
    _, of_levels, _ = torch.ops.aten.convolution_backward(
        grad, operand, levels, None, geometry.stride, geometry.padding, geometry.dilation, False, [0, 0],
        geometry.groups, [False, True, False],
    )  # fmt: skip
    return of_levels
