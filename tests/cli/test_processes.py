"""Training in several processes: `--nproc`, and torchrun around the command."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from asq_process import TIMEOUT_S, asq, fails

from asqcli.run.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

# A network that in a given process sends itself a signal, in a given call in training.
NETWORK = """
import os
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )
        self.head, self.calls = nn.Linear(16, num_classes), 0

    def forward(self, x):
        self.calls += self.training
        if self.training and FAULT and [os.environ.get("RANK", "-"), self.calls] == [FAULT[0], int(FAULT[1])]:
            if FAULT[2] == "error":
                raise ValueError("not today")
            os.kill(os.getpid(), int(FAULT[2]))
        return self.head(self.layers(x).mean((2, 3)))

FAULT = open("fault").read().split() if os.path.exists("fault") else None
if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
    FAULT = None
"""
# An epoch has six steps. The warm-up leaves no start that hangs on roundings.
COMMAND = (
    *("quantize", "nets:Net", "--batch-size", "240", "--epochs", "2", "--lr", "0.001", "--threads", "1"),
    *("--set", "train.warmup.epochs=2", "--set", "data.image_size=16"),
)
FAULT_STEP = 11  # calls in training before any step: 2, and one for each batch that norms are estimated from


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes")
    (path / "nets.py").write_text(NETWORK)
    return path


@contextmanager
def fault(folder, rank, what):
    """Have the network fail in one process."""
    path = folder / "fault"
    path.write_text(f"{rank} {FAULT_STEP} {int(what) if isinstance(what, signal.Signals) else what}")
    yield
    path.unlink()


def epochs(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def progress(run):
    found = load_checkpoint(run / "checkpoints" / "last").progress
    return found.phase, found.epoch, found.step


@pytest.fixture(scope="module")
def of_one(folder):
    """A run in one process, and its result."""
    done = asq(*COMMAND, "--out", "one", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "one", json.loads(done.stdout)


def test_two_processes_do_what_one_does(folder, of_one):
    done = asq(*COMMAND, "--out", "two", "--json", "--nproc", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    one, expected = of_one
    result = json.loads(done.stdout)  # printed once
    assert done.stderr.count("run folder: two") == 1
    assert json.loads((folder / "two" / "environment.json").read_text())["processes"] == 2
    assert json.loads((one / "environment.json").read_text())["processes"] == 1
    same = ("float_top1", "calibrated_top1", "top1", "images", "epochs", "measured_on")
    assert [result[key] for key in same] == [expected[key] for key in same]
    for own, other in zip(epochs(folder / "two"), epochs(one), strict=True):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
    assert sorted(p.name for p in (folder / "two").rglob("*")) == sorted(p.name for p in one.rglob("*"))
    evaluated = asq("eval", "nets:Net", "--weights", "two", "--json", cwd=folder)
    assert json.loads(evaluated.stdout)["top1"] == result["top1"]


def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on(folder, of_one):
    with fault(folder, 0, signal.SIGKILL):
        done = asq(*COMMAND, "--out", "killed", "--nproc", "2", "--json", cwd=folder)
    assert done.returncode == 6 and json.loads(done.stdout)["error"]["code"] == "machine"
    assert done.stderr.count("error: ") == 1 and "error: another process of this training ended" in done.stderr
    assert "hint: go on with `asq quantize nets:Net --resume killed`" in done.stderr
    assert progress(folder / "killed") == ("warmup", 1, 0)
    require_same_epochs(folder, "killed", of_one)


@pytest.mark.parametrize("before", [1, 2])
def test_a_signal_to_one_process_saves_the_work_and_any_number_goes_on(folder, of_one, before):
    out, rank = f"stopped{before}", 1 if before == 2 else "-"
    with fault(folder, rank, signal.SIGTERM):
        done = asq(*COMMAND, "--out", out, "--nproc", before, cwd=folder)
    assert done.returncode == 143, done.stderr
    assert done.stderr.count("error: ") == 1 and "error: stopped in epoch 2 of the warmup phase" in done.stderr
    assert progress(folder / out) == ("warmup", 1, FAULT_STEP - 8)  # the step at hand was finished
    require_same_epochs(folder, out, of_one, "--nproc", 3 - before)


def require_same_epochs(folder, out, of_one, *options):
    """Go on with a run, to what one process came to."""
    done = asq("quantize", "nets:Net", "--resume", out, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    for own, other in zip(epochs(folder / out), epochs(of_one[0]), strict=True):
        assert own["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_a_failure_of_one_process_is_told_once_with_its_exit_code(folder):
    with fault(folder, 1, "error"):
        done = asq(*COMMAND, "--out", "failed", "--nproc", "2", "--json", cwd=folder)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("error: ") == 1 and "ValueError: not today" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "unsupported"


def test_torchrun_starts_a_killed_run_again_where_it_was(folder, of_one, free_port):
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1")
    command = [sys.executable, *launcher, "--master-port", str(free_port), "-m", "asqcli", *COMMAND, "--out", "again"]
    with fault(folder, 1, signal.SIGKILL):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on with again: warmup, epoch 2") == 1
    require_same_epochs(folder, "again", of_one)  # finished: nothing is left to do


def test_what_makes_no_sense_beside_several_processes(folder):
    fails(2, "`--dry-run` makes no sense beside `--nproc`", *COMMAND, "--nproc", "2", "--dry-run", cwd=folder)
    fails(2, "`--profile` makes no sense beside `--nproc`", *COMMAND, "--nproc", "2", "--profile", cwd=folder)
    in_torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    fails(2, "`--nproc` makes no sense in a process that torchrun started", *COMMAND, "--nproc", "1", cwd=folder,
          env=in_torchrun, hint="say `--nproc-per-node` to torchrun")  # fmt: skip
