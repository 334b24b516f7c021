"""A finished run and its exported file, which several commands are tried on."""

from __future__ import annotations

import json

import pytest
from asq_process import QUICK, asq


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A finished run on the digits, and what the command printed."""
    cwd = tmp_path_factory.mktemp("run")
    done = asq("quantize", "resnet20", "--bits", "4", "--scheme", "post", "--out", "r", "--json", *QUICK, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "r", done


@pytest.fixture(scope="session")
def exported(run_folder):
    """The exported run: (file, what the command printed)."""
    folder, _ = run_folder
    done = asq("export", "r", "--data", "digits", "--json", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder / "r.asq", json.loads(done.stdout)
