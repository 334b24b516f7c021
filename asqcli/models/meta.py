"""Networks whose weights have shapes and no storage: any size is built in the time of its Python code."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from asqcli.errors import AsqError
from asqcli.models.registry import build_model

SIZE_STEP, LARGEST_TRIED = 32, 256  # pixels


def smallest_image_size(name: str) -> int:
    """Return the smallest multiple of 32 pixels at which a network runs; 32 where none of those up to 256 is one."""
    try:
        model = build_on_meta(name, None)
    except AsqError:  # told by whoever builds it in earnest
        return SIZE_STEP
    sizes = range(SIZE_STEP, LARGEST_TRIED + 1, SIZE_STEP)
    return next((size for size in sizes if _runs(model.eval(), size)), SIZE_STEP)


@torch.no_grad()
def _runs(model: nn.Module, size: int) -> bool:
    try:
        model(torch.empty(1, 3, size, size, device="meta"))
    except Exception:  # too small an image has no error of its own
        return False
    return True


class _EmptyOnMeta(TorchFunctionMode):
    """Puts what `torch.empty` makes, which is how layers make their weights, on the meta device.

    Not all new tensors, as `torch.device("meta")` does: some constructors compute their widths with small ones.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def build_on_meta(name: str, num_classes: int | None, *, image_size: int | None = None) -> nn.Module:
    """Return the network of `build_model` on the meta device.

    Raises:
        UsageError, UnsupportedError: as `build_model`; a factory may also raise because its weights have no values.
    """
    with warnings.catch_warnings(), _EmptyOnMeta():
        warnings.simplefilter("ignore")  # weights that a factory loads go nowhere, and torch says so of each
        return build_model(name, num_classes, image_size=image_size).to("meta")
