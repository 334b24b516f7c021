"""Runs from weights with a new head: the float network is fine-tuned first."""

import math
import signal
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from asqcli.errors import InputError, Interruption
from asqcli.processes.alone import ALONE
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry, norms
from asqcli.run.checkpoint import load_checkpoint, save_checkpoint
from asqcli.run.context import RunContext, StopRequested
from asqcli.train import batch_norm
from asqcli.train.progress import Progress
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


def test_slow_batch_norms_get_the_statistics_that_training_images_prefer(tmp_path, trained, two, monkeypatch):
    for module in (batch_norm, norms):
        monkeypatch.setattr(module, "USUAL_MOMENTUM", 0.2)  # beside which theirs, 0.1, is slow
    estimate = norms.reestimate_batch_norm

    def spoilt(model, batches, processes):
        estimate(model, batches, processes)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.mul_(1e4)

    monkeypatch.setattr(norms, "reestimate_batch_norm", spoilt)
    heard, out = Notes(), tmp_path / "run"
    run(recipe_for(two, *FINETUNE, weights=str(trained)), out, reporter=heard)
    assert sum("those that fit training images better are kept" in note for note in heard.notes) == 2  # once a phase
    kept = load_checkpoint(out / "checkpoints" / "last").model
    assert all(kept[name].max() < 1e4 for name in kept if name.endswith("running_var"))


def statistics_after(recipe, *losses):
    """Return the running mean of a slow norm, 0 before, once a choice was made by these losses; None is a stop."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, momentum=0.01))
    told = iter(losses)

    def loss(_count):
        if (value := next(told)) is None:
            raise StopRequested(signal.SIGINT)
        return value

    statistics = norms.NormStatistics(model, recipe.train, lambda _: [torch.ones(4, 3, 2, 2)], loss, Notes(), ALONE)
    progress = Progress("finetune", facts={"pretrained": True})
    phase = SimpleNamespace(progress=progress, steps_done=4, steps=8, split=range(9))
    with suppress(StopRequested):
        statistics.refresh(phase)
    return model[1].running_mean


@pytest.mark.parametrize(
    ("losses", "kept"),
    [((1.0, 2.0), True), ((2.0, 1.0), False), ((math.nan, 1.0), False), ((1.0, math.nan), True), ((1.0, None), True)],
)
def test_a_choice_of_statistics_keeps_the_better_and_when_stopped_the_old(trained, two, losses, kept):
    assert torch.equal(statistics_after(recipe_for(two, weights=str(trained)), *losses), torch.zeros(2)) == kept


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
