"""`asq infer --bench` as a process, where other engines are absent."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from asq_process import asq, fails

from asqcli.artifact import read_artifact, write_artifact


@pytest.fixture
def without_peers(tmp_path):
    """An environment in which nothing of the extra `bench` and no C++ compiler can be found."""
    folder = tmp_path / "absent"
    folder.mkdir()
    for name in ("onnx", "onnxruntime", "openvino"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('gone', name={name!r})\n")
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "CXX": "no-such-compiler"}


def test_the_document_holds_figures_and_names_what_is_missing(exported, without_peers, tmp_path):
    done = asq("infer", exported[0], "--bench", "--batch", "2", "--threads", "1", "--kernel", "matmul", "--json",
               cwd=tmp_path, env=without_peers)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "preparing onnxruntime-int8" in done.stderr
    document = json.loads(done.stdout)
    bench = document["bench"]
    assert document["schema"] == 1 and document["kernel"] == bench["kernel"] == "matmul"
    assert (bench["model"], bench["threads"], bench["batch"], bench["input_size"]) == ("resnet20", 1, 2, 16)
    assert list(bench["peers"]) == list(bench["ratios"]) == ["torch-eager"] and bench["ratio_to_best_int8"] is None
    assert bench["median_ms"] > 0 and bench["peers"]["torch-eager"] > 0 and bench["rounds"] >= 5
    assert bench["ratios"]["torch-eager"] == pytest.approx(
        bench["median_ms"] / bench["peers"]["torch-eager"], rel=1e-3, abs=1e-3
    )
    for name, median in (("asq", bench["median_ms"]), *bench["peers"].items()):
        lower, upper = bench["spread"][name]
        assert 0 < lower <= median <= upper
        assert bench["runs"][name] >= bench["rounds"] and bench["cores_busy"][name] > 0
    missing = bench["missing"]
    assert list(missing) == [
        "torch-compile",
        "onnxruntime-float",
        "onnxruntime-int8",
        "openvino-float",
        "openvino-int8",
    ]
    assert missing["onnxruntime-float"] == "`onnx` is not installed: pip install 'asqcli[bench]'"
    assert "ompiler" in missing["torch-compile"]
    assert bench["processor"] and {"python", "torch", "numpy"} <= set(bench["versions"])


def test_the_table_fits_and_a_strangers_factory_is_not_imported(exported, tmp_path):
    artifact = read_artifact(exported[0])
    provenance = artifact.document.provenance.model_copy(update={"model": "shop:net"})
    artifact = replace(artifact, document=artifact.document.model_copy(update={"provenance": provenance}))
    (tmp_path / "r.asq").write_bytes(write_artifact(artifact))
    (tmp_path / "shop.py").write_text("raise SystemExit('imported')\n")
    done = asq("infer", "r.asq", "--bench", "--threads", "1", "--kernel", "matmul", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "asq, matmul" in done.stdout and max(map(len, done.stdout.splitlines())) <= 100
    told = " ".join(done.stdout.split())
    assert "missing torch-eager, torch-compile, onnxruntime-float" in told
    assert "the network comes from the factory `shop:net`: name it with --model" in told


def test_wrong_command_lines(exported, tmp_path):
    for given in (["a.png"], ["--data", "digits"], ["--verify"], ["--run", "r"]):
        fails(2, "`--bench` runs on random images and takes no others", "infer", exported[0], "--bench", *given,
              cwd=tmp_path, hint="leave out images, --data and --verify")  # fmt: skip
    fails(2, "`--batch` is the number of images", "infer", exported[0], "a.png", "--batch", "2", cwd=tmp_path)
    fails(2, "'--batch'", "infer", exported[0], "--bench", "--batch", "0", cwd=tmp_path)
    fails(3, "cannot be read: No such file", "infer", "absent.asq", "--bench", cwd=tmp_path)
