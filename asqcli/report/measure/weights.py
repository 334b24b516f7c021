"""What rounding does to the weights of trained layers, and which levels they use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from asqcli.nn.observed import Layer
from asqcli.quant.spec import LevelWeights, WeightSpec
from asqcli.report.findings import LevelUse
from asqcli.report.measure.spread import relative_errors, rounding_of

BINS = 120
MARGIN = 1.3  # of the largest level, as far as weights are shown: the last ones are clipped, and few
Named = tuple[str, Layer]


@torch.no_grad()
def weight_error(layer: Layer) -> float | None:
    """Return |quantized - float| / |float| of a layer's weights, None where they stay float.

    With APoT's normalisation both are those of the normalised weights.
    """
    if layer.weight_quantizer is None:
        return None
    levels, scale = layer.weight_quantizer.to_levels(layer.weight)
    exact = layer.weight_quantizer.before_rounding(layer.weight)
    scales = scale.reshape(-1, *[1] * (levels.dim() - 1))
    return relative_errors((levels * scales)[None], (exact * scales)[None]).item()


def level_uses(layers: Iterable[Named], chosen: Sequence[str]) -> list[LevelUse]:
    """Return the use of levels of all layers with the most frequent quantizer together, then of the chosen among them.

    Args:
        chosen: names of layers.
    """
    groups: dict[str, list[Named]] = defaultdict(list)
    for name, layer in layers:
        if layer.weight_quantizer is not None:
            groups[str(layer.weight_quantizer.spec)].append((name, layer))
    if not groups:
        return []
    most = max(groups.values(), key=len)
    alone = [[(name, layer)] for name, layer in most if name in chosen and len(most) > 1]
    return [_use(group) for group in (most, *alone)]


@torch.no_grad()
def _use(group: list[Named]) -> LevelUse:
    spec = _spec(group[0][1])
    largest = spec.level_set.largest if isinstance(spec, LevelWeights) else None  # stands for the threshold
    unit = largest or 1.0
    pairs = [_scaled(layer) for _, layer in group]
    exact, rounded = (torch.cat([part.flatten() for part in parts]) / unit for parts in zip(*pairs, strict=True))
    levels = torch.tensor(sorted(set(spec.level_table)), dtype=torch.float64) / unit
    reach = MARGIN * levels.abs().max().item()
    return LevelUse(
        layers=[name for name, _ in group],
        quantizer=str(spec),
        unit="step size" if largest is None else "clipping threshold",
        rounding=rounding_of(exact, rounded, levels, low=-reach, high=reach, bins=BINS),
    )


def _scaled(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return (weights in units of the level table, their levels)."""
    quantizer = layer.weight_quantizer
    assert quantizer is not None
    return quantizer.before_rounding(layer.weight), quantizer.to_levels(layer.weight)[0]


def _spec(layer: Layer) -> WeightSpec:
    assert layer.weight_quantizer is not None
    return layer.weight_quantizer.spec
