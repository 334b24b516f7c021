"""Values that are recomputed where they are read, and rows that the widest kernel pipelines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asqcli.engine.native import bindings, planner
from tests.engine.native.mobilenet import inverted_residual, recompute_all
from tests.engine.networks import assert_equal

pytestmark = [pytest.mark.usefixtures("small_networks_are_worth_a_team"), pytest.mark.native]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(0, 2**32))
def test_inverted_residuals(data, seed):
    """Rows that the widest kernel pipelines, of 13 to 45 pixels, and values that are recomputed instead of stored."""
    draw, rng = data.draw, np.random.default_rng(seed)
    size, channels = draw(st.integers(13, 45)), draw(st.sampled_from([3, 13, 16, 24, 32, 33]))
    artifact = inverted_residual(
        rng, size, channels, expanded=draw(st.sampled_from([16, 24, 32, 48])), stride=draw(st.sampled_from([1, 2])),
        columns=draw(st.sampled_from([2, 3])), adapter=draw(st.booleans()), bias=draw(st.booleans()),
        norm=draw(st.booleans()), high=draw(st.sampled_from([None, 6.0])),
    )  # fmt: skip
    images = rng.standard_normal((2, 3, size, size)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        if draw(st.booleans()):
            recompute_all(patch)
        assert_equal(artifact, images, draw(st.sampled_from([(), (2,), (3,)])))


def recomputations(plan: planner.Plan) -> list[bool]:
    """Does each convolution recompute another?"""
    return [op.conv.recompute is not None for op in plan.ops if op.kind == bindings.OP_CONV]


def test_values_are_recomputed_where_they_would_not_stay_in_a_cache():
    rng = np.random.default_rng(0)
    for size, channels, columns, recomputed in ((150, 16, 3, False), (200, 16, 3, True), (200, 48, 3, False)):
        artifact = inverted_residual(rng, size, channels, expanded=16, columns=columns)
        expected = [False, False, recomputed, False, False]
        assert recomputations(planner.Plan(artifact, {}, recompute=True)) == expected
        assert not any(recomputations(planner.Plan(artifact, {})))
