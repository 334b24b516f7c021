"""The forward of a network in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from asqcli.errors import UnsupportedError
from asqcli.nn.forward import shown
from asqcli.user_code import guest

# Fewer channels than oneDNN takes at once, with AVX-512 and so with all others.
ONEDNN_BLOCK = 16
# Names of the logits among several outputs: in torchvision's GoogLeNet and Inception, and its segmentation models.
LOGITS = ("logits", "out")


def forward_in_training(model: nn.Module, images: Tensor) -> object:
    """Return whatever `model` makes of a batch as it stands; gradients are on where the caller has them on.

    Raises:
        UnsupportedError: the network raises, as batch norm does where a channel has one value.
    """
    with guest(
        f"the network fails in training on a batch of shape {tuple(images.shape)}:",
        "batch norm needs more than one value of a channel: try a larger `--batch-size` or image",
    ):
        return model(images.contiguous() if any(map(_overruns, model.modules())) else images)


def _overruns(module: nn.Module) -> bool:
    """Does PyTorch's oneDNN write beyond its memory in a layer's backward, or give wrong gradients?

    As of version 2.14 it does in 1x1 convolutions with a stride on few channels that are stored last:
    https://github.com/uxlfoundation/oneDNN/issues/6035. Images in the usual order keep all values in it.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.stride != (1, 1)
        and module.in_channels // module.groups < ONEDNN_BLOCK
    )


def logits_in_training(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """Return the logits of a batch, (N, classes), in float32.

    A network may return auxiliary outputs beside them in training: a tuple, list, named tuple or dict.

    Raises:
        UnsupportedError: the network raises, returns no logits, or none that gradients could flow back from.
    """
    return pick_logits(forward_in_training(model, images), len(images), classes)


def pick_logits(output: object, images: int, classes: int) -> Tensor:
    """Return the logits in what a network returned in training for so many images; as `logits_in_training`."""
    shape = (images, classes)
    logits = next((o for o in _outputs(output) if isinstance(o, Tensor) and tuple(o.shape) == shape), None)
    if logits is None:
        raise UnsupportedError(
            f"in training the network returns {_shown_all(output)}, with no logits of shape {shape}",
            f"return a tensor with a value for each of the {classes} classes, alone or as the first of several",
        )
    if torch.is_grad_enabled() and not logits.requires_grad:
        raise UnsupportedError(
            "in training the network's logits carry no gradient",
            "its forward must not detach them, nor run under `torch.no_grad()` or `torch.inference_mode()`",
        )
    return logits.float()


def backward_in_training(loss: Tensor) -> None:
    """Add the gradients of a loss to the network's parameters.

    Raises:
        UnsupportedError: an operation of the network cannot be gone back through.
    """
    with backward_errors():
        # `loss.backward()` would leave the function modes, which what a network runs again here must see as before.
        torch.autograd.Variable._execution_engine.run_backward(  # pyright: ignore[reportAttributeAccessIssue]
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )


def backward_errors() -> AbstractContextManager[None]:
    """Return the context in which gradients are computed: what is raised there is the network's fault, and told so."""
    return guest(
        "the network's gradients cannot be computed:",
        "an operation in place may have overwritten what they need: `x = x + y` instead of `x += y`",
    )


def has_auxiliary_outputs(output: object) -> bool:
    """Did the network return anything but one tensor?"""
    return not isinstance(output, Tensor)


def _outputs(output: object) -> Iterable[object]:
    """Yield a network's outputs, the one to take first."""
    if isinstance(output, Mapping):
        named: Any = dict(output)
    elif isinstance(output, tuple | list):
        as_dict = getattr(output, "_asdict", None)
        named = dict(enumerate(output)) if as_dict is None else as_dict()
    else:
        return [output]
    return [*(named[name] for name in LOGITS if name in named), *named.values()]


def _shown_all(output: object) -> str:
    outputs = list(_outputs(output))
    one = isinstance(output, Tensor) or not isinstance(output, Mapping | tuple | list)
    return shown(output) if one else f"{type(output).__name__} of {', '.join(map(shown, outputs)) or 'nothing'}"
