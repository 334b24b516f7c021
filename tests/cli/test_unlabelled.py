"""`asq quantize --no-labels`, and what becomes of such a run in the other commands."""

from __future__ import annotations

import json

import pytest
from asq_process import asq, fails

pytestmark = pytest.mark.slow

NETWORK = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=10):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
        )
"""
SMALL = ("--set", "data.image_size=16", "--threads", "1")
QUANTIZE = ("quantize", "nets:Net", "--weights", "float", "--no-labels", "--max-steps", "4", *SMALL)
AGREEMENT = "agreement with the float network"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A float run on the digits, and a run without labels from its weights on the same images."""
    path = tmp_path_factory.mktemp("unlabelled")
    (path / "nets.py").write_text(NETWORK)
    asq("quantize", "nets:Net", "--scheme", "float", "--epochs", "2", "--lr", "0.1", "--out", "float", *SMALL, cwd=path)
    done = asq(*QUANTIZE, "--out", "run", cwd=path)
    assert done.returncode == 0, done.stderr
    assert "agreement" in done.stdout and "top-1" not in done.stdout + done.stderr
    assert "no labels" in done.stderr and "classes: 10, named as by float" in done.stderr
    return path


def answer(*args, cwd):
    done = asq(*args, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_eval_measures_agreement_on_own_images_and_accuracy_on_labels(folder):
    result = json.loads((folder / "run" / "result.json").read_text())
    own = answer("eval", "nets:Net", "--weights", "run", cwd=folder)
    assert own["measures"] == result["measures"] == AGREEMENT
    assert [own[k] for k in ("top1", "top5", "loss")] == [result[k] for k in ("top1", "top5", "loss")]
    labelled = answer("eval", "nets:Net", "--weights", "run", "--data", "digits", cwd=folder)
    assert labelled["measures"] == "accuracy" and labelled["loss"] != own["loss"]
    shown = asq("eval", "nets:Net", "--weights", "run", cwd=folder).stdout
    assert AGREEMENT.capitalize() in shown and "top-1" not in shown
    fails(3, "the class names in `x` cannot", "eval", "nets:Net", "--weights", "run", "--classes", "x", cwd=folder)


def test_export_and_infer(folder, write_image_folder):
    exported = answer("export", "run", "--model", "nets:Net", "--data", "digits", cwd=folder)
    assert "float_top1" not in exported  # that was agreement, and these are accuracies
    engine = answer("infer", "run/run.asq", "--data", "digits", cwd=folder)
    assert engine["top1"] == exported["integer_top1"] == exported["quantized_top1"]
    some = write_image_folder(folder / "some" / "test", {"9": 4, "3": 4})
    part = asq("eval", "run/run.asq", "--data", some.parent, "--json", cwd=folder)
    assert "data: it has 2 of the network's 10 classes" in part.stderr and json.loads(part.stdout)["images"] == 8
    write_image_folder(folder / "other" / "test", {"nine": 4, "three": 4})
    hint = "its classes are numbered: name the folders `0`; `1`; `2`; `3`; `4`, .."
    fails(3, "it has no `nine`; `three`", "infer", "run/run.asq", "--data", "other", cwd=folder, hint=hint)
    words = "zero one two three four five six seven eight nine"
    (folder / "words").write_text(words.replace(" ", "\n"))
    for target in (["run/run.asq"], ["nets:Net", "--weights", "run"]):
        named = asq("eval", *target, "--data", "other", "--classes", "words", "--json", cwd=folder)
        assert json.loads(named.stdout)["images"] == 8 and "it has 2 of the network's 10" in named.stderr


def test_a_float_network_is_measured_on_some_of_its_classes(folder, write_image_folder):
    write_image_folder(folder / "part" / "test", {"9": 4, "3": 4})
    (folder / "names").write_text("\n".join("0123456789"))
    (folder / "loaded.py").write_text(
        "import torch, nets\n\ndef net():\n    torch.manual_seed(0)\n    return nets.Net(10)\n"
    )
    command = ("eval", "loaded:net", "--weights", "factory", "--data", "part", "--set", "data.image_size=16")
    measured = answer(*command, "--classes", "names", cwd=folder)
    assert (measured["images"], measured["measures"]) == (8, "accuracy")


def test_several_processes_agree_with_one(folder):
    done = asq(*QUANTIZE, "--nproc", "2", "--out", "two", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((folder / name / "result.json").read_text()) for name in ("run", "two"))
    assert two["float_top1"] == 100.0 and abs(two["top1"] - one["top1"]) < 1.0


def test_looks_before_a_run(folder):
    done = asq(*QUANTIZE, "--dry-run", "--json", cwd=folder)
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["data"]["labels"] is False and recipe["train"]["distillation"]["weight"] == 1.0
    done = asq(*QUANTIZE, "--profile", cwd=folder)
    told = {
        name.strip(): fact for _, name, fact, _ in (line.split("│") for line in done.stdout.splitlines() if "│" in line)
    }
    assert done.returncode == 0 and "taught" in told["quantized step"]
    answers, step = (float(told[name].split()[0]) for name in ("the teacher's answers", "quantized step"))
    steps, seconds = (int(told["an epoch"].split()[index].replace(",", "")) for index in (0, 2))
    assert seconds == pytest.approx((step + answers) * steps / 1000, abs=0.6)  # whole seconds


def test_what_cannot_be_done_without_labels(folder):
    (folder / "empty").mkdir()
    fails(3, "no images in `empty`", *QUANTIZE, "--data", "empty", cwd=folder)
    fails(3, "no data set or folder `absent`", *QUANTIZE, "--data", "absent", cwd=folder)
    fails(2, "only a trained float network can teach", *QUANTIZE, "--weights", "none", cwd=folder)
    fails(2, "nothing can be trained in float", *QUANTIZE, "--scheme", "float", cwd=folder)
    none = "`resnet20` starts without weights: none (there are no official weights"
    fails(3, none, "quantize", "resnet20", "--no-labels", "--threads", "1", cwd=folder, hint="name its weights with")
    offline = "`resnet18` starts without weights: none (the official weights"
    fails(6, offline, "quantize", "resnet18", "--no-labels", "--threads", "1", cwd=folder, hint="try again, or give")
    (folder / "few").write_text("a\nb\n")
    fails(3, "`few` names 2 classes, and `nets:Net` answers with 10", *QUANTIZE, "--classes", "few", cwd=folder)
