"""The install with compilers that know less than gcc: a kernel is left out with a line, and nothing fails."""

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A compiler that writes nothing but what it was asked, and ends at the flags that it does not know.
COMPILER = """#!{python}
import sys
from pathlib import Path
Path("{log}").open("a").write(" ".join(sys.argv[1:]) + "\\n")
unknown = [flag for flag in {unknown} if flag in sys.argv]
if unknown:
    sys.exit("unknown argument: " + unknown[0])
Path(sys.argv[sys.argv.index("-o") + 1]).write_bytes(b"")
"""


def build(folder: Path, *unknown: str) -> tuple[subprocess.CompletedProcess, list[str], bool]:
    """Return (what happened, the compiler's calls, is there a library?)."""
    pytest.importorskip("setuptools")
    compiler, log = folder / "compiler", folder / "calls"
    compiler.write_text(COMPILER.format(python=sys.executable, log=log, unknown=list(unknown)))
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        folder / "lib",
        "--build-temp",
        folder / "temp",
    ]
    settings = {"CC": str(compiler), "LDSHARED": str(compiler), "ASQ_NATIVE_FLAGS": ""}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True)
    calls = log.read_text().splitlines() if log.exists() else []
    return done, calls, any(folder.glob("lib/**/native.so"))


def linked(calls: list[str]) -> set[str]:
    """Return the kernels in the engine's library."""
    link = next(call for call in calls if "native.so" in call)
    return {Path(word).stem for word in link.split() if word.endswith(".o")} - {"dispatch"}


ALL = {"kernel_scalar", "kernel_avx2", "kernel_avxvnni", "kernel_avx512vnni"}
x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="kernels of x86 processors")


@x86
def test_a_compiler_that_knows_all_flags_makes_all_kernels(tmp_path):
    done, calls, library = build(tmp_path)
    assert (done.returncode, done.stderr, library) == (0, "", True)
    assert linked(calls) == ALL
    assert all(any(tmp_path.glob(f"lib/**/{name}.so")) for name in ("fake_quant", "products"))
    dispatch = next(call for call in calls if "dispatch.c" in call)
    assert all(f"-DASQ_{kernel.upper()}" in dispatch for kernel in ALL - {"kernel_scalar"})


@x86
def test_a_flag_of_gcc_alone_is_left_out(tmp_path):
    done, calls, library = build(tmp_path, "-fno-tree-pre")
    assert (done.returncode, library, linked(calls)) == (0, True, ALL)
    assert "left out" not in done.stderr and "cannot make" not in done.stderr


@x86
def test_a_kernel_whose_instructions_are_unknown_is_left_out(tmp_path):
    done, calls, library = build(tmp_path, "-mavxvnni")
    assert (done.returncode, library, linked(calls)) == (0, True, ALL - {"kernel_avxvnni"})
    assert "cannot make kernel_avxvnni.c; other kernels will do its work" in done.stderr
    assert "-DASQ_KERNEL_AVXVNNI" not in next(call for call in calls if "dispatch.c" in call)


def test_without_a_compiler_the_install_goes_on(tmp_path):
    done, _, library = build(tmp_path, "-c")
    assert (done.returncode, library) == (0, False)
    assert "the native kernels were not compiled" in done.stderr and "`asq infer` will use NumPy" in done.stderr
    assert "the passes of training were not compiled" in done.stderr
    assert "the convolutions of training were not compiled" in done.stderr
