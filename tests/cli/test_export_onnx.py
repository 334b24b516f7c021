"""`asq export --format onnx` as a process, on a run of two steps."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from asq_process import asq, fails

from asqcli.artifact import read_artifact
from asqcli.engine import Session

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.onnx


def test_the_file_answers_as_the_engine_does(run_folder, tmp_path):
    run, cwd = run_folder[0], tmp_path
    done = asq("export", run, "--format", "onnx", "--out", "net.onnx", "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    document, file = json.loads(done.stdout), cwd / "net.onnx"
    assert document["file"] == "net.onnx" and document["format"] == "onnx" and document["layers"] == 20
    assert document["bytes"] == file.stat().st_size and "parts" not in document
    again = asq("export", run, "--format", "onnx", "--out", "again.onnx", cwd=cwd)  # and no --json
    assert "again.onnx" in again.stdout and (cwd / "again.onnx").read_bytes() == file.read_bytes()

    assert asq("export", run, "--out", "net.asq", cwd=cwd).returncode == 0
    engine = Session(read_artifact(cwd / "net.asq"))
    images = np.random.default_rng(0).normal(size=(20, *engine.input_shape)).astype(np.float32)
    expected = engine.run(images)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    # A mean in double may round to the neighbouring float32 in another order of its sum.
    assert np.abs(logits - expected).max() <= 1e-6 * np.abs(expected).max()
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert [layer["weight_bits"] for layer in about["asq_layers"]] == [8, *[4] * 18, 8]
    assert about["asq_input"] == read_artifact(cwd / "net.asq").document.input.model_dump(mode="json")


def test_an_earlier_export_is_replaced_and_nothing_else(run_folder, tmp_path):
    run = run_folder[0]
    fails(2, "'onxn' is not one of", "export", run, "--format", "onxn", cwd=tmp_path)
    assert asq("export", run, "--format", "onnx", "--out", "net.onnx", cwd=tmp_path).returncode == 0
    ours = (tmp_path / "net.onnx").read_bytes()
    model = onnx.load_model_from_string(ours)
    model.producer_name = "pytorch"
    foreign = {
        "notes.txt": b"keep",
        "text.onnx": b"keep",
        "empty.onnx": b"",
        "weeks.json": b"{}",
        "torch.onnx": model.SerializeToString(),
    }
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
        message = f"`{name}` is there already, and is no network that asq exported"
        fails(2, message, "export", run, "--format", "onnx", "--out", name, cwd=tmp_path, hint="choose another")
        assert (tmp_path / name).read_bytes() == content
    fails(2, "is there already", "export", run, "--out", "net.onnx", cwd=tmp_path)

    metadata = model.metadata_props.add()
    metadata.key, metadata.value, model.producer_name = "note", "of an older asq", "asqcli"
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert asq("export", run, "--format", "onnx", "--out", "net.onnx", cwd=tmp_path).returncode == 0
    assert (tmp_path / "net.onnx").read_bytes() == ours


def test_without_onnx(run_folder, tmp_path):
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *args: None if name == 'onnx' else find(name, *args)\n"
        f"sys.argv = ['asq', 'export', {str(run_folder[0])!r}, '--format', 'onnx', '--out', 'net.onnx']\n"
        "from asqcli.cli.app import run\n"
        "sys.exit(run())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 6
    assert done.stderr == "error: `--format onnx` needs the package onnx\nhint: pip install 'asqcli[onnx]'\n"
    assert not (tmp_path / "net.onnx").exists()
