"""Mean, spread, and the comparison of two rows by pairs of the same seed. All values are top-1 in percent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FEWEST_PAIRS = 3  # below, a test has next to no power
SIGNIFICANT = 0.05


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, None of nothing."""
    return statistics.fmean(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1), None of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """A row beside another, seed by seed.

    Attributes:
        pairs: seeds that both have.
        wins: pairs in which the row is above the other.
        mean_difference: row minus other, points; None without pairs.
        p_value: of the two-sided paired t-test; None where there is none, with fewer than FEWEST_PAIRS or the same
            difference in all of them.
    """

    pairs: int
    wins: int
    mean_difference: float | None
    p_value: float | None

    @property
    def verdict(self) -> str:
        """What that shows, in words."""
        if self.mean_difference is None:
            return "no pairs yet"
        if self.pairs < FEWEST_PAIRS:
            return "too few pairs to test"
        if self.p_value is None:
            return "equal in every pair" if self.mean_difference == 0 else "the same difference in every pair"
        if self.p_value >= SIGNIFICANT:
            return f"no difference shown (p {self.p_value:.2g})"
        return f"{'better' if self.mean_difference > 0 else 'worse'} (p {self.p_value:.2g})"


def compare(row: Mapping[int, float], other: Mapping[int, float]) -> Comparison:
    """Compare two rows.

    Args:
        row, other: seed to top-1.

    >>> compare({0: 92.0, 1: 91.5, 2: 92.5}, {0: 91.0, 1: 91.0, 2: 91.0}).p_value
    0.0742
    """
    # Of figures with two decimals: what is left of their last bits must not look like a spread.
    differences = [round(row[seed] - other[seed], 9) for seed in row.keys() & other.keys()]
    pairs, wins = len(differences), sum(difference > 0 for difference in differences)
    p_value = None
    if pairs >= FEWEST_PAIRS and (deviation := statistics.stdev(differences)) > 0:
        from scipy.special import stdtr  # the t distribution, without the second that `scipy.stats` takes to import

        t = statistics.fmean(differences) / (deviation / math.sqrt(pairs))
        p_value = float(f"{2 * stdtr(pairs - 1, -abs(t)):.3g}")
    return Comparison(pairs, wins, mean(differences), p_value)
