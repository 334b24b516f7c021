"""Figures against an independent form: the t distribution in closed form, by hand, and SciPy's own test."""

import math

import numpy as np
import pytest
from scipy import stats

from asqcli.study.statistics import compare, mean, spread


def test_mean_and_spread_by_hand():
    assert mean([91.0, 92.0, 94.0]) == pytest.approx(277 / 3) and mean([]) is None
    assert spread([91.0, 92.0, 94.0]) == pytest.approx(math.sqrt(7 / 3)) and spread([91.0]) is None


def test_three_pairs_by_hand():
    """With two degrees of freedom the t distribution has a closed form: p = 1 - |t| / sqrt(t^2 + 2)."""
    found = compare({0: 92.0, 1: 91.5, 2: 92.5, 9: 10.0}, {2: 91.0, 1: 91.0, 0: 91.0, 5: 99.0})
    t = 1.0 / (0.5 / math.sqrt(3))
    assert (found.pairs, found.wins, found.mean_difference) == (3, 3, pytest.approx(1.0))
    assert found.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-2)
    assert found.verdict == "no difference shown (p 0.074)"


@pytest.mark.parametrize("pairs", [3, 4, 7, 30])
def test_against_scipy(pairs):
    rng = np.random.default_rng(pairs)
    row, other = rng.normal(91, 0.3, pairs).round(2), rng.normal(90.8, 0.3, pairs).round(2)
    found = compare(dict(enumerate(row)), dict(enumerate(other)))
    assert found.p_value == pytest.approx(stats.ttest_rel(row, other).pvalue, rel=1e-2)
    assert found.wins == (row > other).sum() and found.mean_difference == pytest.approx((row - other).mean())
    assert compare(dict(enumerate(other)), dict(enumerate(row))).p_value == found.p_value


def test_where_there_is_nothing_to_test():
    assert compare({}, {0: 91.0}).verdict == "no pairs yet"
    two = compare({0: 92.0, 1: 93.0}, {0: 91.0, 1: 90.0})
    assert two.p_value is None and two.verdict == "too few pairs to test"
    same = compare(dict.fromkeys(range(3), 91.0), dict.fromkeys(range(3), 91.0))
    assert (same.p_value, same.wins, same.verdict) == (None, 0, "equal in every pair")
    # 91.1 - 91.0 and 91.4 - 91.3 differ in their last bits; that is no spread.
    shifted = compare({0: 91.1, 1: 91.4, 2: 90.2}, {0: 91.0, 1: 91.3, 2: 90.1})
    assert shifted.p_value is None and shifted.verdict == "the same difference in every pair"


def test_a_small_p_has_a_direction():
    base = {0: 91.0, 1: 91.2, 2: 90.9}
    assert compare({s: v + 1 + s / 100 for s, v in base.items()}, base).verdict.startswith("better (p ")
    assert compare({s: v - 1 - s / 100 for s, v in base.items()}, base).verdict.startswith("worse (p ")
