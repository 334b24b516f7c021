"""One run of the float network: which layers execute, in which order, and what the tool cannot quantize."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asqcli.errors import UnsupportedError, first_line

QUANTIZABLE = (nn.Conv2d, nn.Linear)
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


@dataclass(frozen=True)
class SurveyedLayer:
    """A layer that can be quantized.

    Attributes:
        name: as in `named_modules`.
        kind: conv, depthwise or linear.
        in_channels: of its input.
    """

    name: str
    kind: str
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


def survey(model: nn.Module, example: Tensor) -> Survey:
    """Run `model` once in evaluation mode.

    Args:
        model: a float network.
        example: one input, (1, 3, H, W).
    Raises:
        UnsupportedError: the network raises.
    """
    candidates = {name: module for name, module in model.named_modules() if type(module) in QUANTIZABLE}
    executed: dict[str, nn.Module] = {}

    def remember(name: str):
        def hook(module: nn.Module, _) -> None:
            executed.setdefault(name, module)

        return hook

    hooks = [module.register_forward_pre_hook(remember(name)) for name, module in candidates.items()]
    training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(example)
    except (Exception, SystemExit) as error:
        raise UnsupportedError(
            f"the network fails on an input of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {first_line(error)}",
            "it must take images of 3 channels; try another `--set data.image_size=N`",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    layers = tuple(_describe(name, module) for name, module in executed.items())
    return Survey(layers, tuple(name for name in candidates if name not in executed), output)


def refuse_unsupported(model: nn.Module) -> None:
    """Refuse a network with layers that would stay in float unnoticed.

    Raises:
        UnsupportedError: names the first of them.
    """
    for name, module in model.named_modules():
        if isinstance(module, UNSUPPORTED):
            raise UnsupportedError(
                f"layer `{name}` is a {type(module).__name__}, which asq cannot quantize",
                "asq quantizes Conv2d and Linear layers; choose a convolutional network",
            )


def _describe(name: str, module: nn.Module) -> SurveyedLayer:
    if isinstance(module, nn.Linear):
        return SurveyedLayer(name, "linear", module.in_features)
    depthwise = module.groups == module.in_channels > 1
    return SurveyedLayer(name, "depthwise" if depthwise else "conv", module.in_channels)
