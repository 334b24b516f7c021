import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from asq_process import asq, fails

IMAGES = ("--set", "data.augment=resized_crop", "--set", "data.image_size=16", "--set", "data.resize=20")


@contextmanager
def training(tmp_path, write_image_folder):
    """Yield `asq quantize` on photos, which other processes decode, once it has trained an epoch."""
    write_image_folder(tmp_path / "photos", {"a": 40, "b": 40}, size=(24, 24))
    command = ("quantize", "resnet20", "--weights", "none", "--data", "photos", "--out", "r", *IMAGES)
    with subprocess.Popen(
        [sys.executable, "-m", "asqcli", *command, "--set", "train.warmup.epochs=10000", "--batch-size", "8"],
        cwd=tmp_path,
        env={**os.environ, "ASQ_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, with the processes that decode
    ) as process:
        try:
            for line in process.stderr:
                if line.startswith("warmup epoch 1/"):
                    break
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_job_saves_the_work(tmp_path, write_image_folder, number):
    with training(tmp_path, write_image_folder) as process:
        os.killpg(process.pid, number)
        rest = process.stderr.read()
        assert process.wait() == 128 + number, rest
    assert "error: stopped in epoch" in rest and "hint: go on with `asq quantize --resume r`" in rest


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found by Linux's /proc")
def test_a_decoder_that_the_system_ends_for_lack_of_memory_is_no_fault_of_the_network(tmp_path, write_image_folder):
    with training(tmp_path, write_image_folder) as process:
        while process.poll() is None:
            with suppress(OSError):  # they end by themselves, too
                for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
        assert process.returncode == 6 and "error: out of memory" in process.stderr.read()


def test_a_run_that_is_being_trained_is_no_other_process_s(tmp_path, write_image_folder):
    with training(tmp_path, write_image_folder) as process:
        before = (tmp_path / "r/recipe.yaml").read_bytes()
        fails(2, "another process is training `r`", "quantize", "--resume", "r", cwd=tmp_path)
        replacing = ("quantize", "resnet20", "--data", "photos", "--weights", "none", *IMAGES, "--out", "r", "--force")
        fails(2, "another process is training `r`", *replacing, "--max-steps", "1", cwd=tmp_path)
        assert process.poll() is None and (tmp_path / "r/recipe.yaml").read_bytes() == before
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # What held it is gone with its process.
    done = asq(*replacing, "--max-steps", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
