"""What the adapters answer: an adapter that died, or that adapts nothing, is not seen in the accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager

from torch import Tensor, nn

from asqcli.nn.prepare import quant_layers
from asqcli.processes.alone import ALONE, Processes

Ranges = dict[str, tuple[float, float]]  # layer: the smallest and the largest beta


@contextmanager
def record_betas(model: nn.Module, processes: Processes = ALONE) -> Generator[Ranges]:
    """Give the range of each adapter's beta over what `model` sees meanwhile, by the names of the layers.

    Args:
        processes: over what the model sees in all of them, once the context has ended.
    """
    ranges: Ranges = {}

    def hook(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def seen(_adapter: nn.Module, _inputs: object, beta: Tensor) -> None:
            low, high = ranges.get(name, (math.inf, -math.inf))
            ranges[name] = min(low, beta.min().item()), max(high, beta.max().item())

        return seen

    found = ((name, getattr(layer.activation_quantizer, "adapter", None)) for name, layer in quant_layers(model))
    adapters = [(name, adapter) for name, adapter in found if adapter is not None]
    handles = [adapter.register_forward_hook(hook(name)) for name, adapter in adapters]
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()
    _widen(ranges, [name for name, _ in adapters], processes)


def _widen(ranges: Ranges, names: list[str], processes: Processes) -> None:
    """Widen the ranges by those of the other processes."""
    own = [ranges.get(name, (math.inf, -math.inf)) for name in names]
    extremes = processes.largest([extreme for low, high in own for extreme in (-low, high)])
    for name, low, high in zip(names, extremes[::2], extremes[1::2], strict=True):
        if high > -math.inf:
            ranges[name] = -low, high


def span(ranges: Ranges) -> tuple[float, float]:
    """Return the range over all layers.

    >>> span({"a": (0.5, 1.0), "b": (0.75, 1.25)})
    (0.5, 1.25)
    """
    lows, highs = zip(*ranges.values(), strict=True)
    return min(lows), max(highs)
