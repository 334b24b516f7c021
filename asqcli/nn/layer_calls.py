"""The functions of torch that layers consist of, as they are called, and the classes whose forward is known."""

# pyright: basic, reportReturnType=false, reportIndexIssue=false
# Stricter types say nothing here: arguments come as authors wrote them, and classes are made while asq runs.

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from asqcli.arithmetic.torch_mode import pair
from asqcli.nn.geometry import Geometry
from asqcli.nn.record import Operation

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
PLAIN = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def is_derived(layer: nn.Module) -> bool:
    """Is it of a class that somebody derived from a convolution, linear layer or batch norm?"""
    return isinstance(layer, (*PLAIN, *NORMS)) and type(layer) not in PLAIN


@dataclass(frozen=True)
class LayerCall:
    """A call of `F.conv2d`, `F.linear` or `F.batch_norm`.

    Attributes:
        input: what the layer works on.
        tensors: the others that go in, by the names that a layer has for them.
        geometry: of a convolution.
        epsilon: of a batch norm that evaluates.
    """

    input: Tensor
    tensors: dict[str, Tensor | None]
    geometry: Geometry | None = None
    epsilon: float | None = None

    @classmethod
    def of(cls, function: Callable, args: tuple, kwargs: dict[str, Any]) -> LayerCall:
        """Return a call of one of these three."""
        return _READERS[function](*args, **kwargs)

    def takes(self, name: str, layer: nn.Module) -> bool:
        """Does it take a layer's own tensor, the very same one?"""
        return self.tensors[name] is getattr(layer, name)


def own_calls(layer: nn.Module, runs: Iterable[Operation]) -> list[LayerCall]:
    """Return those of a layer's runs in which it multiplies or normalises by its own weight."""
    calls = (LayerCall.of(run.function, run.args, run.kwargs) for run in runs)
    return [call for call in calls if call.takes("weight", layer)]


def groups(layer: nn.Module, runs: Iterable[Operation]) -> int:
    """Return a convolution's groups of channels, as it runs."""
    geometries = (call.geometry for call in own_calls(layer, runs))
    return next((geometry.groups for geometry in geometries if geometry is not None), layer.groups)


def in_channels(layer: nn.Module, runs: Iterable[Operation]) -> int:
    """Return the channels of a product's input, as it runs."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.weight.shape[1] * groups(layer, runs)


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> LayerCall:
    padding = padding if isinstance(padding, str) else pair(padding)
    geometry = Geometry(pair(stride), padding, pair(dilation), int(groups))
    return LayerCall(input, {"weight": weight, "bias": bias}, geometry)


def _linear(input, weight, bias=None) -> LayerCall:
    return LayerCall(input, {"weight": weight, "bias": bias})


def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> LayerCall:
    del momentum  # which matters in training alone
    tensors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    return LayerCall(input, tensors, epsilon=None if training else eps)


# With torch's names and defaults: a call may name its arguments or not.
_READERS = {F.conv2d: _conv2d, F.linear: _linear, F.batch_norm: _batch_norm}
