"""While a prepared network evaluates, its pools and gates compute in fixed arithmetic, as the integer engine does.

Pools and gates are often functions that a network calls, not modules that could be swapped. So a function mode puts
`asqcli.arithmetic.formulas` in the place of torch's functions, for modules and functions alike. In training nothing
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from asqcli.arithmetic import formulas
from asqcli.arithmetic.windows import reaches_beyond

Side = TypeVar("Side", bound=int | None)


def pair(sides: Side | Iterable[Side]) -> tuple[Side, Side]:
    """Return what torch takes for both sides at once, also as a list of one, or for each, as (down, across)."""
    given = tuple(sides) if isinstance(sides, Iterable) else (sides,)
    down, across = given * 2 if len(given) == 1 else given
    return down, across


def _adaptive_avg_pool2d(input: Tensor, output_size: int | Sequence[int | None] | None) -> Tensor:
    height, width = pair(output_size)
    return formulas.adaptive_avg_pool(torch, input, (height or input.shape[2], width or input.shape[3]))


def _avg_pool2d(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    kernel_size, border = pair(kernel_size), pair(padding)
    stride = kernel_size if stride is None or stride == [] else pair(stride)
    beyond = ceil_mode and reaches_beyond(input.shape[2:], kernel_size, stride, border)
    if beyond or divisor_override is not None:  # the exporter refuses these
        return None
    padded = F.pad(input, (border[1], border[1], border[0], border[0])) if any(border) else input
    return formulas.avg_pool(torch, padded, kernel_size, stride, border, count_include_pad=count_include_pad)


def _mean(input: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **others: Any) -> Tensor | None:
    dims = {d % input.dim() for d in ((dim,) if isinstance(dim, int) else dim or ())}
    if input.dim() != 4 or dims != {2, 3} or others:
        return None
    pooled = formulas.adaptive_avg_pool(torch, input, (1, 1))
    return pooled if keepdim else pooled.flatten(1)


def _gate(formula: Callable[[ModuleType, Tensor], Tensor]) -> Callable[..., Tensor]:
    def gate(input: Tensor, inplace: bool = False) -> Tensor:
        result = formula(torch, input)
        return input.copy_(result) if inplace else result

    return gate


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:
    return (formulas.gelu_tanh if approximate == "tanh" else formulas.gelu)(torch, input)


# Each returns None where it has no fixed form of a call.
FIXED: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.avg_pool2d: _avg_pool2d,
    torch.mean: _mean,
    Tensor.mean: _mean,
    torch.sigmoid: _gate(formulas.sigmoid),
    Tensor.sigmoid: _gate(formulas.sigmoid),
    F.sigmoid: _gate(formulas.sigmoid),
    F.silu: _gate(formulas.silu),
    F.hardsigmoid: _gate(formulas.hardsigmoid),
    F.hardswish: _gate(formulas.hardswish),
    F.gelu: _gelu,
}


_ASIDE = ContextVar("_ASIDE", default=False)


@contextmanager
def torchs_own_arithmetic() -> Generator[None]:
    """Let prepared networks evaluate with torch's functions: for who looks at the functions, not at the values."""
    token = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(token)


class FixedArithmetic(TorchFunctionMode):
    """While entered, the functions in `FIXED` compute in fixed arithmetic, on float32 tensors."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        fixed = FIXED.get(func)
        if fixed is not None and args and getattr(args[0], "dtype", None) == torch.float32:
            with torch.DisableTorchFunction():
                result = fixed(*args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


class _EnterInEvaluation:
    """Forward hooks that enter the mode around each evaluation of a network, nested ones included."""

    def __init__(self) -> None:
        self.entered: list[FixedArithmetic | None] = []

    def before(self, module: nn.Module, _: object) -> None:
        mode = None if module.training or _ASIDE.get() else FixedArithmetic()
        self.entered.append(mode)
        if mode is not None:
            mode.__enter__()

    def after(self, *_: object) -> None:
        mode = self.entered.pop()
        if mode is not None:
            mode.__exit__(None, None, None)


def evaluate_in_fixed_arithmetic(model: nn.Module) -> tuple[RemovableHandle, RemovableHandle]:
    """Make `model` evaluate in fixed arithmetic from now on, its own hooks included; in place."""
    hooks = _EnterInEvaluation()
    first = model.register_forward_pre_hook(hooks.before, prepend=True)
    return first, model.register_forward_hook(hooks.after, always_call=True)
