"""What the adapters answer: an adapter that died, or that adapts nothing, is not seen in the accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from torch import Tensor, nn

from asqcli.nn.prepare import quant_layers

Ranges = dict[str, tuple[float, float]]  # layer: the smallest and the largest beta


@contextmanager
def record_betas(model: nn.Module) -> Generator[Ranges]:
    """Give the range of each adapter's beta over what `model` sees meanwhile, by the names of the layers."""
    ranges: Ranges = {}

    def hook(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def seen(_adapter: nn.Module, _inputs: object, beta: Tensor) -> None:
            low, high = ranges.get(name, (math.inf, -math.inf))
            ranges[name] = min(low, beta.min().item()), max(high, beta.max().item())

        return seen

    adapters = ((name, getattr(layer.activation_quantizer, "adapter", None)) for name, layer in quant_layers(model))
    handles = [adapter.register_forward_hook(hook(name)) for name, adapter in adapters if adapter is not None]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


def span(ranges: Ranges) -> tuple[float, float]:
    """Return the range over all layers.

    >>> span({"a": (0.5, 1.0), "b": (0.75, 1.25)})
    (0.5, 1.25)
    """
    lows, highs = zip(*ranges.values(), strict=True)
    return min(lows), max(highs)
