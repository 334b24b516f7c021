"""Kernels read and write their buffers and nothing else."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from asqcli.artifact import Artifact, nodes
from asqcli.engine import Session
from asqcli.engine.native import memory
from tests.engine.native.mobilenet import inverted_residual, recompute_all
from tests.engine.networks import USABLE, Maker, keep_before_a_guard

pytestmark = pytest.mark.native


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory protection as on Linux")
@pytest.mark.parametrize("kernel", USABLE)
def test_nothing_beyond_the_buffers_is_touched(kernel, monkeypatch):
    monkeypatch.setattr(memory.Memory, "keep", keep_before_a_guard)
    rng = np.random.default_rng(0)
    for width, channels, groups in ((7, 16, 1), (14, 33, 1), (9, 6, 3), (15, 21, 21), (3, 70, 1)):
        make = Maker(rng, width)
        value = make.layer(0, (channels, 3, 3, 3), qmin=-128, qmax=127, stride=(1, 1), padding=(1,) * 4,
                           dilation=(1, 1), groups=1)  # fmt: skip
        value = make.batch_norm(value, channels)
        value = make.layer(value, (channels, channels // groups, 3, 3), qmin=0, qmax=15, stride=(2, 1),
                           padding=(1,) * 4, dilation=(1, 1), groups=groups, channels=channels,
                           adapter=True)  # fmt: skip
        value = make.add(nodes.AdaptiveAvgPool, value, output_size=(1, 1))
        value = make.add(nodes.Reshape, value, shape=(channels,))
        make.layer(value, (5, channels), qmin=-8, qmax=7, adapter=True)
        assert_one_equal(make.artifact(5), kernel, width)
    for size, channels, stride in ((14, 16, 1), (15, 24, 2), (29, 32, 1)):
        artifact = inverted_residual(rng, size, channels, stride=stride)
        assert_one_equal(artifact, kernel, size)
        recompute_all(monkeypatch)
        assert_one_equal(artifact, kernel, size)


def assert_one_equal(artifact: Artifact, kernel: str, size: int) -> None:
    image = np.random.default_rng(size).standard_normal((1, 3, size, size)).astype(np.float32)
    logits = Session(artifact, kernel=kernel).run(image)
    assert np.array_equal(logits, Session(artifact, kernel="matmul").run(image))
