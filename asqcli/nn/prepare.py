"""Put fake quantizers into a float network, as specified, and prove that the network calls them: any module tree."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from asqcli.arithmetic.torch_mode import evaluate_in_fixed_arithmetic
from asqcli.errors import UnsupportedError
from asqcli.nn.derived import derived_norm, derived_twin, first_calls, try_both_modes
from asqcli.nn.layer_calls import NORMS, in_channels, is_derived
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.norms import two_step_kind
from asqcli.nn.proof import prove
from asqcli.nn.record import Operation, Record, executions, record_or_refuse
from asqcli.quant.activation_quantizers import ActivationQuantizer, make_activation_quantizer
from asqcli.quant.spec import LayerSpec
from asqcli.quant.weight_quantizers import WeightQuantizer, make_weight_quantizer


def prepare(model: nn.Module, specs: list[LayerSpec], example: Tensor) -> nn.Module:
    """Replace the specified layers of `model` by quantized ones, in place, and return it.

    Steps and thresholds are 1 until `calibrate` or `load_state_dict` sets them. Every batch norm is replaced by one
    that evaluates in the engine's arithmetic, which pools and gates do too; parameters, statistics and hooks are shared
    with the layers that they replace.

    Args:
        model: a float network; the quantized one when it returns.
        specs: one per layer to quantize; `signed` is known in each that has quantized activations.
        example: one input, (1, 3, H, W), for a run before and after.
    Raises:
        UnsupportedError: a layer cannot be replaced, or the network does not call what replaced it; `model` is float.
    """
    with ExitStack() as undo:
        _put_in(model, specs, example, undo)
        undo.pop_all()
    return model


@contextmanager
def prepared(model: nn.Module, specs: list[LayerSpec], example: Tensor) -> Generator[Record]:
    """Hold `model` as `prepare` would leave it, and give its run; afterwards it is as it was, the generator included.

    Not a copy: what a copy is made of is not what a closure in it calls. A layer whose signedness was not seen yet is
    taken as signed, which changes neither calls nor sizes.
    """
    specs = [spec if spec.signed is not None else spec.model_copy(update={"signed": True}) for spec in specs]
    with torch.random.fork_rng(devices=[]), ExitStack() as undo:
        yield _put_in(model, specs, example, undo)


def _put_in(model: nn.Module, specs: list[LayerSpec], example: Tensor, undo: ExitStack) -> Record:
    before = record_or_refuse(model, example)
    twins = _twins(model, specs, executions(before))
    # By identity, and not through named_children, which names a shared module once: each name gets the same new module.
    # A module that has a twin keeps its children, and the twin gets theirs.
    for parent in [*(module for module in model.modules() if module not in twins), *twins.values()]:
        for name, child in parent._modules.items():
            if child in twins:
                undo.callback(parent._modules.__setitem__, name, child)
                parent._modules[name] = twins[child]
    _refuse_what_cannot_be_shared(model, twins)
    for hook in evaluate_in_fixed_arithmetic(model):
        undo.callback(hook.remove)
    with first_calls(twins[layer] for layer in twins if is_derived(layer) and not _is_norm(layer)) as calls:
        after = record_or_refuse(model, example)
    prove(twins, before, after)
    for twin, (args, kwargs) in calls.items():
        try_both_modes(twin, args, kwargs)
    return after


def _twins(
    model: nn.Module, specs: list[LayerSpec], runs: dict[nn.Module, list[Operation]]
) -> dict[nn.Module, nn.Module]:
    """Return what takes the place of each layer: of the specified ones, and of batch norms.

    Args:
        runs: of the float layers.
    """
    layers = {model.get_submodule(spec.name): spec for spec in specs}
    twins = {layer: _quantized_layer(layer, spec, runs.get(layer, [])) for layer, spec in layers.items()}
    for norm in filter(_is_norm, model.modules()):
        if is_derived(norm):
            twin = derived_norm(norm, runs.get(norm, []))
        else:
            twin = two_step_kind(type(norm)).from_float(norm)
        if twin is not None:
            twins[norm] = twin
    return twins


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, NORMS)


def _refuse_what_cannot_be_shared(model: nn.Module, twins: dict[nn.Module, nn.Module]) -> None:
    """Refuse layers with what works on themselves, and would not on their twins."""
    names = {module: name for name, module in model.named_modules()}
    for layer, twin in twins.items():
        title = f"layer `{names.get(twin, '')}` ({type(layer).__name__})"
        if own := [n for n, v in vars(layer).items() if callable(v) and callable(getattr(type(layer), n, None))]:
            raise UnsupportedError(
                f"{title} has a `{own[0]}` of its own, which its quantized twin would not call",
                f"asq quantizes plain {type(layer).__name__} layers: put what it does into another module",
            )
        if any(getattr(layer, hooks) for hooks in _STATE_HOOKS):
            raise UnsupportedError(
                f"{title} has hooks on its state dict, which its quantized twin cannot take over",
                "remove them before the factory returns the network",
            )


_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def _quantized_layer(layer: nn.Module, spec: LayerSpec, runs: list[Operation]) -> nn.Module:
    assert isinstance(layer, nn.Conv2d | nn.Linear), f"{spec.name} is a {type(layer).__name__}"
    linear = isinstance(layer, nn.Linear)
    weight_quantizer = activation_quantizer = None
    if spec.weights is not None:
        weight_quantizer = make_weight_quantizer(layer.weight.shape[0], spec.weights)
    if spec.activations is not None:
        assert spec.signed is not None, f"signedness of {spec.name} was never observed"
        activation_quantizer = make_activation_quantizer(
            in_channels(layer, runs), spec.activations, signed=spec.signed, channels_last=linear
        )
    if is_derived(layer):
        twin = derived_twin(layer, spec.name, weight_quantizer, activation_quantizer)
    elif isinstance(layer, nn.Linear):
        twin = QuantLinear.from_float(layer, weight_quantizer, activation_quantizer)
    else:
        twin = QuantConv2d.from_float(layer, weight_quantizer, activation_quantizer)
    return twin.to(layer.weight.device)


def quant_layers(model: nn.Module) -> Iterator[tuple[str, QuantConv2d | QuantLinear]]:
    """Yield (name, layer) for each quantized layer of `model`."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear))


def quantizers(model: nn.Module) -> Iterator[WeightQuantizer | ActivationQuantizer]:
    """Yield every weight and activation quantizer of `model`."""
    return (m for m in model.modules() if isinstance(m, WeightQuantizer | ActivationQuantizer))
