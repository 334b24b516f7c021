import os
import signal
import subprocess
import sys

import pytest

IMAGES = ("--set", "data.augment=resized_crop", "--set", "data.image_size=16", "--set", "data.resize=20")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_job_saves_the_work(tmp_path, write_image_folder, number):
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
        for line in process.stderr:
            if line.startswith("warmup epoch 1/"):
                break
        os.killpg(process.pid, number)
        rest = process.stderr.read()
    assert process.returncode == 128 + number, rest
    assert "error: stopped in epoch" in rest and "hint: go on with `asq quantize --resume r`" in rest
