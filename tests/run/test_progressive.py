"""Runs that start from a quantized one of more bits."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asqcli.data.source import open_data
from asqcli.errors import Interruption
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry
from asqcli.run.checkpoint import load_checkpoint
from asqcli.run.context import StopRequested
from asqcli.run.start import start_model
from asqcli.train.evaluate import evaluate
from tests.run.whole_runs import CPU, Notes, resume, run

pytestmark = pytest.mark.slow

ADAPTER = ".activation_quantizer.adapter."


def recipe_for(folder, bits, *overrides, scheme="asq", weights=None):
    flags = {"data.name": (str(folder), "--data"), "pretrained": (weights, "--weights")}
    small = ["train.epochs=1", "train.batch_size=8", "train.warmup.epochs=1", "data.image_size=16"]
    return resolve(Request("resnet20", None, scheme, bits, flags, [*small, *overrides])).recipe


def last(out):
    return load_checkpoint(out / "checkpoints" / "last").model


def load_result(out):
    return json.loads((out / "result.json").read_text())


@pytest.fixture
def four(tmp_path, image_folder):
    """A run at 4 bits, which kept no float network."""
    run(recipe_for(image_folder, 4, "train.distillation=null"), tmp_path / "four")
    return tmp_path / "four"


def test_weights_norms_and_adapters_go_on_and_steps_are_fitted_anew(tmp_path, image_folder, four):
    heard = Notes()
    recipe = recipe_for(image_folder, 3, "train.epochs=0", weights=str(four))
    result = run(recipe, tmp_path / "three", reporter=heard)
    before, after = last(four), last(tmp_path / "three")
    assert result["float_of_quantized"] and "float_of_quantized" not in load_result(four)
    assert "18 adapters go on as they were trained" in heard.notes
    assert any("`" + str(four) + "` is quantized: its weights go on" in note for note in heard.notes)
    assert before.keys() == after.keys()
    differing = {name for name in after if not torch.equal(before[name], after[name])}
    activations = {name for name in after if name.endswith("activation_quantizer.step_size")}
    assert {name for name in differing if "_quantizer." not in name} <= {"num_batches_tracked"}
    assert not any(ADAPTER in name for name in differing) and len(activations & differing) >= 18
    # The float network is that of the trained weights, as they are.
    data = open_data(str(image_folder), entry.preprocessing_of(recipe), workers=0)
    assert result["float_top1"] == evaluate(start_model(recipe, 3, print).model, data.result, device=CPU).top1


def test_such_a_run_resumes_to_the_same_bits(tmp_path, image_folder, four):
    recipe, file = recipe_for(image_folder, 3, weights=str(four)), tmp_path / "run" / "checkpoints" / "last"
    run(recipe, tmp_path / "whole")

    def poll():
        if file.is_file():  # quantized training has begun
            raise StopRequested(signal.SIGINT)

    with pytest.raises(Interruption):
        run(recipe, tmp_path / "run", poll)
    resume(tmp_path / "run")
    whole, resumed = last(tmp_path / "whole"), last(tmp_path / "run")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_other_quantizers_take_the_weights_alone(tmp_path, image_folder, four):
    heard, recipe = Notes(), recipe_for(image_folder, 3, "train.epochs=0", scheme="lsq", weights=str(four))
    run(recipe, tmp_path / "three", reporter=heard)
    assert not any("adapters go on" in note for note in heard.notes)
    assert torch.equal(last(four)["layer1.0.conv1.weight"], last(tmp_path / "three")["layer1.0.conv1.weight"])


def test_a_new_head_is_fine_tuned_and_gets_new_adapters(tmp_path, write_image_folder, four):
    two, heard = write_image_folder(tmp_path / "two", {"dog": 12, "eel": 12}), Notes()
    recipe = recipe_for(two, 3, "train.finetune.epochs=1", weights=str(four))
    result = run(recipe, tmp_path / "three", reporter=heard)
    assert "float_of_quantized" not in result and not any("adapters go on" in note for note in heard.notes)


def test_a_float_network_that_was_kept_is_that_of_the_next_run_and_of_the_one_after(tmp_path, image_folder):
    teaches = "train.distillation.weight=0.5"
    first = run(recipe_for(image_folder, 4, teaches), tmp_path / "four")
    float_file = Path("checkpoints", "float")
    for weights, name, bits in (("four", "three", 3), ("three", "two", 2)):
        heard = Notes()
        recipe = recipe_for(image_folder, bits, teaches, "train.epochs=1", weights=str(tmp_path / weights))
        result = run(recipe, tmp_path / name, reporter=heard)
        assert result["float_top1"] == first["float_top1"] and "float_of_quantized" not in result
        assert any("which `" + str(tmp_path / weights) + "` began with" in note for note in heard.notes)
        assert not any("warning: the teacher" in note for note in heard.notes)
        kept = [load_file(tmp_path / run / float_file) for run in ("four", name)]
        assert kept[0].keys() == kept[1].keys() and all(torch.equal(kept[0][n], kept[1][n]) for n in kept[0])
    other = start_model(recipe_for(image_folder, 2, teaches, weights=str(tmp_path / "two")), 2, print)
    assert other.new_head and other.original is None and not any("began with" in note for note in other.notes)


def test_images_without_labels_get_those_of_the_float_network_that_was_kept(tmp_path, image_folder):
    photos, names = ("data.labels=false", "train.distillation.weight=1.0"), tmp_path / "names.txt"
    names.write_text("ant\nbee\ncow\n")
    photos += (f"data.classes={names}",)
    run(recipe_for(image_folder, None, scheme="float"), tmp_path / "float")
    run(recipe_for(image_folder, 4, *photos, weights=str(tmp_path / "float")), tmp_path / "four")
    three = run(recipe_for(image_folder, 3, *photos, weights=str(tmp_path / "four")), tmp_path / "three")
    assert three["float_top1"] == 100.0 and "float_of_quantized" not in three  # it agrees with itself
    (tmp_path / "four" / "checkpoints" / "float").unlink()
    heard = Notes()
    recipe = recipe_for(image_folder, 3, *photos, weights=str(tmp_path / "four"))
    without = run(recipe, tmp_path / "again", reporter=heard)
    assert without["float_of_quantized"] and any("labelled by `" in note for note in heard.notes)


def test_the_network_without_its_quantizers_is_told_to_be_a_poor_teacher(image_folder, four):
    def notes(*overrides):
        recipe = recipe_for(image_folder, 3, "train.distillation.weight=1.0", *overrides, weights=str(four))
        return " ".join(start_model(recipe, 3, print).notes)

    assert "warning: the teacher is" in notes() and "warning" not in notes(f"train.distillation.teacher={four}")
