"""The machine code of the kernels."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from asqcli.engine.native import bindings

pytestmark = pytest.mark.native


@pytest.mark.parametrize(
    ("kernel", "products", "register", "accumulators", "at_least"),
    [
        ("avx512-vnni", "vpdpbusd", "zmm", 28, 3),  # one row, two, transforms
        ("avx-vnni", "vpdpbusd", "ymm", 12, 1),
        ("avx2", "vpmaddubsw", "ymm", 8, 1),
    ],
)
def test_the_widest_tiles_keep_their_accumulators_in_registers(kernel, products, register, accumulators, at_least):
    """A compiler that stores them in every step makes a kernel up to three times slower."""
    if kernel not in bindings.compiled_kernels() or shutil.which("objdump") is None:
        pytest.skip(f"needs the compiled kernel {kernel} and objdump")
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", bindings.LIBRARY], capture_output=True, text=True, check=True
    )
    # Inner functions have no names here: the tiles are found by their row of products without a branch between them.
    product = re.compile(rf"\t(?:{{vex}} )?{products}\s.*%{register}")
    store = re.compile(rf"vmov\w+\s+%{register}\d+,(?:0x\w+)?\(%rsp|vmov\w+\s+%{register}\d+,-0x\w+\(%rbp")
    tiles = 0
    for part in re.split(r"\tj\w+ .*|\tret", done.stdout):
        lines = part.splitlines()
        at = [k for k, line in enumerate(lines) if product.search(line)]
        if len(at) < accumulators:
            continue
        stores = [line for line in lines[at[0] : at[-1] + 1] if store.search(line)]
        if len(at) == accumulators:
            tiles += 1
            assert not stores
        elif register == "zmm":  # pipelined rows, which have no loop inside: a constant now and then
            assert 10 * len(stores) < len(at)
    assert tiles >= at_least
