"""One run of the float network: which layers execute, in which order, and what the tool cannot quantize."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from asqcli.errors import AsqError, UnsupportedError, ran_out_of_memory
from asqcli.nn.calls import Call, CallRecord
from asqcli.nn.layer_calls import NORMS, groups, in_channels, is_derived
from asqcli.nn.layers import QuantConv2d, QuantLinear
from asqcli.nn.record import Operation, executions, record
from asqcli.user_code import held_settings, reason_of

QUANTIZABLE = (nn.Conv2d, nn.Linear)
INSIDE_OTHERS = (nn.modules.linear.NonDynamicallyQuantizableLinear,)  # whose weight attention takes; it calls none
# Layers with weights that multiply activations and that would stay in float unnoticed.
UNSUPPORTED = (
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.Bilinear,
)
# Functions that compute a weight before each call, and those that make the result a parameter again.
NORMALISED = ((WeightNorm, "remove_weight_norm"), (SpectralNorm, "remove_spectral_norm"))
SCRIPTED = re.compile(r"aten::(_?conv|linear|addmm|matmul|mm|bmm|einsum)")


@dataclass(frozen=True)
class SurveyedLayer:
    """A layer that can be quantized.

    Attributes:
        name: as in `named_modules`.
        kind: conv, depthwise or linear.
        in_channels: of its input.
    """

    name: str
    kind: Literal["conv", "depthwise", "linear"]
    in_channels: int


@dataclass(frozen=True)
class Survey:
    """What one run of a network showed.

    Attributes:
        layers: its Conv2d and Linear layers in the order of their first execution.
        unused: names of those that were never called; they cannot be quantized.
        output: what the network returned.
    """

    layers: tuple[SurveyedLayer, ...]
    unused: tuple[str, ...]
    output: object


class RunError(UnsupportedError):
    """The network raised on an input.

    Attributes:
        call: the innermost call that was running, or None when none had begun.
        reason: what was raised, in one line.
    """

    def __init__(self, shape: torch.Size, call: Call | None, reason: str, hint: str) -> None:
        place = f" in {call}" if call is not None and call.name else ""
        super().__init__(f"the network fails on an input of shape {tuple(shape)}{place}: {reason}", hint)
        self.call, self.reason = call, reason


def survey(model: nn.Module, example: Tensor, *, size_option: str = "--set data.image_size=N") -> Survey:
    """Run `model` once in evaluation mode.

    Args:
        model: a float network.
        example: one input, (1, 3, H, W).
        size_option: what the user can set another image size with, for the hint.
    Raises:
        RunError: the network raises.
    """
    calls = CallRecord(model)
    try:
        with held_settings(), calls:
            run = record(model, example)
    except (Exception, SystemExit) as error:
        if isinstance(error, AsqError) or ran_out_of_memory(error):
            raise
        raise RunError(
            example.shape,
            calls.running[-1] if calls.running else None,
            reason_of(error),
            f"it must take images of 3 channels; try another `{size_option}`",
        ) from error
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, QUANTIZABLE)}
    runs = {module: own for module, own in executions(run).items() if module in names}
    for call in calls.calls:  # a layer of a kind of its own, which may have made its product in another way
        if call.module in names and is_derived(call.module):
            runs.setdefault(call.module, [])
    layers = tuple(_describe(names[module], module, own) for module, own in runs.items())
    unused = (name for module, name in names.items() if module not in runs and type(module) not in INSIDE_OTHERS)
    return Survey(layers, tuple(unused), run.output)


def require_logits(output: object, classes: int, *, name: str) -> None:
    """Find out whether what a network, called `name`, returned for one image is one row of logits.

    Raises:
        UnsupportedError: it is not.
    """
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (1, classes):
        raise UnsupportedError(
            f"for one image `{name}` returns {shape}, not logits of shape {(1, classes)}",
            f"the network must return one tensor with a value for each of the {classes} classes",
        )


def require_quantizable(model: nn.Module, seen: Survey) -> None:
    """Find out whether a float network, as its survey saw it, can be quantized.

    Raises:
        UnsupportedError: it has layers that cannot be, or none that can.
    """
    refuse_unsupported(model)
    if not seen.layers:
        raise UnsupportedError("the network calls no Conv2d or Linear layer that could be quantized")


def refuse_unsupported(model: nn.Module) -> None:
    """Refuse a network with layers that would stay in float unnoticed.

    Raises:
        UnsupportedError: names the first of them.
    """
    for name, module in model.named_modules():
        _refuse_computed(name, module)
        _refuse_scripted(name, module)
        if isinstance(module, QuantConv2d | QuantLinear):
            raise UnsupportedError(f"layer `{name}` is quantized already", "start from the float network")
        if isinstance(module, UNSUPPORTED):
            raise UnsupportedError(
                f"layer `{name}` is a {type(module).__name__}, which asq cannot quantize",
                "asq quantizes Conv2d and Linear layers; choose a convolutional network",
            )


def _refuse_computed(name: str, module: nn.Module) -> None:
    """Refuse a layer that gets its weights by computation: what was replaced would go on without it."""
    if not isinstance(module, (*QUANTIZABLE, *NORMS)):
        return
    kind = type(module).__name__
    if parametrize.is_parametrized(module):
        assert isinstance(module.parametrizations, nn.ModuleDict)
        which = next(iter(module.parametrizations))
        raise _computed(name, kind, which, f"`torch.nn.utils.parametrize.remove_parametrizations(layer, '{which}')`")
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            which = hook._tensor_name
            raise _computed(name, kind, which, f"`torch.nn.utils.prune.remove(layer, '{which}')`")
        for normalised, remedy in NORMALISED:
            if isinstance(hook, normalised):
                raise _computed(name, kind, hook.name, f"`torch.nn.utils.{remedy}(layer, '{hook.name}')`")
    for which in ("weight", "bias"):
        if isinstance(getattr(module, which, None), Tensor) and module._parameters.get(which) is None:
            raise _computed(name, kind, which, f"`layer.{which} = torch.nn.Parameter(..)`")


def _computed(name: str, kind: str, which: str, remedy: str) -> UnsupportedError:
    return UnsupportedError(
        f"the {which} of layer `{name}` ({kind}) is computed when the layer is called, and is no parameter of it",
        f"asq quantizes weights that are parameters: end the factory with {remedy}",
    )


def _refuse_scripted(name: str, module: nn.Module) -> None:
    """Refuse what TorchScript holds, where it multiplies: its layers cannot be replaced."""
    if isinstance(module, torch.jit.ScriptModule) and SCRIPTED.search(str(module.inlined_graph)):
        where = f"layer `{name}`" if name else "the network"
        raise UnsupportedError(
            f"{where} is a TorchScript module, whose convolutions and linear layers cannot be replaced",
            "return the network itself, without `torch.jit`",
        )


def _describe(name: str, module: nn.Module, runs: list[Operation]) -> SurveyedLayer:
    channels = in_channels(module, runs)
    if isinstance(module, nn.Linear):
        return SurveyedLayer(name, "linear", channels)
    depthwise = groups(module, runs) == channels > 1
    return SurveyedLayer(name, "depthwise" if depthwise else "conv", channels)
