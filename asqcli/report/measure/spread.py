"""Many numbers to few: quantiles, histograms, relative errors."""

from __future__ import annotations

import torch
from torch import Tensor

from asqcli.report.findings import Histogram, Rounding, Spread

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def spread_of(values: Tensor) -> Spread:
    """Return the quantiles of one figure over images, (N,).

    >>> spread_of(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])).median
    2.0
    """
    return Spread(*torch.quantile(values.double(), torch.tensor(QUANTILES, dtype=torch.float64)).tolist())


def relative_errors(quantized: Tensor, exact: Tensor) -> Tensor:
    """Return |quantized - exact| / |exact|, L2 norms over each image, (N,) float64; 0 where both are 0.

    Args:
        quantized, exact: (N, ..).

    >>> relative_errors(torch.tensor([[3.0, 5.0], [0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [0.2, 0.0]
    """
    exact = exact.flatten(1).double()
    wrong = torch.linalg.vector_norm(quantized.flatten(1).double() - exact, dim=1)
    return torch.where(wrong == 0, wrong, wrong / torch.linalg.vector_norm(exact, dim=1))


def rounding_of(values: Tensor, rounded: Tensor, levels: Tensor, *, low: float, high: float, bins: int) -> Rounding:
    """Return how `values` lie between `low` and `high`, and which of the levels they were rounded to.

    Args:
        values: any shape; those that are no numbers are neither in a bin nor at a level.
        rounded: of the same shape; each is one of `levels`, up to a float32's roundings.
        levels: ascending, (count,).
    """
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    finite = values.isfinite()
    counts = torch.histogram(values[finite].double(), edges).hist
    middles = (levels[1:] + levels[:-1]).double() / 2
    used = torch.bincount(torch.bucketize(rounded[finite].double(), middles), minlength=len(levels))
    total = values.numel()
    return Rounding(
        before=Histogram(edges.tolist(), (counts / total).tolist()),
        levels=levels.tolist(),
        shares=(used / total).tolist(),
    )
