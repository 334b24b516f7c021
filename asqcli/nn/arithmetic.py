"""Between the quantized layers, evaluation computes what the integer engine computes.

Pools and gates are often functions that a network calls, not modules that could be swapped. So while a prepared network
evaluates, a function mode puts the exact forms of `asqcli.quant.ordered` in the place of torch's, for modules and
functions alike. In training nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from asqcli.fixed_arithmetic import SIXTH
from asqcli.quant.ordered import ordered_adaptive_avg_pool, ordered_avg_pool, ordered_sigmoid


def _adaptive_avg_pool2d(input: Tensor, output_size) -> Tensor:
    height, width = _pair(output_size)
    return ordered_adaptive_avg_pool(input, (height or input.shape[2], width or input.shape[3]))


def _avg_pool2d(
    input: Tensor,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    if ceil_mode or divisor_override is not None:  # the exporter refuses these
        return None
    kernel_size = _pair(kernel_size)
    stride = kernel_size if stride is None or stride == [] else _pair(stride)
    return ordered_avg_pool(input, kernel_size, stride, _pair(padding), count_include_pad=count_include_pad)


def _mean(input: Tensor, dim=None, keepdim: bool = False, **others) -> Tensor | None:
    dims = {d % input.dim() for d in ((dim,) if isinstance(dim, int) else dim or ())}
    if input.dim() != 4 or dims != {2, 3} or others:
        return None
    pooled = ordered_adaptive_avg_pool(input, (1, 1))
    return pooled if keepdim else pooled.flatten(1)


def _sigmoid(input: Tensor) -> Tensor:
    return ordered_sigmoid(input)


def _silu(input: Tensor, inplace: bool = False) -> Tensor:
    return _in_place(input, input * ordered_sigmoid(input), inplace)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return _in_place(input, (input + 3.0).clamp(0.0, 6.0) * SIXTH, inplace)


def _hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    return _in_place(input, input * ((input + 3.0).clamp(0.0, 6.0) * SIXTH), inplace)


def _in_place(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    return input.copy_(result) if inplace else result


# Each returns None where it has no exact form of a call.
EXACT = {
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.avg_pool2d: _avg_pool2d,
    torch.mean: _mean,
    Tensor.mean: _mean,
    torch.sigmoid: _sigmoid,
    Tensor.sigmoid: _sigmoid,
    F.sigmoid: _sigmoid,
    F.silu: _silu,
    F.hardsigmoid: _hardsigmoid,
    F.hardswish: _hardswish,
}


_ASIDE = ContextVar("_ASIDE", default=False)


@contextmanager
def torchs_own_arithmetic() -> Iterator[None]:
    """Let prepared networks evaluate with torch's functions: for who looks at the functions, not at the values."""
    token = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(token)


class ExactArithmetic(TorchFunctionMode):
    """While entered, the functions in `EXACT` compute what the integer engine does, on float32 tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        exact = EXACT.get(func)
        if exact is not None and args and getattr(args[0], "dtype", None) == torch.float32:
            with torch._C.DisableTorchFunction():
                result = exact(*args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


class _EnterInEvaluation:
    """Forward hooks that enter the mode around each evaluation of a network, nested ones included."""

    def __init__(self) -> None:
        self.entered: list[ExactArithmetic | None] = []

    def before(self, module: nn.Module, _) -> None:
        mode = None if module.training or _ASIDE.get() else ExactArithmetic()
        self.entered.append(mode)
        if mode is not None:
            mode.__enter__()

    def after(self, *_) -> None:
        mode = self.entered.pop()
        if mode is not None:
            mode.__exit__(None, None, None)


def evaluate_exactly(model: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
    """Make `model` evaluate in the engine's arithmetic from now on, its own hooks included; in place."""
    hooks = _EnterInEvaluation()
    first = model.register_forward_pre_hook(hooks.before, prepend=True)
    return first, model.register_forward_hook(hooks.after, always_call=True)
