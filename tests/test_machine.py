import platform
import subprocess
import sys

import pytest

TAKE_AND_FREE = """
import resource, sys
import torch
from asqcli.machine import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()
for _ in range(10):  # until glibc has split its heap so that a part fits
    torch.ones(1 << 24)  # 64 MiB: above what glibc keeps by itself
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_tensor():
    def pages_taken(*arguments):
        done = subprocess.run([sys.executable, "-c", TAKE_AND_FREE, *arguments], capture_output=True, text=True)
        return int(done.stdout)

    assert pages_taken("keep") < 500 < 10 * 1024 <= pages_taken()
