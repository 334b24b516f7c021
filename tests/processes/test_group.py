"""What processes exchange, in two of them."""

import os
import subprocess
import sys

import pytest
import torch

from asqcli.processes.alone import ALONE
from asqcli.processes.part import WHOLE, Part

pytestmark = pytest.mark.slow

SCRIPT = """
import os, torch
from torch import nn
from asqcli.processes.group import joined

with joined(on_cuda=False) as group:
    rank = group.rank
    assert group.sum(rank + 1, 0.5) == (3, 1.0) and group.largest([rank, -rank]) == [1, 0]
    assert group.texts(os.fsdecode(b"caf\\xe9" * (rank + 1))) == [os.fsdecode(b"caf\\xe9" * n) for n in (1, 2)]
    assert group.texts("") == ["", ""]
    assert group.agree_to_stop(None) is None and group.agree_to_stop(15 if rank else None) == 15

    flags, halves = torch.tensor([True, False]) ^ bool(rank), torch.tensor(0.5 + rank, dtype=torch.float16)
    last = torch.full((2, 3, 4, 5), float(rank)).contiguous(memory_format=torch.channels_last)
    group.copy_from_first([flags, halves, last, torch.empty(0)])
    assert flags.tolist() == [True, False] and halves == 0.5 and not last.any()
    assert last.is_contiguous(memory_format=torch.channels_last)

    norm = nn.SyncBatchNorm(2).train()(torch.ones(2, 2))  # refuses the CPU by itself
    with group.one_at_a_time():
        assert os.path.exists("went") == bool(rank)
        open("went", "w").close()
    print("done", rank)
"""


def start(rank, folder, port):
    variables = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=folder, env={**os.environ, **{k: str(v) for k, v in variables.items()}},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_two_processes_without_a_launcher(tmp_path, free_port):
    processes = [start(rank, tmp_path, free_port) for rank in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [p.returncode for p in processes] == [0, 0], printed
    assert all(f"done {rank}" in text for rank, text in enumerate(printed))


def test_a_process_alone_changes_nothing():
    tensor = torch.ones(2)
    ALONE.add_up(tensor)
    ALONE.copy_from_first([tensor])
    ALONE.wait()
    assert ALONE.sum(1, 2) == (1, 2) and ALONE.texts("a") == ["a"] and ALONE.agree_to_stop(2) == 2
    assert ALONE.first and ALONE.weigh(tensor, 3) is tensor and tensor.tolist() == [1, 1] and ALONE.part == WHOLE


@pytest.mark.parametrize("count", [0, 1, 7, 12])
def test_parts_make_up_the_whole(count):
    images = torch.arange(count)
    for of in (1, 2, 5):
        parts = [images[Part(n, of).cut(count)] for n in range(of)]
        assert torch.equal(torch.cat(parts), images)
        assert [len(p) for p in parts] == [len(p) for p in images.tensor_split(of)]
