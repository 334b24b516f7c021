"""Runs mutants of artifacts through `asq infer`, each in a process of its own, and tells what became of them.

    python tests/artifact/hostile.py a.asq b.asq --image image.png --count 2000

A mutant is refused with exit code 3 and a reason, or gives an answer, and then all kernels give the same one. Anything
else is a failure: its seed is told, and the exit code of the script is 1.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process that was forked has one thread

import argparse
import contextlib
import io
import json
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mutator import mutate

from asqcli.artifact import read_artifact
from asqcli.cli import app
from asqcli.engine import predict, session  # noqa: F401  loaded once, before the forks

LARGEST_PEAK = 2**30
GUARD_BYTES = 2**32  # address space: a mutant cannot take the machine down
GUARD_SECONDS = 100
SLOW_KERNEL_MULTIPLY_ADDS = 2**26  # the kernel shift-lut is run on networks up to here

STAGES = (
    ("container", r"is corrupt or not an exported network|is not an exported network|cannot be read"),
    ("document's text", r"document is not JSON|the document of .* is larger|has the format"),
    ("schema", r"is not a valid artifact: `"),
    ("tensors", r"tensors?\b.*(is not there|needs|but it is|NaN|no node|something else|`/`|again)|needs the tensor"),
    ("values of tensors", r"step size|can overflow|code range"),
    ("graph and limits", r"is not a valid artifact"),
    ("run", r"leave the range of float32"),
    ("image", r"images? cannot be read"),
)


@dataclass
class Outcome:
    """What became of one mutant; stage: where it was refused, else `answered` or `FAILED`."""

    stage: str
    text: str
    seconds: float
    peak: int


def run_mutant(content: bytes, image: Path, folder: Path) -> Outcome:
    """Run a file in a forked process."""
    file, report = folder / "mutant.asq", folder / "report.json"
    file.write_bytes(content)
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_AS, (GUARD_BYTES, GUARD_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (GUARD_SECONDS, GUARD_SECONDS))
            report.write_text(json.dumps(_infer_both(file, image)))
            code = 0
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    peak = usage.ru_maxrss * 1024
    if status:
        return Outcome("FAILED", f"the process ended with status {status}", 0.0, peak)
    stage, text, seconds = json.loads(report.read_text())
    if peak > LARGEST_PEAK:
        return Outcome("FAILED", f"{peak / 2**20:.0f} MiB of memory; {stage}: {text}", seconds, peak)
    return Outcome(stage, text, seconds, peak)


def _infer_both(file: Path, image: Path) -> tuple[str, str, float]:
    """Return (stage, text, seconds of the best kernel)."""
    start = time.perf_counter()
    code, out, err = _infer(file, image, "--json")  # on the kernel that is the best here
    seconds = time.perf_counter() - start
    if code not in (0, 3) or "fault of asq" in err or "Traceback" in err:
        return "FAILED", f"exit code {code}: {err[:500]}", seconds
    if code == 3:
        stage = next((name for name, pattern in STAGES if re.search(pattern, err)), "FAILED")
        lines = err.splitlines()
        plain = err.startswith("error: ") and len(lines) <= 2 and all(len(s) < 2000 and s.isprintable() for s in lines)
        return stage if plain else "FAILED", err[:500], seconds
    code, _, err = _infer(file, image)
    if code != 0:
        return "FAILED", f"as a table, exit code {code}: {err[:500]}", seconds
    fast = read_artifact(file).graph.multiply_adds <= SLOW_KERNEL_MULTIPLY_ADDS
    for kernel in ("matmul", "shift-lut") if fast else ("matmul",):
        code, other, err = _infer(file, image, "--json", "--kernel", kernel)
        if code != 0 or json.loads(other)["predictions"] != json.loads(out)["predictions"]:
            return "FAILED", f"by {kernel}, exit code {code}: {err[:500]}", seconds
    return "answered", "", seconds


def _infer(file: Path, image: Path, *options: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of `asq infer`."""
    sys.argv = ["asq", "infer", str(file), str(image), "--threads", "1", *options]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.run()
    return int(code), *(stream.buffer.getvalue().decode() for stream in (out, err))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--image", required=True, type=Path)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    originals = [path.read_bytes() for path in arguments.files]
    np.ones((2, 2)) @ np.ones((2, 2))
    outcomes: dict[int, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.files:
            if _infer(path, arguments.image)[0] != 0:
                sys.exit(f"{path} gives no answer itself")
        for seed in range(arguments.first, arguments.first + arguments.count):
            content, edits = mutate(originals[seed % len(originals)], seed)
            outcome = outcomes[seed] = run_mutant(content, arguments.image, Path(folder))
            if arguments.verbose or outcome.stage == "FAILED":
                print(f"{seed}: {outcome.stage}: {edits}: {outcome.seconds:.2f} s: {outcome.text.strip()}")
    for stage, count in Counter(outcome.stage for outcome in outcomes.values()).most_common():
        print(f"{count:6} {stage}")
    for title, key in (("slowest", lambda o: o.seconds), ("largest", lambda o: o.peak)):
        worst = sorted(outcomes, key=lambda seed: key(outcomes[seed]), reverse=True)[:5]
        texts = (f"{s}: {outcomes[s].seconds:.2f} s, {outcomes[s].peak / 2**20:.0f} MiB" for s in worst)
        print(f"{title}: {'; '.join(texts)}")
    return int(any(outcome.stage == "FAILED" for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
