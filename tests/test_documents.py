"""The documents: what they tell a reader to type works as written, and their links lead somewhere.

Every shell and Python block of README.md and USAGE.md is run, in the order of the document and in one folder, or says
in words that it is not: `not run by the tests: REASON`, in the block or in the paragraph above it. A block that begins
with a comment naming a file (`# shop.yaml`) is that file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from asqcli.api import quantize_module
from asqcli.cli.app import app
from asqcli.engine import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "asqcli").rglob("*.md")])
README, USAGE, CONTRIBUTING = ROOT / "README.md", ROOT / "asqcli" / "cli" / "USAGE.md", ROOT / "CONTRIBUTING.md"
PATH = re.compile(r"`((?:asqcli|tests|recipes)/[\w./]+|setup\.py)`")
NOT_RUN = re.compile(r"not run by the tests: \w")
FILE_NAME = re.compile(r"# ([\w.]+\.(?:yaml|py))\n")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language as stated (`` for output), its text, the paragraph above it."""

    language: str
    text: str
    above: str

    @property
    def marked(self) -> bool:
        """Does the document say that this block is not run, and why?"""
        return bool(NOT_RUN.search(self.text) or NOT_RUN.search(self.above))


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(match[1], match[2], _paragraph_before(text, match.start())) for match in found]


def _paragraph_before(text: str, position: int) -> str:
    """Return the paragraph that a reader sees last before a position: comments of HTML are not seen."""
    return re.sub(r"<!--.*?-->", "", text[:position]).rstrip().rpartition("\n\n")[2]


def run_blocks(document: Path, folder: Path, names: dict) -> str:
    """Run a document's blocks in a folder and return what its commands printed; Python blocks share `names`."""
    printed = ""
    for block in blocks(document):
        if block.marked or not block.language:
            continue
        if file := FILE_NAME.match(block.text):
            (folder / file[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(block.text, names)
        elif block.language == "sh":
            printed += run_shell(block.text, folder)
        else:
            pytest.fail(f"{document.name}: a block of {block.language} is neither run nor marked:\n{block.text}")
    return printed


def run_shell(text: str, folder: Path) -> str:
    """Run a shell block as it stands, with an `asq` that is this checkout's; return its stdout."""
    command = folder / "bin" / "asq"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m asqcli "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    paths = {"PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    one_thread = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # the outputs shown were printed by a CPU
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, **paths, **one_thread, "TORCH_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def commands(document: Path) -> list[list[str]]:
    """Return the arguments of each `asq` command in a document's shell blocks."""
    text = "\n".join(block.text for block in blocks(document) if block.language == "sh").replace("\\\n", " ")
    lines = (shlex.split(line, comments=True) for line in text.splitlines())
    return [words[words.index("asq") + 1 :] for words in lines if "asq" in words]


def prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the names under which GitHub makes a document's headings known."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme(tmp_path, monkeypatch, tiny_net):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 2
    first_loss = torch.nn.functional.cross_entropy(tiny_net(images), labels).item()
    names = {"model": tiny_net.train(), "batches": [images], "loader": [(images, labels)] * 25}

    printed = run_blocks(README, tmp_path, names)

    assert names["loss"].item() < 0.7 * first_loss
    logits = names["model"].eval()(images).detach().numpy()
    assert np.array_equal(load("net.asq").run(images.numpy()), logits)
    shown = "".join(block.text for block in blocks(README) if not block.language)
    for row in ("same label", "logits that differ", "codes that differ", "accumulators that differ", "proven"):
        (line,) = re.findall(rf"^│ {row} .*│$", shown, re.MULTILINE)
        assert line in printed
    label = re.compile(r"digit\.jpg │ (\d) ")
    assert label.findall(shown) == label.findall(printed)


def test_usage(tmp_path, monkeypatch, tiny_net, write_image_folder):
    for split in ("train", "test"):
        write_image_folder(tmp_path / "photos" / split, {"bowl": 24, "cup": 24})
    monkeypatch.chdir(tmp_path)
    images = torch.randn(4, 3, 8, 8)
    printed = run_blocks(USAGE, tmp_path, {"model": quantize_module(tiny_net, [images]).train(), "images": images})
    assert "shop.yaml: a valid recipe for shop_models:small_net" in printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_the_options_that_documents_give_them(document):
    root = typer.main.get_command(app)
    for name, *arguments in commands(document):
        if name == "recipe":
            group = root.commands[name]
            group.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        else:
            root.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(document):
    named = [name for name in PATH.findall(prose(document)) if "NAME" not in name]
    assert not [name for name in named if not (ROOT / name).exists()]


def test_contributors_are_sent_to_names_that_are_there():
    """In a table of places, what is in backticks beside a file stands in it."""
    tables = CONTRIBUTING.read_text(encoding="utf-8").partition("## Words")[0]
    files: list[str] = []
    for row in re.findall(r"^\|.*\|$", tables, re.MULTILINE):
        files = [name for name in PATH.findall(row) if (ROOT / name).is_file()] or files
        contents = "".join((ROOT / name).read_text(encoding="utf-8") for name in files)
        names = re.findall(r"`(?:\w+\.)?(\w+)(?:\(\))?`", row.split("|")[-2])
        assert not [name for name in names if name not in contents], row


def test_a_block_that_is_not_run_says_why():
    assert not Block("sh", "asq quantize resnet18\n", "not run by the tests").marked
    assert Block("sh", "# not run by the tests: needs ImageNet\n", "").marked
    commands_shown_as_output = [b for d in DOCUMENTS for b in blocks(d) if not b.language and b.text.startswith("asq ")]
    assert not commands_shown_as_output
