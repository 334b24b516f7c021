"""The folder of a study, with runs in it that the tests write."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

from asqcli.errors import InputError, MachineError, UsageError
from asqcli.run.folder import RunFolder
from asqcli.study.cells import Cell, Study
from asqcli.study.estimate import Estimator, TimedStep, duration
from asqcli.study.lock import locked
from asqcli.study.processes import End
from asqcli.study.work import Work
from tests.study.parts import study_of

STUDY = """\
model: resnet20
set: {pretrained: none}
rows: {A: {scheme: lsq, set: {train.epochs: 4}}, B: {scheme: asq, set: {train.epochs: 8}}, F: {scheme: float}}
seeds: [0, 1]
"""
DIVERGED = End(5, "diverged: the loss became inf", False)


@pytest.fixture
def study(tmp_path):
    return study_of(tmp_path, STUDY)


def by_seed(study: Study) -> list[Cell]:
    return sorted(study.cells, key=lambda cell: (cell.seed, cell.name))


def start(out, cell: Cell) -> RunFolder:
    (out / cell.name).mkdir(parents=True)
    folder = RunFolder(out / cell.name)
    folder.write_recipe(cell.recipe.model_dump(mode="json"), None)
    return folder


def epoch(phase, seconds):
    return {"phase": phase, "epoch": 1, "train_loss": 1.0, "train_top1": 50.0, "seconds": seconds}


def finish(out, cell: Cell, top1: float, epochs: list[tuple[str, float]]) -> None:
    folder = start(out, cell)
    for phase, seconds in epochs:
        folder.append_metrics(epoch(phase, seconds))
    figures = {"float_top1": 90.0, "calibrated_top1": 10.0, "top1": top1, "top5": 100.0}
    facts = {"model": "resnet20", "scheme": "", "weight_bits": 4, "activation_bits": 4, "measured_on": "", "run": ""}
    folder.write_result({**facts, **figures, "seed": cell.seed})


HOLD = """\
import sys
from pathlib import Path
from asqcli.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def trained_elsewhere(folder: RunFolder):
    """Another process holds a run."""
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        yield
        other.stdin.close()


def test_a_cell_that_another_process_trains_is_left_to_it(tmp_path, study):
    a, b, *_ = by_seed(study)
    refused = End(2, "another process is training", False)
    early = Work(study, tmp_path)
    early.prepare()
    with trained_elsewhere(start(tmp_path, a)):
        work = Work(study, tmp_path)
        assert work.running() == [a] and a not in work.waiting() and b in work.waiting()
        assert early.ended(a, refused).status == "running"  # it was begun after the study had looked
    assert early.ended(a, refused).status == "failed"
    assert Work(study, tmp_path, retry={a.name}).running() == []


def test_what_stands_in_the_folders_counts(tmp_path, study):
    a, b, f, *_ = by_seed(study)
    finish(tmp_path, a, 88.0, [])
    finish(tmp_path, f, 91.0, [])
    start(tmp_path, b)
    work = Work(study, tmp_path)
    assert [work.outcomes[c.name].status for c in (a, b, f)] == ["done", "waiting", "done"]
    assert (work.outcomes[a.name].float_top1, work.outcomes[f.name].float_top1) == (90.0, None)
    assert work.arguments(b, 3) == ["quantize", "--resume", str(tmp_path / b.name), "--threads", "3"]
    (tmp_path / b.name / "environment.json").write_text('{"threads": 2}')
    assert work.arguments(b, 3) == ["quantize", "--resume", str(tmp_path / b.name)]  # with its own, for the same bits


def test_a_cell_that_failed_is_remembered_until_it_is_retried_or_asked_for_otherwise(tmp_path, study):
    cell = study.cells[0]
    work = Work(study, tmp_path / "out")
    work.prepare()
    assert work.ended(cell, DIVERGED).status == "failed"
    again = Work(study, tmp_path / "out")
    assert again.outcomes[cell.name] == work.outcomes[cell.name] and cell not in again.waiting()
    assert cell in Work(study, tmp_path / "out", retry={cell.name}).waiting()
    assert cell not in Work(study, tmp_path / "out", retry={study.cells[1].name}).waiting()
    other = study_of(tmp_path, STUDY, overrides=["train.momentum=0.5"])
    assert len(Work(other, tmp_path / "out").waiting()) == 6
    assert work.ended(cell, End(143, "stopped", True)).status == "waiting"


def test_another_recipe_and_corrupt_files_are_refused(tmp_path, study):
    for cell in study.cells:
        start(tmp_path / "out", cell)
    with pytest.raises(UsageError) as failure:
        Work(study_of(tmp_path, STUDY, overrides=["train.lr=0.5"]), tmp_path / "out")
    assert "`train.lr` 0.02 -> 0.5" in failure.value.message and "- and 3 more" in failure.value.message
    (tmp_path / "out" / "study.json").write_text('{"rows": [{"cells": [{"status": "lost"}]}]}')
    with pytest.raises(InputError, match=r"study.json` is corrupt: `rows.0.cells.0.status`"):
        Work(study, tmp_path / "out")


def test_what_a_killed_process_left_is_taken_away_and_nothing_else(tmp_path, study):
    cell = study.cells[0]
    folder = tmp_path / cell.name
    folder.mkdir()
    (folder / "recipe.yaml.part").touch()
    work = Work(study, tmp_path)
    assert "--out" in work.job(cell, None).arguments and not any(folder.iterdir())
    (folder / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"thesis.tex` is not of a run"):
        work.job(cell, None)
    assert (folder / "thesis.tex").exists()


def test_one_study_works_in_a_folder_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(MachineError, match="another `asq study` works in"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_cell_goes_on_with_its_factories_named(tmp_path):
    teaching = "train: {distillation: {teacher: school:big, teacher_weights: factory}}"
    study = study_of(tmp_path, f"model: own:net\nset: {{pretrained: none, {teaching}}}\nrows: {{A: {{scheme: lsq}}}}\n")
    (cell,) = study.cells
    folder = start(tmp_path, cell).path
    named = ["own:net", "--resume", str(folder), "--set", "train.distillation.teacher=school:big"]
    assert Work(study, tmp_path).arguments(cell, 1) == ["quantize", *named, "--threads", "1"]


def test_time_is_estimated_by_cells_that_are_done(tmp_path, study):
    a0, b0, f0, a1, b1, f1 = by_seed(study)
    finish(tmp_path, a0, 88.0, [("warmup", 30.0), *[("qat", 5.0)] * 4])
    start(tmp_path, b0).append_metrics(epoch("warmup", 30.0))
    estimator = Estimator(Work(study, tmp_path))
    assert estimator.seconds(a1) == 30 + 4 * 5 and estimator.seconds(b1) == 30 + 8 * 5
    assert estimator.seconds(b0) == 8 * 5  # it has trained for 30 seconds already
    assert estimator.seconds(f1) is None and estimator.all_seconds([a1, f1], 1) is None
    assert estimator.all_seconds([a1, b1], 2) == (50 + 70) / 2
    finish(tmp_path, b1, 88.0, [("warmup", 10.0), *[("qat", 20.0)] * 8])
    assert Estimator(Work(study, tmp_path)).seconds(b0) == 10 + 8 * 20 - 30  # its own row goes first
    timed = TimedStep(float_ms=10.0, quantized_ms=20.0, steps=100)
    warmup = a0.recipe.train.warmup.epochs
    assert timed.seconds(a0.recipe) == pytest.approx(100 * (4 * 0.02 + warmup * 0.01))
    assert timed.seconds(f0.recipe) == pytest.approx(100 * f0.recipe.train.epochs * 0.01)
    assert duration(90) == "90 s"


def test_tables_are_written_whole(tmp_path, study):
    work = Work(study, tmp_path / "out")
    work.prepare()
    work.started(study.cells[0].name)
    document = json.loads((tmp_path / "out" / "study.json").read_text())
    assert document == work.document and document["rows"][0]["cells"][0]["status"] == "running"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"logs", "study.json", "study.md", "study.csv"}
