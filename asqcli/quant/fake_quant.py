"""Quantize and dequantize in float, with gradients: to uniform steps, and to level sets.

Both are one autograd function over a grid, each of whose passes over memory is in `asqcli.quant.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler import record_function

from asqcli.arithmetic.division import divided
from asqcli.errors import BoundsError
from asqcli.quant.gradients import Gradients, from_saved
from asqcli.quant.kernels import dispatch
from asqcli.quant.kernels.answers import Answers
from asqcli.quant.kernels.grid import Grid, UniformGrid
from asqcli.quant.levels import LevelSet

COMPUTED_AGAIN = "fake quantizer, again"  # what `computed_again` does in a backward, in a profile


class Codes(NamedTuple):
    """What a product in bfloat16 takes: codes in a type that holds them, whose gradient is rounded to bfloat16."""

    dtype: torch.dtype


# What a fake quantizer returns: values; or a stand-in without any, for whoever makes of its input what is made of them;
# or codes.
VALUES, STAND_IN = "values", "stand-in"
Result = Literal["values", "stand-in"] | Codes


def gradient_scale(elements: int, qmax: int) -> float:
    """Return 1 / sqrt(elements * qmax), which LSQ multiplies step gradients by.

    Args:
        elements: values that share the step; for activations those of one sample, so that neither the batch size nor
            the number of processes changes it.
        qmax: largest code.
    """
    return float(elements * qmax) ** -0.5


def fake_quantize(
    x: Tensor,
    step_size: Tensor,
    beta: Tensor | None = None,
    *,
    qmin: int,
    qmax: int,
    step_gradient_scale: float = 1.0,
    result: Result = VALUES,
) -> Tensor:
    """Round `x` to multiples of `adapted_step_size = step_size * beta`, staying in float.

    Paper: Eqs. 4 and 5; backward by Eqs. 7 to 9. Gradient of x by STE, zero where clipped; of step_size the sum over
    samples of d adapted_step_size * beta, times `step_gradient_scale`; of beta d adapted_step_size * step_size.

    Departs from the paper: dequantizes by the adapted step, whose gradient Eq. 7 is; Eq. 6 multiplies by `step_size`.
    And `-x/s + round(v/s)` of Eq. 7 is read as `-x/s_a + round(x/s_a)`.

    Args:
        x: activations (N, C, H, W) or weights (C_out, C_in, K_h, K_w), real units.
        step_size: () or broadcastable to `x`; real units, above 0.
        beta: None, or (N, 1, 1, 1), one per sample, above 0.
        qmin, qmax: bounds in codes.
        result: what to return of it.
    Returns:
        Shape and dtype of `x`; each value is a whole number of adapted steps. Of codes their type.
    Raises:
        BoundsError: qmin is not below qmax.

    >>> fake_quantize(torch.tensor([0.24, 0.9]), torch.tensor(0.25), qmin=0, qmax=3)
    tensor([0.2500, 0.7500])
    """
    if qmin >= qmax:
        raise BoundsError(f"qmin {qmin} is not below qmax {qmax}")
    grid = UniformGrid(qmin, qmax)
    if beta is None:
        return _FakeQuantize.apply(x, step_size, grid, step_gradient_scale, result)
    return _FakeQuantize.apply(x, _ScaleGradient.apply(step_size, step_gradient_scale) * beta, grid, 1.0, result)


def fake_quantize_adapted(
    x: Tensor,
    step_size: Tensor,
    layers: list[tuple[Tensor, Tensor]],
    round_weight: Callable[[Tensor], Tensor],
    *,
    qmin: int,
    qmax: int,
    step_gradient_scale: float = 1.0,
    channels_last: bool = False,
    result: Result = VALUES,
) -> tuple[Tensor, Tensor]:
    """Return `fake_quantize` of `x` by the beta that an adapter makes of it, and the adapted steps: one function.

    Gradients of `x` are those by STE and those through the adapter together (Eqs. 4 to 9).

    Args:
        x: (N, C, H, W), or (N, .., C) when `channels_last`; where `dispatch.adapts`.
        step_size: ().
        layers: (weight, bias) of the adapter's one or two linear layers; beta is 1 + t, below 0 1 / (1 - t).
        round_weight: to what the adapter multiplies by; its gradient is the weight's, by STE.
        result: as in `fake_quantize`.
    Returns:
        x_hat, or its codes, shape of `x`; and the adapted step sizes, (N, 1, .., 1), without a gradient.
    """
    tensors = (tensor for layer in layers for tensor in layer)
    grid = UniformGrid(qmin, qmax)
    return _AdaptedFakeQuantize.apply(
        x, step_size, grid, step_gradient_scale, channels_last, result, round_weight, *tensors
    )


def fake_quantize_to_levels(
    weight: Tensor,
    clipping_threshold: Tensor,
    level_set: LevelSet,
    *,
    threshold_gradient_scale: float = 1.0,
    result: Result = VALUES,
) -> Tensor:
    """Replace each weight by the nearest level times the threshold, staying in float.

    Paper: Eqs. 3 and 17; the gradient of the threshold is Eq. 7 with the threshold in the step's place:
    q(w/alpha) - w/alpha inside, sign(w) where clipped, times `threshold_gradient_scale`. Gradient of weight by STE,
    zero where clipped.

    Args:
        weight: (C_out, ..), real units.
        clipping_threshold: broadcastable to `weight`, one value per channel or per tensor; real units, above 0.
        result: as in `fake_quantize`; codes are levels, and must be whole numbers.

    >>> from asqcli.quant.levels import pot_levels
    >>> fake_quantize_to_levels(torch.tensor([0.9, -0.3, 5.0]), torch.tensor(1.0), pot_levels(3))
    tensor([ 1.0000, -0.2500,  1.0000])
    """
    scale = divided(clipping_threshold, level_set.largest)
    return _FakeQuantize.apply(weight, scale, level_set, threshold_gradient_scale, result)


@contextmanager
def computed_again(x_hat: Tensor) -> Generator[None]:
    """Let what saves a fake-quantized `x_hat` for its backward meanwhile compute it again there instead of keeping it.

    What it was made from is kept in any case, and is often the result of a ReLU that keeps it, too: a layer then holds
    as many values as a float one. The price is one more pass.
    """
    node: Any = x_hat.grad_fn
    if getattr(node, "_forward_cls", None) not in (_FakeQuantize, _AdaptedFakeQuantize) or _others_decide():
        yield
        return
    x, scale = (saved.detach() for saved in node.saved_tensors[:2])
    grid = node.grid
    place = _place(x_hat)

    def keep(saved: Tensor) -> Tensor | None:
        return None if _place(saved) == place else saved

    def give_back(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        return compute_again(x, scale, grid)

    with saved_tensors_hooks(keep, give_back):
        yield


def compute_again(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """Return `x` in whole numbers of the scale in a backward, under a name of its own in a profile."""
    with _named(COMPUTED_AGAIN):
        return dispatch.fake_quantize(x, scale, grid)


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Return where in memory a tensor lies, and how."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _named(name: str) -> AbstractContextManager[object]:
    """Return the context that has a name in a profile; the name alone takes longer than a small tensor's pass."""
    profiled = torch._C._autograd._profiler_enabled()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    return record_function(name) if profiled else nullcontext()


def _others_decide() -> bool:
    """Does somebody else say what becomes of what is saved, as activation checkpointing does?

    No public function tells. Where PyTorch has not yet the private one, everything is kept.
    """
    top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    try:
        return top_hooks is None or top_hooks(True) is not None
    except TypeError:  # it took no argument at first
        return True


class _FakeQuantize(torch.autograd.Function):
    """`x` to the nearest codes of a grid, times `scale`; gradients by STE, and by Eq. 7 times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, grid: Grid, scale_gradient_factor: float, result: Result) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.grid, ctx.factor, ctx.result = grid, scale_gradient_factor, result
        if isinstance(result, Codes):
            return dispatch.codes(x, scale, grid, result.dtype)
        return dispatch.fake_quantize(x, scale, grid) if result == VALUES else _stand_in(x)

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor) -> Gradients:
        x, scale = saved
        of_codes = isinstance(ctx.result, Codes)
        backward = dispatch.codes_backward if of_codes else dispatch.fake_quantize_backward
        grad_x, grad_scale = backward(grad, x, scale, ctx.grid)
        return grad_x, grad_scale * ctx.factor, None, None, None


class _AdaptedFakeQuantize(torch.autograd.Function):
    """`x` to whole numbers of the step that its adapter adapts to it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step_size: Tensor,
        grid: Grid,
        factor: float,
        channels_last: bool,
        result: Result,
        round_weight: Callable[[Tensor], Tensor],
        *layers: Tensor,
    ) -> tuple[Tensor, Tensor]:
        layers = tuple(tensor if index % 2 else round_weight(tensor) for index, tensor in enumerate(layers))
        pairs = _in_pairs(layers)
        given = x, step_size, pairs, grid
        if isinstance(result, Codes):
            x_hat, answers = dispatch.adapted_codes(*given, result.dtype, channels_last=channels_last)
        elif result == VALUES:
            x_hat, answers = dispatch.adapted_fake_quantize(*given, channels_last=channels_last)
        else:
            x_hat, answers = _stand_in(x), dispatch.adapt(*given, channels_last=channels_last)
        ctx.save_for_backward(x, *answers, step_size, *layers)
        ctx.grid, ctx.factor, ctx.channels_last, ctx.result = grid, factor, channels_last, result
        ctx.mark_non_differentiable(answers.scale)
        ctx.set_materialize_grads(False)
        return x_hat, answers.scale

    @staticmethod
    @from_saved
    def backward(ctx: Any, saved: Sequence[Any], grad: Tensor, _: None) -> Gradients:
        x, *answers = saved
        answers, (step_size, *layers) = Answers(*answers[:4]), answers[4:]
        of_codes = isinstance(ctx.result, Codes)
        grad_x, grad_step_size, grad_layers = dispatch.adapted_fake_quantize_backward(
            grad, x, step_size, _in_pairs(layers), answers, ctx.grid, channels_last=ctx.channels_last, of_codes=of_codes
        )
        grads = (tensor for layer in grad_layers for tensor in layer)
        return grad_x, grad_step_size * ctx.factor, None, None, None, None, None, *grads


def _stand_in(x: Tensor) -> Tensor:
    """Return a tensor of the shape of `x` that takes no memory, and whose values nobody may read."""
    return x.new_full((1,), torch.nan).expand(x.shape)


def _in_pairs(layers: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(layers[::2], layers[1::2], strict=True))


class _ScaleGradient(torch.autograd.Function):
    """The tensor itself, whose gradient is multiplied by `factor`."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    @from_saved
    def backward(ctx: Any, _: Sequence[Any], grad: Tensor) -> Gradients:
        return grad * ctx.factor, None
