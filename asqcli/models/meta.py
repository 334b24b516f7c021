"""Networks whose weights have shapes and no storage: any size is built in the time of its Python code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asqcli.errors import AsqError
from asqcli.models.names import made_for_small_images
from asqcli.models.registry import build_model

SIZE_STEP, LARGEST_TRIED = 32, 256  # pixels
# By which weights get their first values, of which there are none here; the meta device takes its time over them.
INITIALISE = frozenset(
    {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_}
    | {Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_}  # steps of `trunc_normal_`
)
# Layers that networks normalise with, or derive from.
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class ClassifierTraits:
    """What a network of torchvision or timm has that matters to its training.

    Attributes:
        norms: any layers that normalise.
        smallest_image_size: the smallest multiple of 32 pixels that suits it. Without norms it must leave the last
            convolutions more than one pixel: most of their weights would see nothing but padding, and training
            without norms does not get over that. 32 where no size up to 256 does.
    """

    norms: bool
    smallest_image_size: int


@cache
def classifier_traits(name: str) -> ClassifierTraits | None:
    """Return the traits of a network of torchvision or timm; None for others, and where it cannot be built."""
    if made_for_small_images(name):
        return None
    try:
        model = build_on_meta(name, None).eval()
    except AsqError:  # told by whoever builds it in earnest
        return None
    norms = any(isinstance(module, NORMS) for module in model.modules())
    sizes = range(SIZE_STEP, LARGEST_TRIED + 1, SIZE_STEP)
    suits = (size for size in sizes if _runs(model, size, single_pixels=norms))
    return ClassifierTraits(norms, next(suits, SIZE_STEP))


@torch.no_grad()
def _runs(model: nn.Module, size: int, *, single_pixels: bool) -> bool:
    """Does the network take images of this size?

    Args:
        single_pixels: may its convolutions larger than 1x1 see a single pixel?
    """
    sides: list[int] = []
    spatial = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1))
    watches = [m.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1])) for m in spatial]
    try:
        model(torch.empty(1, 3, size, size, device="meta"))
    except Exception:  # too small an image has no error of its own
        return False
    finally:
        for watch in watches:
            watch.remove()
    return single_pixels or 1 not in sides


class EmptyOnMeta(TorchFunctionMode):
    """Puts what `torch.empty` makes, which is how layers make their weights, on the meta device.

    Not all new tensors, as `torch.device("meta")` does: some constructors compute their widths with small ones.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in INITIALISE and args[0].is_meta:
            return args[0]
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def build_on_meta(name: str, num_classes: int | None, *, image_size: int | None = None) -> nn.Module:
    """Return the network of `build_model` on the meta device.

    Raises:
        UsageError, UnsupportedError: as `build_model`; a factory may also raise because its weights have no values.
    """
    with warnings.catch_warnings(), EmptyOnMeta():
        warnings.simplefilter("ignore")  # weights that a factory loads go nowhere, and torch says so of each
        return build_model(name, num_classes, image_size=image_size).to("meta")
