"""What quantization changes of the outputs of a network's blocks: its errors, accumulated.

The float network beside it is itself, with all quantizers off: the trained weights as they are. The one that it was
trained from differs by the training, too, and may not exist any more.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from asqcli.nn.prepare import quant_layers
from asqcli.report.measure.spread import relative_errors

FEW_BLOCKS = 3  # fewer are no blocks, but parts such as `features` and `classifier`


def points(model: nn.Module) -> list[str]:
    """Return the modules after which to compare: blocks, and the quantized layers that lie in none.

    A block is the smallest module that holds two quantized layers or more; where modules hold the same ones, the outer,
    which may add a residual. Without blocks all quantized layers.
    """
    layers = [name for name, _ in quant_layers(model)]
    held = {
        name: frozenset(layer for layer in layers if layer.startswith(f"{name}."))
        for name, _ in model.named_modules()
        if name and name not in layers
    }
    several = {own for own in held.values() if len(own) > 1}
    smallest = [own for own in several if not any(other < own for other in several)]
    blocks = [min((name for name in held if held[name] == own), key=len) for own in smallest]
    if len(blocks) < FEW_BLOCKS:
        return layers
    inside = frozenset[str]().union(*smallest)
    return [*blocks, *(layer for layer in layers if layer not in inside)]


class OutputFigures:
    """Errors of outputs over images, batch by batch."""

    def __init__(self) -> None:
        self._errors: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, quantized: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
        """Take in the outputs of one batch, (N, ..) by module, of both networks."""
        for name, output in quantized.items():
            if name in exact and output.dim() > 1:
                self._errors[name].append(relative_errors(output, exact[name]))

    @property
    def errors(self) -> dict[str, Tensor]:
        """|quantized - float| / |float| of each output, (N,), in the order of execution."""
        return {name: torch.cat(parts) for name, parts in self._errors.items()}
