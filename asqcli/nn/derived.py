"""Layers of classes that people derive from Conv2d, Linear and BatchNorm2d: quantized around the one call that counts.

A convolution that pads as TensorFlow does, a layer that brings its activation along: such a forward calls the product
of torch once, with the layer's own weight, and does something before or after. Its twin is of a class derived from the
author's, and runs the author's forward; meanwhile a function mode puts the quantized product in the place of that
call. All else are operations like those of any other forward. A layer whose weight goes through something on its way
to the product is refused: that would not be quantized.
"""

# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# Stricter types say nothing here: arguments come as authors wrote them, and classes are made while asq runs.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from asqcli.errors import AsqError, UnsupportedError
from asqcli.nn import layers, norms
from asqcli.nn.callers import calling_place
from asqcli.nn.layer_calls import LayerCall
from asqcli.nn.layers import QuantConv2d, QuantLinear, quantized_layer
from asqcli.nn.modes import modes_held
from asqcli.nn.norms import two_step_kind
from asqcli.nn.proof import PRODUCTS
from asqcli.nn.record import Operation, storage_of, tensors_in
from asqcli.seeds import held_generators


class OwnProduct(TorchFunctionMode):
    """While a layer's forward runs in it, its product is `product` instead.

    Args:
        layer: a convolution or linear layer.
        name: of the layer, for errors.
        product: gets the call, and returns its result; or None, and then it is made as it stands.
    Raises:
        UnsupportedError: on the way, where the layer multiplies twice, by another bias, or by more than its weight;
            by `require_one`, where its weight did not go into a product as it is.
    """

    def __init__(self, layer: nn.Module, name: str, product: Callable[[LayerCall], Tensor | None]) -> None:
        super().__init__()
        self.layer, self.name, self.product = layer, name, product
        self.function = F.linear if isinstance(layer, nn.Linear) else F.conv2d
        self.calls, self.elsewhere = 0, ""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is self.function and (call := LayerCall.of(function, args, kwargs)).takes("weight", self.layer):
            self.calls += 1
            if self.calls > 1:
                self._refuse(f"it calls `{function.__name__}` more than once", calling_place())
            if not call.takes("bias", self.layer):
                self._refuse(f"it calls `{function.__name__}` with another bias than its own", calling_place())
            result = self.product(call)
            return function(*args, **kwargs) if result is None else result
        if (name := getattr(function, "__name__", "").strip("_")) in PRODUCTS:
            self.elsewhere = calling_place()
            if own := self._own_parameter((args, kwargs)):
                what = "weight in another form" if own == "weight" else f"`{own}`"
                self._refuse(f"it calls `{name}` with its {what}", self.elsewhere)
        return function(*args, **kwargs)

    def require_one(self) -> None:
        """Find out, after the forward, whether it called its product."""
        if not self.calls:
            self._refuse(f"it never calls `{self.function.__name__}` with its weight as it is", self.elsewhere)

    def _own_parameter(self, given: Any) -> str | None:
        """Return the name of a parameter of the layer, its bias apart, that a product is given or a view of it."""
        own = {storage_of(p): name for name, p in self.layer.named_parameters(recurse=False) if name != "bias"}
        return next((own[storage_of(t)] for t in tensors_in(given) if storage_of(t) in own), None)

    def _refuse(self, reason: str, place: str) -> None:
        raise _refusal(self.layer, self.name, reason + place)


def _refusal(layer: nn.Module, name: str, reason: str) -> UnsupportedError:
    kind = "Linear" if isinstance(layer, nn.Linear) else "Conv2d"
    author, function = getattr(layer, "_author", type(layer)).__name__, F.linear if kind == "Linear" else F.conv2d
    return UnsupportedError(
        f"layer `{name}` is a {author}, a {kind} that makes its weights or output its own way: {reason}",
        f"asq quantizes a {kind} around one `{function.__name__}` with its weight and bias as they are: put what it "
        "does to its weights into them, or into another layer",
    )


class _OwnNorm(TorchFunctionMode):
    """While a batch norm's forward runs in it, its evaluation is that of its twin."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.batch_norm and is_own_norm(self.layer, call := LayerCall.of(function, args, kwargs)):
            return quantized_layer(self.layer, call.input)
        return function(*args, **kwargs)


def is_own_norm(layer: nn.Module, call: LayerCall) -> bool:
    """Is a call of `F.batch_norm` the evaluation of a layer by the tensors that it has?"""
    own = layer.running_mean is not None and all(call.takes(name, layer) for name in call.tensors)
    return own and call.epsilon == layer.eps and call.input.dim() <= 4


class _Derived:
    """What twins of derived layers share, mixed in before the class of torch's twin and the author's own.

    Attributes:
        _author: the class of the layer that it is the twin of.
    """

    _author: type[nn.Module]

    def __reduce_ex__(self, protocol):
        """Its class is found by no name: copies and pickles make it again of the author's."""
        _, _, *state = super().__reduce_ex__(max(2, int(protocol)))
        return _new_twin, (self._author,), *state


class _AroundProduct(_Derived):
    _layer_name: str

    def forward(self, *args, **kwargs):
        with OwnProduct(self, self._layer_name, self._quantized_product) as own:
            output = self._author.forward(self, *args, **kwargs)
        own.require_one()
        return output

    def _quantized_product(self, call: LayerCall) -> Tensor:
        return quantized_layer(self, call.input, *(() if call.geometry is None else (call.geometry,)))


class _AroundNorm(_Derived):
    def forward(self, *args, **kwargs):
        if self.training:
            return self._author.forward(self, *args, **kwargs)
        with _OwnNorm(self):
            return self._author.forward(self, *args, **kwargs)


@cache
def twin_kind(author: type[nn.Module]) -> type:
    """Return the class of the twins of layers of an author's class."""
    if issubclass(author, nn.Conv2d | nn.Linear):
        around, twin, prefix = _AroundProduct, QuantLinear if issubclass(author, nn.Linear) else QuantConv2d, "Quant"
    else:
        around, twin, prefix = _AroundNorm, two_step_kind(author), "TwoStep"
    content = {"_author": author, "__module__": __name__, "__doc__": twin.__doc__}
    return type(author)(f"{prefix}{author.__name__}", (around, twin, author), content)


def _new_twin(author: type[nn.Module]) -> nn.Module:
    return object.__new__(twin_kind(author))


def derived_twin(layer: nn.Module, name: str, *quantizers: nn.Module | None) -> nn.Module:
    """Return the quantized twin of a derived convolution or linear layer.

    Raises:
        UnsupportedError: something in it has a name that its twin needs.
    """
    if taken := _taken(layer, QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d):
        raise _refusal(layer, name, f"it has a `{taken}`, a name that quantized layers need")
    twin = twin_kind(type(layer)).from_float(layer, *quantizers)
    twin._layer_name = name
    return twin


def derived_norm(layer: nn.Module, runs: list[Operation]) -> nn.Module | None:
    """Return the twin of a derived batch norm; None where it evaluates in its own way, and stays as it is.

    Args:
        runs: of the float network, where it called `F.batch_norm`.
    """
    calls = [LayerCall.of(run.function, run.args, run.kwargs) for run in runs]
    if not calls or not all(is_own_norm(layer, call) for call in calls) or _taken(layer, two_step_kind(type(layer))):
        return None
    return twin_kind(type(layer)).from_float(layer)


def _taken(layer: nn.Module, twin: type) -> str | None:
    """Return a name that a layer has and its twin needs for something of its own."""
    own_rooms = (layers.__name__, norms.__name__)
    ours = (name for kind in twin.__mro__ if kind.__module__ in own_rooms for name in vars(kind))
    names = {"weight_quantizer", "activation_quantizer", *(name for name in ours if not name.startswith("__"))}
    return next((name for name in sorted(names - set(dir(nn.Module))) if hasattr(layer, name)), None)


@contextmanager
def first_calls(twins: Iterable[nn.Module]) -> Iterator[dict[nn.Module, tuple[tuple, dict]]]:
    """Collect what each of these modules is called with first inside a `with` block."""
    calls: dict[nn.Module, tuple[tuple, dict]] = {}

    def collect(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.setdefault(module, (args, kwargs))

    with ExitStack() as undo:
        for twin in twins:
            undo.callback(twin.register_forward_pre_hook(collect, with_kwargs=True).remove)
        yield calls


@torch.no_grad()
def try_both_modes(twin: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    """Run the twin of a derived convolution or linear layer alone, in evaluation and in training.

    Raises:
        UnsupportedError: it makes its weights or output its own way in one of them.
    """
    buffers = [(buffer, buffer.clone()) for buffer in twin.buffers()]
    weight, kept = twin.weight, twin.weight.clone()
    state = weight.data_ptr(), weight._version
    try:
        with modes_held(twin):
            for training in (False, True):
                for module in twin.modules():
                    module.training = training
                with held_generators():
                    _run_as_guest(partial(twin.forward, *args, **kwargs))
                same = twin.weight is weight and (weight.data_ptr(), weight._version) == state
                if not same or not (weight.is_meta or torch.equal(weight, kept)):
                    raise _refusal(twin, twin._layer_name, "it changes its weight when it is called")
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)


def _run_as_guest(forward: Callable[[], Any]) -> None:
    """Call it; what it raises itself, such as a batch norm on a single value, is told by a step in training."""
    try:
        forward()
    except AsqError:
        raise
    except Exception:  # there is no common type for what a forward can raise
        return
