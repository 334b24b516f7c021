"""Runs from weights with a new head: the float network is fine-tuned first."""

import signal
from dataclasses import replace

import pytest
import torch

from asqcli.errors import InputError, Interruption
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry, norms
from asqcli.run.checkpoint import load_checkpoint, save_checkpoint
from asqcli.run.context import RunContext, StopRequested
from asqcli.train import batch_norm
from tests.run.whole_runs import CPU, Notes, epochs_of, resume, run

FINETUNE = ("train.finetune.epochs=2", "train.finetune.lr=0.01", "train.finetune.head_rate=5")


def recipe_for(folder, *overrides, scheme="post", bits=4, weights=None):
    flags = {"data.name": (str(folder), "--data"), "pretrained": (weights, "--weights")}
    small = ["train.epochs=1", "train.batch_size=8", "data.image_size=16"]
    return resolve(Request("resnet20", None, scheme, bits, flags, [*small, *overrides])).recipe


@pytest.fixture
def trained(tmp_path, image_folder):
    """A float run on three classes."""
    run(recipe_for(image_folder, scheme="float", bits=None), tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def two(tmp_path, write_image_folder):
    """Images of two other classes."""
    return write_image_folder(tmp_path / "two", {"dog": 12, "eel": 12}, seed=3)


def test_weights_with_a_new_head_are_fine_tuned(tmp_path, trained, two):
    heard, out = Notes(), tmp_path / "run"
    result = run(recipe_for(two, *FINETUNE, weights=str(trained)), out, reporter=heard)
    assert [e["phase"] for e in epochs_of(out)] == ["finetune", "finetune", "qat"]
    assert result["finetune_epochs"] == 2 and result["warmup_epochs"] == 0 and result["float_trained"]
    assert "fine-tuning the float network first, epochs: 2, rate 0.01, the new head 5 times as fast" in heard.notes
    assert not any("estimated anew" in note for note in heard.notes)  # their statistics are those of the weights
    facts = load_checkpoint(out / "checkpoints" / "last").progress.facts
    assert facts["new_head"] == "linear"


def test_fine_tuning_resumes_to_the_same_bits(tmp_path, trained, two):
    recipe, polls = recipe_for(two, *FINETUNE, weights=str(trained)), 0

    def poll():
        nonlocal polls
        polls += 1
        if polls == 4:
            raise StopRequested(signal.SIGINT)

    run(recipe, tmp_path / "whole")
    with pytest.raises(Interruption, match="of the finetune phase"):
        run(recipe, tmp_path / "run", poll)
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last").progress.phase == "finetune"
    resume(tmp_path / "run")
    whole, resumed = (load_checkpoint(tmp_path / n / "checkpoints" / "last").model for n in ("whole", "run"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_the_head_alone_steps_faster(tmp_path, trained, two):
    def moved(rate):
        out = tmp_path / f"run{rate}"
        step = ("train.finetune.epochs=1", "train.finetune.lr=1e-6", f"train.finetune.head_rate={rate}")
        run(recipe_for(two, *step, "train.batch_size=24", "train.epochs=0", weights=str(trained)), out)
        return load_checkpoint(out / "checkpoints" / "last").model

    slow, fast = moved(1), moved(1000)
    before = load_checkpoint(trained / "checkpoints" / "last").model
    assert torch.equal(slow["layer3.0.conv1.weight"], fast["layer3.0.conv1.weight"])
    assert not torch.equal(slow["layer3.0.conv1.weight"], before["layer3.0.conv1.weight"])
    assert (slow["linear.weight"] - fast["linear.weight"]).abs().max() > 1e-5


def test_slow_batch_norms_keep_the_statistics_that_they_came_with(tmp_path, trained, two, monkeypatch):
    def notes(steps):
        monkeypatch.setattr(norms, "FEW_STEPS", steps)
        heard = Notes()
        run(recipe_for(two, *FINETUNE, weights=str(trained)), tmp_path / f"run{steps}", reporter=heard)
        return [note for note in heard.notes if "estimated anew" in note]

    for module in (batch_norm, norms):
        monkeypatch.setattr(module, "USUAL_MOMENTUM", 0.2)  # beside which theirs, 0.1, is slow
    assert len(notes(100)) == 1 and len(notes(0)) == 2  # in quantized training alone; in both phases


def test_a_recipe_that_states_its_warm_up_alone_means_that(tmp_path, trained, two):
    recipe = recipe_for(two, "train.warmup.epochs=1", weights=str(trained))
    assert recipe.train.finetune is None
    result = run(recipe, tmp_path / "run")
    assert [e["phase"] for e in epochs_of(tmp_path / "run")] == ["warmup", "qat"] and result["warmup_epochs"] == 1


def test_a_dry_run_tells_of_fine_tuning(trained, two):
    heard = Notes()
    context = RunContext(CPU, heard)
    entry.dry_run(recipe_for(two, *FINETUNE, weights=str(trained)), context, source="test")
    assert heard.notes[-1].startswith("before that: fine-tuning the float network first, epochs: 2")


def test_a_head_that_the_network_lacks_is_refused(tmp_path, trained, two):
    out = tmp_path / "run"
    run(recipe_for(two, *FINETUNE, weights=str(trained)), out)
    last = load_checkpoint(out / "checkpoints" / "last")
    last.progress.facts["new_head"] = "nowhere"
    save_checkpoint(out / "checkpoints" / "last", replace(last))
    (out / "result.json").unlink()
    with pytest.raises(InputError, match="the network has no layer `nowhere`"):
        resume(out)
