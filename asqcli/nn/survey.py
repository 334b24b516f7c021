"""One run of the float network: which layers execute, in which order, and what the tool cannot quantize."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asqcli.errors import AsqError, UnsupportedError

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


def survey_layers(model: nn.Module, example: Tensor) -> list[SurveyedLayer]:
    """Return the Conv2d and Linear layers of `model` in the order of their first execution in evaluation mode.

    Args:
        model: a float network.
        example: one input, (1, 3, H, W).
    Raises:
        UnsupportedError: a layer type that cannot be quantized, nothing to quantize, or the network raises.
    """
    for name, module in model.named_modules():
        if isinstance(module, UNSUPPORTED):
            raise UnsupportedError(
                f"layer `{name}` is a {type(module).__name__}, which asq cannot quantize",
                "asq quantizes Conv2d and Linear layers; choose a convolutional network",
            )
    executed: dict[str, nn.Module] = {}

    def remember(name: str):
        def hook(module: nn.Module, _) -> None:
            executed.setdefault(name, module)

        return hook

    hooks = [
        module.register_forward_pre_hook(remember(name))
        for name, module in model.named_modules()
        if type(module) in QUANTIZABLE
    ]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    except AsqError:
        raise
    except Exception as error:
        raise UnsupportedError(
            f"the network fails on an input of shape {tuple(example.shape)}: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}",
            "try another `--set data.image_size=N`",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    if not executed:
        raise UnsupportedError("the network has no Conv2d or Linear layer to quantize")
    return [_describe(name, module) for name, module in executed.items()]


def _describe(name: str, module: nn.Module) -> SurveyedLayer:
    if isinstance(module, nn.Linear):
        return SurveyedLayer(name, "linear", module.in_features)
    depthwise = module.groups == module.in_channels > 1
    return SurveyedLayer(name, "depthwise" if depthwise else "conv", module.in_channels)
