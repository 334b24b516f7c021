"""While a prepared network evaluates, its pools and gates compute in fixed arithmetic, as the integer engine does.

Pools and gates are often functions that a network calls, not modules that could be swapped. So a function mode puts
`asqcli.arithmetic.formulas` in the place of torch's functions, for modules and functions alike. In training nothing
changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, reduce
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from asqcli.arithmetic import formulas
from asqcli.arithmetic.division import as_divisor, divided
from asqcli.arithmetic.windows import Pair, pieces_with_ceil, reaches_beyond

Dims = int | Sequence[int] | None
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
    if divisor_override is not None:  # which the exporter refuses
        return None
    if ceil_mode and reaches_beyond(input.shape[2:], kernel_size, stride, border):
        return _avg_pool_beyond(input, kernel_size, stride, border, count_include_pad)
    return formulas.avg_pool(
        torch, _with_zeros(input, border), kernel_size, stride, border, count_include_pad=count_include_pad
    )


def _avg_pool_beyond(
    input: Tensor, kernel_size: Pair, stride: Pair, border: Pair, count_include_pad: bool
) -> Tensor | None:
    sides = zip(input.shape[2:], kernel_size, stride, border, strict=True)
    down, across = (pieces_with_ceil(*side, border_counts=count_include_pad) for side in sides)
    if down is None or across is None:  # the exporter refuses these
        return None
    if count_include_pad:
        input = _with_zeros(input, border)
    rows = [
        [_avg_pool2d(input[:, :, a:b, c:d], (k, m), stride, (p, q), False, False) for c, d, m, q in across]
        for a, b, k, p in down
    ]
    return torch.cat([torch.cat([part for part in row if part is not None], 3) for row in rows], 2)


def _with_zeros(input: Tensor, border: Pair) -> Tensor:
    return F.pad(input, (border[1], border[1], border[0], border[0])) if any(border) else input


def _mean(input: Tensor, dim: Dims = None, keepdim: bool = False, *, axis: Dims = None, **others: Any) -> Tensor | None:
    dims = _dimensions(input, dim if axis is None else axis)
    if others or dims is None:
        return None
    if _one_by_one(input, dims):
        return divided(_sum_of_places(input, dims[0], keepdim), input.shape[dims[0]])
    if len(dims) == 2:
        means = formulas.adaptive_avg_pool(torch, input, (1, 1)).flatten(1)
    else:
        lines = input.movedim(dims[0], 1)
        means = formulas.mean(torch, lines.reshape(*lines.shape[:2], -1)).reshape(lines.shape[:1] + lines.shape[2:])
    return means.reshape([1 if d in dims else n for d, n in enumerate(input.shape)]) if keepdim else means


def _sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, axis: Dims = None, **others: Any) -> Tensor | None:
    dims = _dimensions(input, dim if axis is None else axis)
    if dims is None or others:
        return None
    if _one_by_one(input, dims):
        return _sum_of_places(input, dims[0], keepdim)
    means = _mean(input, dims, keepdim)
    return None if means is None else means * math.prod(input.shape[d] for d in dims)


def _dimensions(input: Tensor, dim: Dims) -> list[int] | None:
    """Return the dimensions that a sum or mean has a fixed order for: one of them, or height and width."""
    dims = sorted({d % max(input.dim(), 1) for d in ((dim,) if isinstance(dim, int) else dim or ())})
    return dims if len(dims) == 1 or (input.dim() == 4 and dims == [2, 3]) else None


def _one_by_one(input: Tensor, dims: list[int]) -> bool:
    """Are the places along a dimension added in float32? That before the images or beyond an image's, as of stacks."""
    return dims == [0] or input.dim() > 4


def _sum_of_places(input: Tensor, dim: int, keepdim: bool) -> Tensor:
    total = reduce(torch.add, input.unbind(dim))
    return total.unsqueeze(dim) if keepdim else total


def _with_factor(add: Callable[[Tensor, Any], Tensor]) -> Callable[..., Tensor | None]:
    """Return a sum or difference that rounds the product of `other` and `alpha`; torch's own may not."""

    def sum_or_difference(input: Tensor, other: Any, *, alpha: float = 1, **others: Any) -> Tensor | None:
        return None if alpha == 1 or others else add(input, other * alpha)

    return sum_or_difference


def _gate(formula: Callable[[ModuleType, Tensor], Tensor]) -> Callable[..., Tensor]:
    def gate(input: Tensor, inplace: bool = False) -> Tensor:
        result = formula(torch, input)
        return input.copy_(result) if inplace else result

    return gate


def _gelu(input: Tensor, approximate: str = "none") -> Tensor:
    return (formulas.gelu_tanh if approximate == "tanh" else formulas.gelu)(torch, input)


def _quotient(divide: Callable[..., Tensor]) -> Callable[..., Tensor | None]:
    """Return a division that rounds once on a GPU, too; elsewhere torch's own does."""

    def quotient(input: Tensor, other: Any, **others: Any) -> Tensor | None:
        if not input.is_cuda or isinstance(other, Tensor) or others:
            return None
        return divide(input, as_divisor(input, other))

    return quotient


# Each returns None where it has no fixed form of a call.
FIXED: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.avg_pool2d: _avg_pool2d,
    torch.mean: _mean,
    Tensor.mean: _mean,
    torch.add: _with_factor(torch.add),
    torch.sub: _with_factor(torch.sub),
    Tensor.add: _with_factor(torch.add),
    Tensor.sub: _with_factor(torch.sub),
    Tensor.add_: _with_factor(Tensor.add_),
    Tensor.sub_: _with_factor(Tensor.sub_),
    torch.div: _quotient(torch.div),
    torch.true_divide: _quotient(torch.div),
    Tensor.div: _quotient(torch.div),
    Tensor.true_divide: _quotient(torch.div),
    Tensor.div_: _quotient(Tensor.div_),
    torch.sum: _sum,
    Tensor.sum: _sum,
    torch.sigmoid: _gate(formulas.sigmoid),
    Tensor.sigmoid: _gate(formulas.sigmoid),
    F.sigmoid: _gate(formulas.sigmoid),
    torch.sigmoid_: partial(_gate(formulas.sigmoid), inplace=True),
    Tensor.sigmoid_: partial(_gate(formulas.sigmoid), inplace=True),
    torch.tanh: _gate(formulas.tanh),
    Tensor.tanh: _gate(formulas.tanh),
    F.tanh: _gate(formulas.tanh),
    torch.tanh_: partial(_gate(formulas.tanh), inplace=True),
    Tensor.tanh_: partial(_gate(formulas.tanh), inplace=True),
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
