"""The choice of a kernel by name, and what is said where it cannot be had."""

from __future__ import annotations

import numpy as np
import pytest

from asqcli.artifact import Artifact, nodes
from asqcli.engine import Session, dispatch
from asqcli.errors import MachineError, UnsupportedError, UsageError
from tests.engine.networks import USABLE, Maker


def test_a_network_without_a_native_plan_runs_on_numpy():
    make = Maker(np.random.default_rng(0), 5)
    value = make.layer(0, (4, 3, 1, 1), qmin=-8, qmax=7, stride=(1, 1), padding=(0,) * 4, dilation=(1, 1), groups=1)
    value = make.add(nodes.Reshape, value, shape=(2, 10, 5))
    value = make.add(nodes.Reshape, value, shape=(100,))
    make.layer(value, (3, 100), qmin=-8, qmax=7)
    artifact = make.artifact(3)
    session = Session(artifact)
    assert session.kernel == "matmul" and session.run(np.zeros((1, 3, 5, 5), np.float32)).shape == (1, 3)
    if USABLE:
        assert "no step for `reshape`" in session.notice
        with pytest.raises(UnsupportedError, match="has no step for `reshape`"):
            Session(artifact, kernel=USABLE[0])


def tiny_artifact() -> Artifact:
    make = Maker(np.random.default_rng(0), 3)
    value = make.add(nodes.Reshape, 0, shape=(27,))
    make.layer(value, (3, 27), qmin=-8, qmax=7)
    return make.artifact(3)


def test_names_of_kernels(monkeypatch):
    artifact = tiny_artifact()
    with pytest.raises(UsageError, match="no kernel `matmil`") as raised:
        Session(artifact, kernel="matmil")
    assert raised.value.hint == "did you mean `matmul`?"
    monkeypatch.setattr(dispatch, "compiled_kernels", lambda: {"avx2": (0, False), "scalar": (1, True)})
    with pytest.raises(MachineError, match="this processor does not run the kernel `avx2`"):
        Session(artifact, kernel="avx2")
    with pytest.raises(MachineError, match="the kernel `avx512-vnni` was not compiled"):
        Session(artifact, kernel="avx512-vnni")
    assert "no native kernel for this processor" in Session(artifact).notice
    monkeypatch.setattr(dispatch, "compiled_kernels", dict)
    session = Session(artifact)
    assert session.kernel == "matmul" and "were not compiled" in session.notice
