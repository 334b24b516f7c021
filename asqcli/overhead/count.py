"""Parameters and multiply-adds of each layer, counted as the network runs, on tensors without storage.

What runs is seen at two heights. Calls of modules give the layers, whatever containers they sit in; below them,
operators give the multiply-adds (see `products`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asqcli.errors import AsqError, UnsupportedError, UsageError
from asqcli.models.meta import build_on_meta
from asqcli.models.names import is_factory
from asqcli.models.registry import build_model
from asqcli.nn.calls import Call, CallRecord
from asqcli.nn.layer_calls import NORMS, is_derived
from asqcli.nn.prepare import prepared
from asqcli.nn.survey import RunError, Survey, refuse_unsupported, survey
from asqcli.overhead.products import ProductCounter
from asqcli.quant.spec import LayerSpec

LARGEST_TRIED = 1024  # pixels, in the search for a size that works


@dataclass(frozen=True)
class Layer:
    """One module that holds parameters or multiplies; sums are over all its calls for one image.

    Attributes:
        name: as in `named_modules`.
        kind: conv, depthwise or linear where asq can quantize it, otherwise the name of its class.
        parameters: its own, biases included; one that several modules share belongs to the first.
        weights, biases: of these, in the weight and the bias.
        in_channels, out_channels: of a layer that asq can quantize, otherwise 0.
        calls: times that the network calls it.
        multiply_adds: of its products, Eqs. 12 and 13.
        input_values, output_values: numbers that go in and come out.
        output_shape: of its last call, without the batch.
    """

    name: str
    kind: str
    parameters: int
    weights: int
    biases: int
    in_channels: int
    out_channels: int
    calls: int
    multiply_adds: int
    input_values: int
    output_values: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """What one image costs in the float network.

    Attributes:
        layers: what asq can quantize, in the order of first execution.
        others: whatever else holds parameters or multiplies, batch norms apart.
        batch_norm_channels: of all batch norms that are called.
        batch_norm_values: numbers that go through them.
        parameters, multiply_adds: of the whole network; a parameter that is used twice is counted once.
        input_size: pixels of a side.
        outputs: classes.
        unused: names of layers that are never called as modules.
        refusal: why `asq quantize` does not take this network, or None.
    """

    layers: tuple[Layer, ...]
    others: tuple[Layer, ...]
    batch_norm_channels: int
    batch_norm_values: int
    parameters: int
    multiply_adds: int
    input_size: int
    outputs: int
    unused: tuple[str, ...]
    refusal: str | None

    @property
    def float_parameters(self) -> int:
        """What belongs neither to a layer that asq can quantize nor to a batch norm."""
        return sum(other.parameters for other in self.others)

    @property
    def float_bytes(self) -> int:
        """Of the float network's file: all parameters and the statistics of the batch norms, 4 bytes each."""
        return 4 * (self.parameters + 2 * self.batch_norm_channels)

    @property
    def middle(self) -> tuple[Layer, ...]:
        """The layers that get an adapter: all but the first and the last."""
        return self.layers[1:-1]

    @property
    def ends(self) -> tuple[Layer, ...]:
        """The first and the last layer; one and the same in a network of one."""
        return self.layers[:1] + self.layers[1:][-1:]


class TooSmallError(UnsupportedError):
    """An input with fewer pixels than the network takes."""


def count_model(name: str, input_size: int) -> Network:
    """Return the costs of a network by its name, built without weights; a factory that needs them gets them.

    Raises:
        UsageError: unknown name.
        UnsupportedError: the network cannot be built, run or counted.
    """
    try:
        return _count_on_meta(name, input_size)
    except (UsageError, TooSmallError):
        raise
    except Exception:
        if not is_factory(name):
            raise
    # The factory, or its network, wants weights with values, or is wrong: then the same error comes again.
    return count_network(build_model(name, None, image_size=input_size).cpu(), input_size)


def _count_on_meta(name: str, input_size: int) -> Network:
    model = build_on_meta(name, None, image_size=input_size)
    try:
        return count_network(model, input_size)
    except RunError as error:
        _explain_too_small(name, model, input_size, error)
        raise


def count_network(model: nn.Module, input_size: int) -> Network:
    """Return the costs of `model` for one image, (1, 3, input_size, input_size).

    Args:
        model: a float network, on the meta device or with weights.
    Raises:
        UnsupportedError: the network raises, returns no logits, or runs an operator that cannot be counted.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = torch.zeros(1, 3, input_size, input_size, device=device)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator, which tells nothing of its products
    try:
        with CallRecord(model) as record, ProductCounter(record) as counter:
            seen = survey(model, example, size_option="--input-size N")
    except RunError as error:
        if isinstance(error.__cause__, AsqError):
            raise error.__cause__ from error
        raise
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    if not isinstance(seen.output, Tensor) or seen.output.dim() != 2 or seen.output.shape[0] != 1:
        returned = tuple(seen.output.shape) if isinstance(seen.output, Tensor) else type(seen.output).__name__
        raise UnsupportedError(f"for one image the network returns {returned}, not one row of logits")
    if not seen.layers:
        raise UnsupportedError("the network calls no Conv2d or Linear layer that could be quantized")
    outputs = seen.output.shape[1]
    return _describe_network(model, seen, record.calls, counter.multiply_adds, example, outputs)


def _describe_network(
    model: nn.Module, seen: Survey, calls: list[Call], multiply_adds: dict[str, int], example: Tensor, outputs: int
) -> Network:
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        by_name.setdefault(call.name, []).append(call)
    own = _own_parameters(model)
    modules = dict(model.named_modules())
    batch_norms = {n: module for n, module in modules.items() if isinstance(module, NORMS)}
    quantizable = {layer.name: layer for layer in seen.layers}
    others = [n for n in modules if n not in (*quantizable, *batch_norms) and (own[n] or multiply_adds.get(n))]

    def layer(name: str, kind: str) -> Layer:
        module, called = modules[name], by_name.get(name, [])
        quantized = module if name in quantizable and isinstance(module, nn.Conv2d | nn.Linear) else None
        kernel, bias = (None, None) if quantized is None else (quantized.weight, quantized.bias)
        return Layer(
            name=name,
            kind=kind,
            parameters=sum(p.numel() for p in own[name]),
            weights=0 if kernel is None else kernel.numel(),
            biases=0 if bias is None else bias.numel(),
            in_channels=quantizable[name].in_channels if name in quantizable else 0,
            out_channels=0 if kernel is None else kernel.shape[0],
            calls=len(called),
            multiply_adds=multiply_adds.get(name, 0),
            input_values=sum(_numel(c.input_shape) for c in called),
            output_values=sum(_numel(c.output_shape) for c in called),
            output_shape=tuple(called[-1].output_shape[1:]) if called and called[-1].output_shape else (),
        )

    return Network(
        layers=tuple(layer(name, surveyed.kind) for name, surveyed in quantizable.items()),
        others=tuple(layer(name, type(modules[name]).__name__) for name in others),
        batch_norm_channels=sum(norm.num_features for n, norm in batch_norms.items() if n in by_name),
        batch_norm_values=sum(_numel(c.input_shape) for n in batch_norms for c in by_name.get(n, [])),
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=sum(multiply_adds.values()),
        input_size=example.shape[-1],
        outputs=outputs,
        unused=seen.unused,
        refusal=_refusal(model, seen, example),
    )


def _own_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return each module's parameters, without those inside it and those that a module before it holds too."""
    taken: set[int] = set()
    own: dict[str, list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        own[name] = [p for p in module.parameters(recurse=False) if id(p) not in taken]
        taken |= {id(p) for p in own[name]}
    return own


def _refusal(model: nn.Module, seen: Survey, example: Tensor) -> str | None:
    derived = [layer for layer in seen.layers if is_derived(model.get_submodule(layer.name))]
    specs = [LayerSpec(name=layer.name, kind=layer.kind, weights=None, activations=None) for layer in derived]
    try:
        refuse_unsupported(model)
        if specs:  # layers of torch's own classes need no look
            with prepared(model, specs, example):
                pass
    except UnsupportedError as error:
        return error.message
    return None


def _numel(shape: torch.Size | None) -> int:
    return 0 if shape is None else math.prod(shape)


def _explain_too_small(name: str, model: nn.Module, input_size: int, failure: RunError) -> None:
    """Raise TooSmallError when a layer failed on pixels and a larger input works."""
    shape = None if failure.call is None else failure.call.input_shape
    if shape is not None and len(shape) == 4 and (smallest := _smallest_size(model, input_size)) is not None:
        raise TooSmallError(
            f"an input of {input_size}x{input_size} pixels is too small for `{name}`: "
            f"it runs out of pixels in {failure.call}",
            f"`--input-size {smallest}` and more works",
        ) from failure


def _smallest_size(model: nn.Module, failing: int) -> int | None:
    """Return the least input size above `failing` that the network takes, or None where none up to 1024 works.

    Supposes that a larger one works where a smaller one does.
    """

    def works(size: int) -> bool:
        try:
            count_network(model, size)
        except UnsupportedError:
            return False
        return True

    doubled = (failing << k for k in range(1, LARGEST_TRIED.bit_length()))
    high = next((size for size in doubled if size <= LARGEST_TRIED and works(size)), None)
    if high is None:
        return None
    low = failing
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high
