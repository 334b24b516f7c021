"""The product of a convolution in training.

A forward in floats multiplies values that were codes times a step a moment before, and moves four bytes for each. Where
that is faster, the codes and levels themselves are multiplied, exactly, and the sums scaled after, as in evaluation and
in the engine. The gradients are those of the float product either way, of activations that are rounded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asqcli.engine.native.batch import Convolution, convolve
from asqcli.engine.native.bindings import LAYOUT_PIXELS
from asqcli.engine.native.layout import Layout
from asqcli.nn.geometry import Geometry
from asqcli.nn.products import depthwise, winograd
from asqcli.quant.activation_quantizers import StepSizeQuantizer
from asqcli.quant.fake_quant import STAND_IN, VALUES, compute_again
from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels.grid import UniformGrid
from asqcli.quant.kernels.native import takes, threads_of_torch
from asqcli.quant.weight_quantizers import WeightQuantizer

# How a forward multiplies: whole numbers by the depthwise pass or the engine's kernels, or floats by PyTorch.
DEPTHWISE, ENGINE, FLOATS = "depthwise", "engine", "floats"


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation_quantizer: object,
    weight_quantizer: WeightQuantizer | None,
) -> Tensor | None:
    """Return the convolution of the quantized operands, with gradients; None where PyTorch's has to do, or is faster.

    Args:
        x: (N, C, H, W), real units.
        weight: (C_out, C / groups, K_h, K_w), real units.
        activation_quantizer: of `x`, in training.
    """
    if weight_quantizer is None or not isinstance(activation_quantizer, StepSizeQuantizer):
        return None
    if not activation_quantizer.leaves_rounding(x):
        return None
    scales = activation_quantizer.scale_parameter, weight_quantizer.scale_parameter
    over_channels = [tensor for tensor in (bias, *scales) if tensor is not None]
    if not all(takes(tensor) for tensor in (x, weight, *over_channels)):
        return None
    if not all(tensor.is_contiguous() for tensor in over_channels):
        return None
    qmin, qmax, _ = activation_quantizer.integer_form()
    largest_level = int(weight_quantizer.largest_level) if weight_quantizer.integer else 0
    convolution = _convolution(x, weight, geometry, qmin, qmax, largest_level)
    if convolution is None:
        return None
    form = _form(convolution, whole=weight_quantizer.integer, images=len(x))
    if form is None:
        return None
    x_hat, scale = activation_quantizer.fake_quantize(x, result=VALUES if form == FLOATS else STAND_IN)
    rounded, weight_scale = weight_quantizer(weight), weight_quantizer.scale
    return _Product.apply(x_hat, rounded, bias, x.detach(), scale.detach(), weight_scale.detach(), convolution, form)


def _form(convolution: Convolution, *, whole: bool, images: int) -> str | None:
    """Return how to multiply; None where PyTorch does, and has the gradients, too.

    Args:
        whole: are the levels whole numbers?
    """
    if whole and depthwise.fits(convolution):
        return DEPTHWISE
    if whole and convolution.gains:
        return ENGINE
    return FLOATS if winograd.gain(convolution, images) else None


def _convolution(
    x: Tensor, weight: Tensor, geometry: Geometry, qmin: int, qmax: int, largest_level: int
) -> Convolution | None:
    """Return what the kernels are to compute; None where they cannot."""
    if x.dim() != 4 or weight.dim() != 4:
        return None
    # Of a single channel or pixel both are true, and the network may be one whose channels come first.
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    # Whole images are shared among threads. Those of another OpenMP than GNU's could not take a part.
    threads = torch.get_num_threads()
    if len(x) < threads or (threads > 1 and threads_of_torch() is None):
        return None
    (_, channels, height, width), (outputs, per_group, rows, columns) = x.shape, weight.shape
    if isinstance(geometry.padding, str) or channels != per_group * geometry.groups:
        return None
    layout = Layout(
        LAYOUT_PIXELS, channels, height, width, outputs, geometry.groups, (rows, columns), geometry.dilation,
        (*geometry.padding, *geometry.padding),
    )  # fmt: skip
    convolution = Convolution(layout, geometry.stride, qmin, qmax, largest_level)
    return convolution if convolution.fits else None


class _Product(torch.autograd.Function):
    """The convolution of `x_hat`, which is `x` in whole numbers of `scale`, and `weight`.

    Where whole numbers are multiplied, `x_hat` is a stand-in without values.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_hat: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        x: Tensor,
        scale: Tensor,
        weight_scale: Tensor,
        convolution: Convolution,
        form: str,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, weight)
        ctx.convolution, ctx.form, ctx.with_bias = convolution, form, bias is not None
        if form == DEPTHWISE:
            y = depthwise.convolve(convolution, x, scale, weight, weight_scale)
            return y if bias is None else y.add_(bias.reshape(-1, 1, 1))
        if form == ENGINE:
            return _convolve(convolution, x, scale, weight, weight_scale, bias)
        layout = convolution.layout
        return F.conv2d(x_hat, weight, bias, convolution.stride, layout.padding[:2], layout.dilation, layout.groups)

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, scale, weight = saved
        c: Convolution = ctx.convolution
        of_x, of_weight, of_bias = wanted = ctx.needs_input_grad[:3]
        grads = None
        if takes(grad) and takes(x):  # a hook may have kept x in another form
            if ctx.form == DEPTHWISE:
                grads = depthwise.gradients(c, grad, x, scale, weight)
            elif winograd.gain(c, len(x)):
                grads = winograd.gradients(c, grad, x, scale, weight, of_x=of_x, of_weight=of_weight)
        if grads is not None:
            grads = *grads, grad.sum((0, 2, 3)) if of_bias else None
        else:
            x_hat = compute_again(x, scale, UniformGrid(c.qmin, c.qmax))
            bias_shape = [c.layout.outputs] if ctx.with_bias else None
            grads = torch.ops.aten.convolution_backward(
                grad, x_hat, weight, bias_shape, c.stride, c.layout.padding[:2], c.layout.dilation, False, [0, 0],
                c.layout.groups, wanted,
            )  # fmt: skip
        return *grads, None, None, None, None, None


def _convolve(
    convolution: Convolution, x: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """Return the convolution by the engine's kernels."""
    shape = len(x), convolution.layout.outputs, *convolution.out_shape
    y = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
    in_order = weight.contiguous()
    convolve(
        convolution, x.data_ptr(), (scale.data_ptr(), scale.numel()), in_order.data_ptr(),
        (weight_scale.data_ptr(), weight_scale.numel()), None if bias is None else bias.data_ptr(), y.data_ptr(),
        count=len(x), threads=torch.get_num_threads(), parallel=threads_of_torch(),
    )  # fmt: skip
    return y
