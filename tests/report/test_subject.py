"""What is read of a run's folder."""

from __future__ import annotations

import json
import math

import pytest

from asqcli.errors import InputError
from asqcli.report.subject import read_subjects
from asqcli.run.folder import RunFolder
from tests.report.conftest import made_up_run

EPOCH = {"phase": "qat", "epoch": 1, "train_loss": 0.5, "train_top1": 90.0, "beta": {"a": [0.5, 1.5]}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_recipe(made_up_run().subject.recipe.model_dump(mode="json"), None)
    return folder


def test_a_run_that_just_began(folder):
    (subject,) = read_subjects([folder.path])
    assert (subject.label, subject.result, subject.epochs, subject.environment) == ("run", None, [], {})


def test_epochs_that_are_no_numbers_and_a_line_that_a_kill_cut_off(folder):
    folder.append_metrics({**EPOCH, "loss": math.nan, "top1": None})
    folder.append_metrics({**EPOCH, "epoch": 2, "train_loss": math.inf})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**EPOCH, "epoch": 3})[:40])
    first, second = folder.metrics()
    assert math.isnan(first["loss"]) and second["train_loss"] == math.inf and first["beta"] == {"a": [0.5, 1.5]}


@pytest.mark.parametrize("line", ["[]", "{", json.dumps({**EPOCH, "epoch": 0}), json.dumps({"phase": "qat"})])
def test_lines_that_are_none(folder, line):
    (folder.path / "metrics.jsonl").write_text(json.dumps(EPOCH) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"line 2 of .* is corrupt"):
        folder.metrics()


def test_labels_tell_runs_apart(tmp_path, folder):
    paths = [tmp_path / name for name in ("a/run", "b/run", "c")]
    for path in paths:
        path.mkdir(parents=True)
        (path / "recipe.yaml").write_bytes((folder.path / "recipe.yaml").read_bytes())
    assert [subject.label for subject in read_subjects(paths)] == ["a/run", "b/run", "c"]
