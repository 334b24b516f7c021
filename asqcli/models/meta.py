"""Networks whose weights have shapes and no storage: any size is built in the time of its Python code."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from asqcli.models.registry import build_model


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
