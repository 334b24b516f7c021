"""`asq study` as a process, whose cells are processes: what they come to, resumed, made elsewhere, failed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from asq_process import asq, fails

pytestmark = pytest.mark.slow

OWN = """\
from torch import nn

def net(num_classes):
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
"""
STUDY = """\
model: own:net
set: {pretrained: none, train: {epochs: 2, batch_size: 128, warmup: {epochs: 2, lr: 0.05}}}
rows:
  A: {scheme: lsq}
  B: {scheme: asq}
  lost: {scheme: lsq, set: {train.lr: 1e20}}
grid: {bits: [3]}
"""
SOUND = ("--cell", "[ab]-*")
THREADS = ("--threads", "1")


def write_study(cwd: Path) -> Path:
    (cwd / "own.py").write_text(OWN)
    (cwd / "mine.yaml").write_text(STUDY)
    return cwd


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that ran to its end, two cells at once, and what it printed."""
    cwd = write_study(tmp_path_factory.mktemp("whole"))
    return cwd, asq("study", "mine.yaml", "--jobs", "2", *THREADS, "--json", cwd=cwd)


def comparable(out: Path, cell: str) -> tuple:
    """What a cell came to, the time that it took aside: its result, and the losses on the way."""
    result = json.loads((out / cell / "result.json").read_text())
    lines = map(json.loads, (out / cell / "metrics.jsonl").read_text().splitlines())
    return {**result, "run": "", "seconds": 0}, [(line["phase"], line["epoch"], line["train_loss"]) for line in lines]


def test_cells_are_runs_and_one_that_diverges_is_a_row_that_says_so(whole):
    cwd, done = whole
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((cwd / "runs/mine/study.json").read_text())
    a, b, lost = (row["cells"][0] for row in document["rows"])
    assert (a["status"], b["status"], lost["status"]) == ("done", "done", "failed")
    assert lost["reason"].startswith("diverged: ") and lost["exit_code"] == 5 and lost["top1"] is None
    for cell in (a, b):
        result = json.loads((cwd / "runs/mine" / cell["run"] / "result.json").read_text())
        assert (result["top1"], result["float_top1"]) == (cell["top1"], cell["float_top1"])
    assert document["rows"][0]["mean"] == a["top1"]
    assert document["comparisons"][0]["mean_difference"] == pytest.approx(b["top1"] - a["top1"], abs=1e-3)
    starts = [line.partition(":")[0] for line in done.stderr.splitlines() if ": started" in line]
    assert starts == ["a-w3a3-seed0", "b-w3a3-seed0", "lost-w3a3-seed0"]


def test_started_again_it_trains_nothing(whole):
    cwd, done = whole
    again = asq("study", "mine.yaml", "--json", cwd=cwd)
    assert again.returncode == 0 and again.stdout == done.stdout and ": started" not in again.stderr
    table = asq("study", "mine.yaml", cwd=cwd)
    assert "Study mine" in table.stdout and "lost-w3a3-seed0 failed: diverged: " in table.stdout
    plan = asq("study", "mine.yaml", "--dry-run", cwd=cwd)
    assert "failed: diverged" in plan.stdout and "Nothing is left to train." in plan.stdout
    assert asq("study", "mine.yaml", "--commands", cwd=cwd).stdout == ""
    line = asq("study", "mine.yaml", "--commands", "--retry", cwd=cwd).stdout
    assert line == "asq quantize own:net --resume runs/mine/lost-w3a3-seed0\n"
    # What is estimated for cells like those that are done.
    plan = asq("study", "mine.yaml", "--dry-run", "--retry", "--json", cwd=cwd)
    assert json.loads(plan.stdout)["seconds"] >= 0 and "timing a step" not in plan.stderr


def test_another_recipe_is_refused_and_so_is_what_makes_no_sense(whole):
    cwd, _ = whole
    before = (cwd / "runs/mine/study.json").read_bytes()
    for text in ("cells were made from other recipes", "`train.momentum` 0.9 -> 0.5", "runs/mine/b-w3a3-seed0`"):
        fails(2, text, "study", "mine.yaml", "--set", "train.momentum=0.5", cwd=cwd)
    assert (cwd / "runs/mine/study.json").read_bytes() == before
    fails(2, "`--set` names `train.seed`", "study", "mine.yaml", "--set", "train.seed=0", cwd=cwd, hint="the seeds of")
    fails(2, "`--cell lsq*` matches no cell", "study", "mine.yaml", "--cell", "lsq*", cwd=cwd, hint="the cells are a-")
    fails(2, "`--dry-run` makes no sense beside `--commands`", "study", "mine.yaml", "--commands", "--dry-run", cwd=cwd)
    fails(3, "no data set or folder `absent`", "study", "mine.yaml", "--data", "absent", "--out", "o", cwd=cwd)
    fails(2, "no study or file `study_table`", "study", "study_table", cwd=cwd, hint="did you mean")
    fails(
        2, "is a recipe, no study", "study", "resnet20_cifar10", cwd=cwd, hint="`asq quantize --recipe resnet20_cifar10"
    )
    absent = ("study", "mine.yaml", "--weights", "absent", "--out", "o", "--dry-run", "--cell", "a-*")
    fails(3, "a-w3a3-seed0 could not be trained: no weights file `absent`", *absent, cwd=cwd, prints=True)


def test_a_line_of_commands_makes_the_cell_elsewhere(whole, tmp_path):
    write_study(tmp_path)
    lines = asq("study", "mine.yaml", "--commands", *THREADS, *SOUND, "--out", "a folder", cwd=tmp_path).stdout
    assert len(lines.splitlines()) == 2 and not (tmp_path / "a folder").exists()
    assert asq(*shlex.split(lines.splitlines()[0])[1:], cwd=tmp_path).returncode == 0
    assert comparable(tmp_path / "a folder", "a-w3a3-seed0") == comparable(whole[0] / "runs/mine", "a-w3a3-seed0")
    done = asq("study", "mine.yaml", "--cell", "a-*", "--out", "a folder", "--json", cwd=tmp_path)
    assert ": started" not in done.stderr
    assert [row["cells"][0]["status"] for row in json.loads(done.stdout)["rows"]] == ["done", "waiting", "waiting"]


def test_a_cell_that_fails_gives_its_exit_code(tmp_path):
    write_study(tmp_path)
    command = ("study", "mine.yaml", "--cell", "a-*", "--weights", "absent.th", "--json")
    done = asq(*command, cwd=tmp_path)
    (cell,) = json.loads(done.stdout)["rows"][0]["cells"]
    assert done.returncode == 3 and cell["status"] == "failed" and "absent.th" in cell["reason"]
    assert "error: a-w3a3-seed0 failed: " in done.stderr and "--retry" in done.stderr
    assert asq(*command, cwd=tmp_path).returncode == 3  # remembered, not tried again


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="cells are found by Linux's /proc")
@pytest.mark.parametrize(
    ("number", "sight"),
    [
        (signal.SIGKILL, "a-w3a3-seed0/checkpoints/last"),
        (signal.SIGINT, "b-w3a3-seed0/checkpoints/last"),
    ],
)
def test_broken_off_it_goes_on_to_the_same_table(whole, tmp_path, number, sight):
    import fcntl

    write_study(tmp_path)
    command = ["study", "mine.yaml", *THREADS, *SOUND]
    with subprocess.Popen(
        [sys.executable, "-m", "asqcli", *command],
        cwd=tmp_path,
        env={**os.environ, "ASQ_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not (tmp_path / "runs/mine" / sight).exists():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {process.wait(0.05)}")
        cells = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(number)
        if number == signal.SIGKILL:
            for cell in cells:
                os.kill(int(cell), number)
        rest = process.stderr.read()
    with (tmp_path / "runs/mine/.lock").open() as lock:  # what the cell had started may end a little after it
        fcntl.flock(lock, fcntl.LOCK_EX)
    if number == signal.SIGINT:
        assert process.returncode == 130, rest
        assert "error: stopped; 1 of 3 cells are done" in rest and "hint: go on with `asq study mine.yaml" in rest
        assert not (tmp_path / "runs/mine/b-w3a3-seed0/result.json").exists()
    assert asq(*command, cwd=tmp_path).returncode == 0
    for cell in ("a-w3a3-seed0", "b-w3a3-seed0"):
        assert comparable(tmp_path / "runs/mine", cell) == comparable(whole[0] / "runs/mine", cell)
    rows = [json.loads((cwd / "runs/mine/study.json").read_text())["rows"][:2] for cwd in (tmp_path, whole[0])]
    assert rows[0] == rows[1]
