"""`asq export`, `asq infer` and `asq eval FILE.asq` as processes, on a run of two steps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asq_process import QUICK, asq, fails
from PIL import Image

from asqcli.artifact import read_artifact, write_artifact
from asqcli.artifact.document import quantized_nodes

pytestmark = pytest.mark.slow

needs_a_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")


@pytest.fixture
def images(tmp_path):
    """Three image files of different sizes."""
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (20, 20)), ("b.jpg", (30, 17)), ("c.png", (8, 8))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    return tmp_path


def test_the_summary_adds_up(exported, run_folder):
    file, document = exported
    assert document["schema"] == 1 and document["file"] == "r/r.asq" and document["format"] == "asq"
    assert document["bytes"] == file.stat().st_size == sum(document["parts"].values())
    assert document["share_of_float"] == round(document["bytes"] / document["float_bytes"], 4)
    result = json.loads((run_folder[0] / "result.json").read_text())
    assert document["integer_top1"] == document["quantized_top1"] == result["top1"]
    assert document["float_top1"] == result["float_top1"]


def test_the_engine_answers_as_training_does(exported, run_folder):
    cwd = run_folder[0].parent
    done = asq("infer", "r/r.asq", "--data", "digits", "--verify", "--run", "r", "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    by_name = asq("infer", "r/r.asq", "--data", "digits", "--json", cwd=cwd, env={"ASQ_KERNEL": "matmul"})
    assert json.loads(by_name.stdout)["kernel"] == "matmul"
    assert json.loads(by_name.stdout)["loss"] == json.loads(done.stdout)["loss"]
    document = json.loads(done.stdout)
    verify = document["verify"]
    assert (
        verify["images"] == 360
        and verify["label_agreement"] == 100
        and verify["kernels"] == [document["kernel"], "training"]
    )
    assert verify["code_mismatches"] == verify["logit_mismatches"] == verify["accumulator_mismatches"] == 0
    evaluated = asq("eval", "r/r.asq", "--json", cwd=cwd)
    assert json.loads(evaluated.stdout)["top1"] == document["top1"]
    fails(1, "less than the 100.00% asked for", "eval", "r/r.asq", "--min-top1", "100", cwd=cwd, prints=True)


def test_a_difference_is_found_named_and_fails(exported, run_folder, tmp_path):
    """One weight code of one layer is changed: the first code that follows differs, and the command says where."""
    artifact = read_artifact(exported[0])
    node = quantized_nodes(artifact.document)[3]
    artifact.tensors[node.weights.codes][0] ^= 1
    (tmp_path / "changed.asq").write_bytes(write_artifact(artifact))
    shutil.copytree(run_folder[0], tmp_path / "r")
    done = asq("infer", "changed.asq", "--data", "digits", "--verify", "--run", "r", "--json", cwd=tmp_path)
    assert done.returncode == 1 and f"first in the layer `{node.name}`" in done.stderr
    verify = json.loads(done.stdout)["verify"]
    assert verify["accumulator_mismatches"] > 0 and node.name in verify["differing_layers"]


def test_an_exported_file_chooses_no_folder(exported, tmp_path):
    """Not even one that is there and fits."""
    artifact = read_artifact(exported[0])
    for name in artifact.document.classes:
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "data" / name / "0.png")
    for data, text in (
        ("data", "was trained on `data`"),
        ("a\x1b[2J", "was trained on `a\\x1b[2J`"),
        (None, "does not say what it was trained on"),
    ):
        provenance = artifact.document.provenance.model_copy(update={"data": data})
        document = artifact.document.model_copy(update={"provenance": provenance})
        (tmp_path / "net.asq").write_bytes(write_artifact(replace(artifact, document=document)))
        fails(2, f"`net.asq` {text}", "eval", "net.asq", cwd=tmp_path, hint="name a data set with --data")
    named = asq("eval", "net.asq", "--data", "data", "--json", cwd=tmp_path)
    assert json.loads(named.stdout)["images"] == 1


def test_classes_of_files_folders_and_lists(exported, images):
    folder = images / "many"
    folder.mkdir()
    shutil.copy(images / "a.png", folder / "z.png")
    done = asq("infer", exported[0], "b.jpg", "many", "--top-k", "2", "--json", "--verify", cwd=images)
    document = json.loads(done.stdout)
    assert [p["input"] for p in document["predictions"]] == ["b.jpg", "many/z.png"]
    for prediction in document["predictions"]:
        first, second = prediction["classes"]
        assert first["score"] >= second["score"] and first["label"] == str(first["index"])
    assert document["verify"]["images"] == 2 and document["verify"]["kernels"] == [document["kernel"], "shift-lut"]
    listed = subprocess.run(
        [sys.executable, "-m", "asqcli", "infer", str(exported[0]), "-", "--top-k", "2", "--json"],
        cwd=images, input="b.jpg\nmany/z.png\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(listed.stdout)["predictions"] == document["predictions"]
    empty = subprocess.run(
        [sys.executable, "-m", "asqcli", "infer", str(exported[0]), "-"],
        cwd=images, input="\n", capture_output=True, text=True,
    )  # fmt: skip
    assert (empty.returncode, empty.stdout) == (3, "") and "standard input names no images" in empty.stderr
    table = asq("infer", exported[0], "b.jpg", "--kernel", "shift-lut", cwd=images).stdout
    assert "b.jpg" in table and "shift-lut" in table and "%" in table


def test_check_values_of_one_image(exported, images):
    file, _ = exported
    done = asq("infer", file, "b.jpg", "--trace", "--json", cwd=images)
    document = json.loads(done.stdout)
    values = document["trace"]
    nodes = read_artifact(file).document.nodes
    assert document["image"] == "b.jpg" and [v["number"] for v in values] == list(range(len(nodes) + 1))
    assert values[0]["shape"] == [3, 16, 16] and values[-1]["shape"] == [10]
    shown = asq("infer", file, "b.jpg", "--trace", cwd=images).stdout
    assert all(v["crc32"] in shown for v in values) and "Values of b.jpg" in shown
    fails(2, "`--trace` is for one image, not 3", "infer", file, ".", "--trace", cwd=images)
    fails(2, "`--trace` is for one image", "infer", file, "--data", "digits", "--trace", cwd=images)


def test_inference_imports_no_torch(exported, images):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "asqcli", "infer", str(exported[0]), "a.png"],
        cwd=images, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"numpy", "safetensors", "asqcli.engine.session"} <= imported
    assert not imported & {"torch", "torchvision", "sklearn", "scipy", "matplotlib"}


def test_an_unreadable_image_loses_nothing(exported, images):
    (images / "broken.jpg").write_bytes((images / "b.jpg").read_bytes()[:200])
    done = asq("infer", exported[0], "a.png", "broken.jpg", "absent.png", "c.png", "--json", cwd=images)
    assert done.returncode == 3 and "2 of 4 images cannot be read: `broken.jpg`" in done.stderr
    document = json.loads(done.stdout)
    assert ["classes" in p for p in document["predictions"]] == [True, False, False, True]
    assert "No such file" in document["predictions"][2]["error"] and document["error"]["code"] == "input"


def test_folders_with_names_links_and_files_of_every_kind(exported, images):
    """What is passed over is told; a decoder's own kind of failure loses nothing; any name can be asked for."""
    folder = images / "many"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (images / "elsewhere").mkdir()
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    for target in (folder / ".ipynb_checkpoints" / "a.png", images / "elsewhere" / "b.png", odd):
        shutil.copy(images / "a.png", target)
    (folder / "linked").symlink_to(images / "elsewhere")
    (folder / "back").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "notes.txt").touch()
    Image.fromarray(np.zeros((20, 20), np.float32)).save(folder / "float.tif")
    content = bytearray(b"\x89PNG\r\n\x1a\n\0\0\0\x02IHDR\0\0")  # a header too short: struct.error or ValueError
    (folder / "short.png").write_bytes(content)
    done = asq("infer", exported[0], "many", "--json", cwd=images)
    answers = {p["input"]: p for p in json.loads(done.stdout)["predictions"]}
    good = {"many/caf\\xe9.png", "many/linked/b.png"}
    assert done.returncode == 3 and {name for name, answer in answers.items() if "classes" in answer} == good
    assert answers.keys() - good == {"many/gone.png", "many/float.tif", "many/short.png"}
    assert "it has float pixels" in answers["many/float.tif"]["error"]
    for text in ("system: `.ipynb_checkpoints`", "1 .txt", "read already: `back`", "3 of 5 images cannot be read"):
        assert text in done.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "asqcli", "infer", str(exported[0]), "-"],
        cwd=images, input=b"many/caf\xe9.png\r\n", capture_output=True,
    )  # fmt: skip
    assert listed.returncode == 0 and b"many/caf\\xe9.png" in listed.stdout
    fails(3, "many/caf\\xe9.gif` cannot be read", "infer", exported[0], odd[:-3] + b"gif", cwd=images, prints=True)


def test_wrong_command_lines(exported, run_folder, images, tmp_path):
    file, cwd = exported[0], run_folder[0].parent
    fails(2, "name images, or a data set with --data", "infer", file, cwd=images)
    fails(2, "not both", "infer", file, "a.png", "--data", "digits", cwd=images)
    fails(2, "`--run` names the network for `--verify`", "infer", file, "a.png", "--run", "r", cwd=images)
    fails(
        2, "no kernel `matmil`", "infer", file, "a.png", "--kernel", "matmil", cwd=images, hint="did you mean `matmul`"
    )
    fails(3, "`absent.asq` cannot be read: No such file", "infer", "absent.asq", "a.png", cwd=images)
    fails(3, "is not an exported network", "infer", run_folder[0] / "checkpoints/last", "a.png", cwd=images)
    fails(3, "corrupt or not an exported network", "infer", "a.png", "b.jpg", cwd=images)
    (images / "empty").mkdir()
    fails(3, "no images in the folder `empty`", "infer", file, "empty", cwd=images)
    fails(3, "the classes in", "infer", file, "--data", _two_classes(images), cwd=images)
    fails(3, "`absent` is no run folder or checkpoint", "export", "absent", cwd=cwd)
    fails(2, "is no network that asq exported", "export", "r", "--out", "r/result.json", cwd=cwd)
    fails(2, "is a folder", "export", "r", "--out", "r", cwd=cwd)
    fails(6, "cannot write", "export", "r", "--out", "/proc/r.asq", cwd=cwd)
    fails(2, "has its own weights", "eval", file, "--weights", "r", cwd=cwd)


def _two_classes(folder):
    for name in ("x", "y"):
        (folder / "data" / name).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (16, 16), (n, n, n)).save(folder / "data" / name / f"{n}.png")
    return "data"


def test_an_exported_file_holds_no_float_weights(exported, tmp_path):
    for command in ("eval", "quantize"):
        fails(3, "is an exported network, which holds no float weights", command, "resnet20", "--weights", exported[0],
              cwd=tmp_path, hint="name the run that it was exported from")  # fmt: skip


def test_a_run_that_is_not_finished_says_so(run_folder, tmp_path):
    shutil.copytree(run_folder[0], tmp_path / "r")
    for arguments in (("export", "r"), ("eval", "r")):
        assert "not finished" not in asq(*arguments, cwd=tmp_path).stderr
    (tmp_path / "r" / "result.json").unlink()
    for arguments in (("export", "r"), ("eval", "r")):
        done = asq(*arguments, cwd=tmp_path)
        assert done.returncode == 0 and "warning: the run `r` is not finished: it stands in epoch" in done.stderr


@needs_a_full_device
def test_results_that_cannot_be_written(run_folder):
    for arguments in (["eval", str(run_folder[0])], ["eval", str(run_folder[0]), "--json"], ["recipe", "list"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "asqcli", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert (done.returncode, done.stderr) == (6, "error: the results cannot be written: No space left on device\n")


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_leaves_changes_no_exit_code(run_folder, buffered):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    checked = ["eval", str(run_folder[0]), "--min-top1", "100"]
    shown = ["recipe", "show", "resnet20_cifar10"]
    for code, arguments in ((1, checked), (1, [*checked, "--json"]), (0, ["recipe", "list"]), (0, shown)):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "asqcli", *arguments],
            stdout=writer, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        os.close(writer)
        assert done.returncode == code and done.stderr.count("error: ") == code, (arguments, done.stderr)


@needs_a_full_device
def test_a_log_that_cannot_be_written_changes_no_exit_code(run_folder):
    for code, arguments in ((0, ["eval", str(run_folder[0])]), (3, ["eval", "no/such"])):
        with open("/dev/full", "w") as full:
            done = subprocess.run([sys.executable, "-m", "asqcli", *arguments], stdout=subprocess.PIPE, stderr=full)
        assert done.returncode == code and bool(done.stdout) == (code == 0)


def test_what_integers_cannot_hold_is_refused_by_name(tmp_path):
    for name, settings, text in (
        ("e", ["--set", "weights.grid=exact"], "layer `layer1.0.conv1` has weights on the grid `exact`"),
        ("f", ["--set", "first_last=float"], "layer `conv1` has float weights"),
    ):
        done = asq("quantize", "resnet20", "--scheme", "post", *QUICK, *settings, "--out", name, cwd=tmp_path)
        assert done.returncode == 0 and f"warning: what is trained here cannot be exported: {text}" in done.stderr
        fails(4, text, "export", name, cwd=tmp_path)
    done = asq("quantize", "resnet20", "--scheme", "float", *QUICK, "--out", "g", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    fails(4, "the network is float", "export", "g", cwd=tmp_path)


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
    def forward(self, x):
        x = self.conv(x)
        x = torch.exp(x) if {exp} else x.relu()
        return self.head(x.mean([2, 3]))

def net(num_classes):
    return Net(num_classes)
"""


def test_an_operation_that_the_engine_lacks_is_shown_in_the_users_source(tmp_path):
    (tmp_path / "shop.py").write_text(FACTORY.format(exp=True))
    done = asq("quantize", "shop:net", "--bits", "4", "--scheme", "lsq", *QUICK, "--out", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    fails(2, "which is code", "export", "r", cwd=tmp_path)
    fails(4, "`exp` cannot be exported: there is no such operation in the engine, at shop.py:11: `x = torch.exp(x)",
          "export", "r", "--model", "shop:net", cwd=tmp_path, hint="the engine has quantized convolutions")  # fmt: skip
    (tmp_path / "shop.py").write_text(FACTORY.format(exp=False))
    fails(4, "`shop:net` now builds another network", "export", "r", "--model", "shop:net", cwd=tmp_path)
    done = asq("quantize", "shop:net", "--bits", "4", "--scheme", "lsq", *QUICK, "--out", "mended", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert asq("export", "mended", "--model", "shop:net", cwd=tmp_path).returncode == 0
