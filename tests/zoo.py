"""Networks through the commands: trained a step, opened, evaluated, exported, verified.

    python tests/zoo.py [NAME..] [--size 64] [--bits 8] [--out TABLE.md]

Each network is trained on a handful of images made here, and each command is a process of its own: what is proven is
that a run can be opened and gives the same answers, not an accuracy. Prints a row of a Markdown table for each network,
as it is done, and what a network ended with that did not get to the end. A name may be `timm:NAME`; without any, all
classifiers of torchvision are tried, which takes hours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from asqcli.models.meta import build_on_meta, classifier_traits
from asqcli.models.registry import torchvision_classifiers
from asqcli.quant.levels import MAX_POWER_BITS

HEADINGS = (
    "network",
    "pixels",
    "bits",
    "trained",
    "opened, evaluated",
    "exported, images proven",
    "codes that differ",
    "s",
)
STEP = ("--weights", "none", "--max-steps", "1", "--batch-size", "4", "--threads", "1")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--bits", type=int, default=4, help="more for a network that one step at 4 bits overflows")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = arguments.names or _all_names()
    _tell(_row(HEADINGS), arguments.out)
    _tell(_row(["---"] * len(HEADINGS)), arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        _make_images(Path(folder) / "images")
        for name in names:
            traits = classifier_traits(name)
            size = max(arguments.size, traits.smallest_image_size if traits else 0)
            _tell(_row(_try(name, size, arguments.bits, Path(folder))), arguments.out)


def _try(name: str, size: int, bits: int, folder: Path) -> list[str]:
    """Return a network's row."""
    begin = time.perf_counter()
    row, run = [name, str(size), str(bits)], "run"
    precision = ["--bits", str(bits), "--scheme", "post" if bits <= MAX_POWER_BITS else "asq"]
    steps = (
        ["quantize", name, "--data", "images", "--out", run, "--set", f"data.image_size={size}", *precision, *STEP],
        ["eval", run],
        ["export", run, "--data", "images"],
        ["infer", f"{run}/{run}.asq", "--data", "images", "--verify", "--run", run, "--threads", "1"],
    )
    results = []
    for arguments in steps:
        done = subprocess.run(
            [sys.executable, "-m", "asqcli", *arguments, "--json"],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "ASQ_OFFLINE": "1", "TORCH_HOME": str(folder), "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            error = json.loads(done.stdout or "{}").get("error", {}).get("message", done.stderr[-300:])
            row.append(f"`{arguments[0]}`: {done.returncode}, {' '.join(error.split())[:160]}")
            break
        results.append(json.loads(done.stdout))
        row.append(_in_words(arguments[0], results))
    shutil.rmtree(folder / run, ignore_errors=True)
    return [*row, *[""] * (len(HEADINGS) - 1 - len(row)), f"{time.perf_counter() - begin:.0f}"]


def _in_words(command: str, results: list[dict]) -> str:
    last = results[-1]
    if command == "quantize":
        return f"{last['top1']:.2f}%"
    if command == "eval":
        equal = all(last[key] == results[0][key] for key in ("top1", "top5", "loss"))
        return "equal" if equal else f"{last['top1']}%, loss {last['loss']}"
    if command == "export":
        return str(last["proof"]["images"])
    verify = last["verify"]
    return f"{verify['code_mismatches'] + verify['accumulator_mismatches'] + verify['logit_mismatches']}"


def _all_names() -> list[str]:
    """Return torchvision's classifiers, small ones first."""

    def parameters(name: str) -> int:
        return sum(p.numel() for p in build_on_meta(name, 10).parameters())

    return sorted(torchvision_classifiers(), key=parameters)


def _make_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("dark", "bright")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 128, (48, 48, 3)) + 127 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{number}.png")


def _row(cells) -> str:
    return f"| {' | '.join(cells)} |"


def _tell(text: str, file: Path | None) -> None:
    print(text, flush=True)
    if file is not None:
        with file.open("a") as table:
            table.write(text + "\n")


if __name__ == "__main__":
    main()
