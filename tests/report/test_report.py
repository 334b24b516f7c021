"""`asq report`, on runs that were trained."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from asq_process import QUICK, asq, fails
from PIL import Image

from asqcli.errors import MachineError
from asqcli.pictures import is_own_png
from asqcli.report.make import Request, make_report

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow
FACTORY = ("--model", "own:net", "--images", "40")


def report(cwd, *args):
    done = asq("report", *args, "--threads", "1", "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), done.stderr


def test_two_runs_side_by_side(runs):
    document, _ = report(runs, "post3", "lsq2", "float", *FACTORY)
    assert document["page"] == "report.html" and document["schema"] == 1
    asq_run, lsq_run, float_run = document["runs"]
    names = [layer["name"] for layer in asq_run["layers"]]
    assert names == ["0", *(f"{block}.conv{k}" for block in (2, 3, 4) for k in (1, 2)), "7"]
    assert [output["name"] for output in asq_run["outputs"]] == ["0", "2", "3", "4", "7"]
    assert asq_run["images"] == lsq_run["images"] == 40
    assert all(run["exported"]["bytes"] > sum(layer["bytes"] for layer in run["layers"]) for run in (asq_run, lsq_run))
    assert [layer["beta"] is not None for layer in asq_run["layers"]] == [False, *[True] * 6, False]
    assert all(layer["beta"] is None for layer in lsq_run["layers"])
    assert len(lsq_run["levels"][0]["rounding"]["levels"]) == 4 and len(lsq_run["levels"][0]["layers"]) == 6
    views = [run["layer_input"] for run in (asq_run, lsq_run)]
    assert views[0]["layer"] == views[1]["layer"] == "3.conv2"
    assert [view["image"] for view in views[0]["images"]] == [view["image"] for view in views[1]["images"]]
    assert views[0]["images"][0]["beta"] < views[0]["images"][1]["beta"] and views[1]["images"][0]["beta"] is None
    assert float_run["layers"] == [] and "nothing is quantized" in float_run["notes"][0]
    page = (runs / "report.html").read_text()
    assert page.count("<img") == len(document["pictures"]) > 6
    for name in document["pictures"]:
        assert is_own_png(runs / name)
        with Image.open(runs / name) as picture:
            assert picture.width > 1000
    result = json.loads((runs / "post3" / "result.json").read_text())
    assert f"{result['top1']:.2f}%" in page and "--scheme post" in page


def test_runs_that_are_not_finished(runs):
    """Killed in an epoch, and before the first checkpoint."""
    for name in ("killed", "begun"):
        shutil.copytree(runs / "post3", runs / name)
        (runs / name / "result.json").unlink()
    lines = (runs / "killed" / "metrics.jsonl").read_text()
    torn = lines.replace('"train_loss": ', '"train_loss": NaN, "was": ') + lines[:30]
    (runs / "killed" / "metrics.jsonl").write_text(torn)
    (runs / "begun" / "metrics.jsonl").unlink()
    shutil.rmtree(runs / "begun" / "checkpoints")
    document, told = report(runs, "killed", "begun", "--out", "p.html", *FACTORY)
    killed, begun = document["runs"]
    assert not killed["finished"] and killed["images"] == 40 and killed["epochs"][-1]["train_loss"] is None
    assert begun["layers"] == [] and begun["notes"] == [
        "the run has no checkpoint yet, so there is no network to measure"
    ]
    assert "begun: the run has no checkpoint yet" in told
    page = (runs / "p.html").read_text()
    assert "not finished: qat epoch 1 is done" in page and "not finished, no epoch done" in page


def test_what_cannot_be_had_is_told_and_the_page_is_made(runs, write_image_folder):
    write_image_folder(runs / "photos" / "train", {"ant": 16, "bee": 16})
    write_image_folder(runs / "photos" / "test", {"ant": 6, "bee": 6})
    flags = ("--scheme", "lsq", "--bits", "4", "--weights", "none", "--set", "train.batch_size=8")
    done = asq("quantize", "own:net", "--data", "photos", *flags, "--out", "ants", *QUICK, cwd=runs)
    assert done.returncode == 0, done.stderr
    (runs / "photos").rename(runs / "moved")
    document, _ = report(runs, "ants", *FACTORY)
    (run,) = document["runs"]
    assert run["images"] == 0 and run["outputs"] == [] and run["layer_input"] is None
    assert run["levels"] and run["layers"][1]["weight_error"] > 0 and run["layers"][1]["bytes"] > 0
    assert document["page"] == "ants/report.html"
    assert "photos" in run["notes"][0] and "--data names" in run["notes"][0]
    fails(2, "`ants/report.html` is there already", "report", "ants", cwd=runs, hint="replace it with --force")
    document, _ = report(runs, "ants", "--data", "moved", "--force", *FACTORY)
    assert document["runs"][0]["images"] == 12
    fails(3, "the classes in `digits`", "report", "ants", "--data", "digits", "--force", *FACTORY, cwd=runs)
    # Without its factory, a run's code is not imported.
    document, _ = report(runs, "ants", "--force", "--images", "5")
    assert "may not import it by itself" in document["runs"][0]["notes"][0] and document["runs"][0]["levels"] == []


def test_mistakes(runs):
    fails(3, "`absent` is not the folder of a run or a study", "report", "absent", cwd=runs)
    fails(3, "is not the folder of a run", "report", ".", cwd=runs)
    fails(2, "a folder is named twice", "report", "post3", "./post3", cwd=runs)
    fails(2, "does not end in .html", "report", "post3", "--out", "a.pdf", cwd=runs)
    fails(6, "is no folder", "report", "post3", "--out", "no/where/a.html", cwd=runs)
    fails(2, "no run was trained with the model `own:other`", "report", "post3", "--model", "own:other", cwd=runs)
    fails(2, "`--layer 2.convv1` matches no layer", "report", "post3", "--layer", "2.convv1", *FACTORY, cwd=runs,
          hint="did you mean `2.conv1`")  # fmt: skip
    (runs / "post3" / "metrics.jsonl").write_text("{}\n")
    fails(3, "line 1 of `post3/metrics.jsonl` is corrupt", "report", "post3", cwd=runs)
    (runs / "lsq2" / "report.html").write_text("mine")
    fails(2, "is no page that asq made", "report", "lsq2", "--force", cwd=runs)
    assert not list(runs.glob("*_files"))


def test_a_study_beside_a_chosen_layer(runs):
    study = {"study": "bits", "rows": [{"row": "post", "scheme": "post", "bits": 3, "mean": 80.0, "cells": [
        {"seed": 0, "run": "post3", "status": "done", "top1": 80.0, "float_top1": 81.0}]}]}  # fmt: skip
    (runs / "study").mkdir()
    (runs / "study" / "study.json").write_text(json.dumps(study))
    document, _ = report(runs, "study")
    assert document["page"] == "study/report.html" and document["pictures"] == ["study/report_files/study_1.png"]
    document, _ = report(runs, "study", "post3", "--layer", "2.*", *FACTORY)
    assert document["studies"][0]["rows"][0]["cells"][0]["top1"] == 80.0
    (run,) = document["runs"]
    assert run["layer_input"]["layer"] == "2.conv1"
    assert [use["layers"] for use in run["levels"][1:]] == [["2.conv1"], ["2.conv2"]]


def test_a_report_for_people(runs):
    done = asq("report", "post3", *FACTORY, cwd=runs)
    assert done.returncode == 0
    assert re.search(r"page +│ post3/report.html", done.stdout) and "measured on 40 images" in done.stdout
    assert "measuring post3" in done.stderr


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setattr("asqcli.pictures.find_spec", lambda name: None)
    with pytest.raises(MachineError) as failure:
        make_report(Request([tmp_path], None, False, 1, None, None, None, ()), print)
    assert failure.value.hint == "pip install 'asqcli[report]'"
