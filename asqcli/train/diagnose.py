"""Where a NaN or an infinity came from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asqcli.train.forward import forward_in_training


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor) -> str | None:
    """Return what is NaN or infinite first: a parameter, or the output of the first layer to give one; or None.

    Args:
        images: the batch that gave the loss, (N, 3, H, W). Batch-norm statistics are moved by this run, as by any.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the parameter `{name}`"
    if not images.isfinite().all():
        return "the images"
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if not found and isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return hook

    hooks = [m.register_forward_hook(look(name)) for name, m in model.named_modules() if name]
    try:
        forward_in_training(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    return f"the output of layer `{found[0]}`" if found else None
