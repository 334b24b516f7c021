"""A network's calls of batch norm in training, for whoever computes them otherwise than PyTorch does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch import batch_norm as torch_batch_norm
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from asqcli.nn.layers import quantized_layer, without_autocast


class BatchNormsBy(TorchFunctionMode, ABC):
    """While a forward runs in it, `batch_norm` takes the place of `F.batch_norm` wherever a network calls that.

    In layers of torch, in their quantized twins, in classes derived from either. It does not go around the layers that
    a mode inside of it sees.
    """

    @abstractmethod
    def batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Return the batch normalized by its own statistics, and move the running ones; as `F.batch_norm`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._called(*args, **kwargs)
        if func is torch_batch_norm:
            return self._called_in_torch(*args, **kwargs)
        if func is quantized_layer:  # a mode does not see what is called in its stead: enter it again
            layer, input, *geometry = args
            with self:
                return without_autocast(lambda x: layer.compute(x, *geometry), input)
        return func(*args, **kwargs)

    def _called_in_torch(
        self,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        cudnn_enabled: bool,
    ) -> Tensor:
        return self._called(input, running_mean, running_var, weight, bias, training, momentum, eps)

    def _called(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return self.batch_norm(input, running_mean, running_var, weight, bias, momentum, eps)
