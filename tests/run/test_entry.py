"""Whole runs in one process, on small image folders."""

import json
import signal
from dataclasses import replace

import pytest
import torch

from asqcli.data.source import open_data
from asqcli.errors import DivergedError, InputError, Interruption, UnsupportedError, UsageError
from asqcli.nn.prepare import quant_layers
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry, kept_phase, network
from asqcli.run.checkpoint import load_checkpoint, save_checkpoint
from asqcli.run.context import RunContext, StopRequested
from asqcli.run.kept_phase import KeptPhase
from asqcli.run.restore import restore_model
from asqcli.train import loop
from asqcli.train.evaluate import evaluate
from asqcli.train.reporter import Reporter
from tests.run.whole_runs import CPU, Notes, epochs_of, resume, run


def recipe_for(folder, *overrides, scheme="post", bits=3, weights=None):
    flags = {"data.name": (str(folder), "--data"), "pretrained": (weights, "--weights")}
    small = ["train.epochs=2", "train.batch_size=8", "train.warmup.epochs=1", "data.image_size=16"]
    small += ["train.distillation=null"]  # an option that is tried is to be alone
    return resolve(Request("resnet20", None, scheme, bits, flags, [*small, *overrides])).recipe


def final_weights(out):
    return load_checkpoint(out / "checkpoints" / "last").model


def test_a_run_leaves_everything_and_evaluates_to_its_result(tmp_path, image_folder):
    out = tmp_path / "run"
    result = run(recipe_for(image_folder), out)
    assert {p.name for p in out.iterdir()} == {
        "recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "result.json"
    }  # fmt: skip
    assert json.loads((out / "result.json").read_text()) == result
    assert result["float_trained"] and result["layer_rules"] == 0
    assert ["beta" in e for e in epochs_of(out)] == [False, True, True] and len(epochs_of(out)[1]["beta"]) == 18
    assert result["beta"] == [f(b[k] for b in epochs_of(out)[2]["beta"].values()) for k, f in ((0, min), (1, max))]
    assert result["warmup_epochs"] == 1 and [e["phase"] for e in epochs_of(out)] == ["warmup", "qat", "qat"]
    checkpoint = load_checkpoint(out / "checkpoints" / "last")
    model = restore_model(checkpoint, source="run")
    assert len(list(quant_layers(model))) == 20
    data = open_data(str(image_folder), entry.preprocessing_of(checkpoint.recipe), workers=0)
    again = evaluate(model, data.result, batch_size=1, device=CPU)
    assert (again.top1, again.images) == (result["top1"], result["images"])


@pytest.mark.parametrize(
    ("options", "measured"),
    [((), 5), (("train.average_decay=0.9",), 6)],  # the average's statistics are estimated once more
)
def test_what_the_last_epoch_measured_is_the_result(tmp_path, image_folder, monkeypatch, options, measured):
    calls = []

    def counted(*args, **keywords):
        calls.append(args)
        return evaluate(*args, **keywords)

    monkeypatch.setattr(network, "evaluate", counted)
    result = run(recipe_for(image_folder, *options), tmp_path / "run")
    # After each of three epochs; float; quantized, before training.
    assert len(calls) == measured
    last = epochs_of(tmp_path / "run")[-1]
    assert all(last[key] == result[key] for key in ("top1", "top5", "loss"))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path, image_folder):
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        run(recipe_for(image_folder, f"train.seed={seed}"), tmp_path / name)
    a, b, c = (final_weights(tmp_path / n) for n in "abc")
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])
    assert epochs_of(tmp_path / "a") == epochs_of(tmp_path / "b")


IN_BFLOAT16 = ("train.precision=bfloat16",)
ADAMW = ("train.optimizer=adamw", "train.warmup.optimizer=adamw", "train.lr_ramp_steps=5")


@pytest.mark.parametrize(
    ("stop_at", "options"),
    [*((at, ()) for at in (3, 5, 7, 10, 13, 18)), *((at, ADAMW) for at in (3, 13)), (13, IN_BFLOAT16)],
)
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, image_folder, stop_at, options):
    """Stops land in the warm-up, in its evaluation, between the phases, and in training."""
    reference = tmp_path / "whole"
    expected = run(recipe_for(image_folder, *options), reference)
    polls = 0

    def poll():
        nonlocal polls
        polls += 1
        if polls == stop_at:
            raise StopRequested(signal.SIGTERM)

    out = tmp_path / "stopped"
    with pytest.raises(Interruption) as stop:
        run(recipe_for(image_folder, *options), out, poll)
    assert stop.value.exit_code == 143 and "--resume" in stop.value.hint
    assert not (out / "result.json").exists()
    result = resume(out)
    a, b = final_weights(reference), final_weights(out)
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    assert epochs_of(reference) == epochs_of(out)
    varying = ("run", "seconds")
    assert {k: v for k, v in result.items() if k not in varying} == {
        k: v for k, v in expected.items() if k not in varying
    }


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(tmp_path, image_folder):
    recipe, whole, killed = recipe_for(image_folder), tmp_path / "whole", tmp_path / "killed"
    run(recipe, whole)
    run(recipe, killed)
    (killed / "checkpoints" / "last").unlink()
    (killed / "result.json").unlink()
    resume(killed)
    a, b = final_weights(whole), final_weights(killed)
    assert all(torch.equal(a[n], b[n]) for n in a) and epochs_of(whole) == epochs_of(killed)


def test_a_crash_within_a_long_epoch_loses_the_last_minutes_only(tmp_path, image_folder, monkeypatch):
    expected = run(recipe_for(image_folder), tmp_path / "whole")
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1)  # every epoch is a long one: each step is preceded by a save
    last = tmp_path / "crashed" / "checkpoints" / "last"

    def crash():
        if last.is_file() and (p := load_checkpoint(last).progress).phase == "qat" and p.step:
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        run(recipe_for(image_folder), tmp_path / "crashed", crash)
    assert load_checkpoint(last).progress.step == 1
    assert resume(tmp_path / "crashed")["loss"] == expected["loss"]
    a, b = final_weights(tmp_path / "whole"), final_weights(tmp_path / "crashed")
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert epochs_of(tmp_path / "whole") == epochs_of(tmp_path / "crashed")


EVERYTHING = (
    "train.step_lr=0.1",
    "train.adapter_lr=2.0",
    "train.label_smoothing=0.1",
    "train.distillation={weight: 0.7, temperature: 2.0}",
    "train.average_decay=0.9",
    "train.freeze_oscillations=0.001",
    "train.batch_norm_batches=2",
)


def test_all_options_together_resume_to_the_same_bits(tmp_path, image_folder):
    options = (*EVERYTHING, "train.lr=0.002")  # held weights and a teacher together diverge at the default rate here
    expected = run(recipe_for(image_folder, *options), tmp_path / "whole")
    polls = 0

    def poll():
        nonlocal polls
        polls += 1
        if polls == 14:
            raise StopRequested(signal.SIGINT)

    out = tmp_path / "stopped"
    with pytest.raises(Interruption):
        run(recipe_for(image_folder, *options), out, poll)
    assert resume(out)["loss"] == expected["loss"]
    a, b = final_weights(tmp_path / "whole"), final_weights(out)
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_other_images_than_a_run_began_with_are_refused(tmp_path, image_folder):
    out = tmp_path / "run"
    run(recipe_for(image_folder), out)
    (image_folder / "ant" / "0.jpg").unlink()
    with pytest.raises(
        InputError, match=r"not those that `.*run` began with: .* images then, .* images now$"
    ) as refused:
        resume(out)
    assert refused.value.exit_code == 3
    last = load_checkpoint(out / "checkpoints" / "last")
    del last.progress.facts["images"]  # of a run from before it was kept
    save_checkpoint(out / "checkpoints" / "last", last)
    resume(out)


def test_a_checkpoint_with_another_step_hook_is_refused(tmp_path, image_folder):
    out = tmp_path / "run"
    run(recipe_for(image_folder), out)
    last = load_checkpoint(out / "checkpoints" / "last")
    save_checkpoint(out / "checkpoints" / "last", replace(last, hooks={"x": {}}))
    with pytest.raises(InputError, match="checkpoints/last` has the step hooks x, and its recipe none"):
        resume(out)


@pytest.mark.parametrize("option", [*EVERYTHING, *ADAMW])
def test_each_option_changes_the_result(tmp_path, image_folder, option):
    plain = run(recipe_for(image_folder), tmp_path / "plain")
    assert run(recipe_for(image_folder, option), tmp_path / "with")["loss"] != plain["loss"]


def test_max_steps_bounds_training_and_skips_the_warm_up(tmp_path, image_folder):
    recipe = recipe_for(image_folder, "train.max_steps=3", "train.epochs=50")
    result = run(recipe, tmp_path / "run")
    assert result["warmup_epochs"] == 0 and epochs_of(tmp_path / "run")[-1]["steps"] == 3


def test_a_float_run_is_a_baseline_for_others(tmp_path, image_folder):
    baseline = run(recipe_for(image_folder, scheme="float", bits=None), tmp_path / "float")
    assert baseline["scheme"] == "float" and baseline["top1"] == baseline["float_top1"]
    result = run(recipe_for(image_folder, weights=str(tmp_path / "float")), tmp_path / "quantized")
    assert result["float_top1"] == baseline["top1"] and result["warmup_epochs"] == 0


def assert_kept_from_before(out):
    """The last checkpoint is from before the network diverged, and the run has no result."""
    assert all(t.isfinite().all() for t in final_weights(out).values())
    assert not (out / "result.json").exists()


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path, image_folder):
    recipe = recipe_for(image_folder, "train.lr=1e30", "train.warmup.epochs=0")
    with pytest.raises(DivergedError, match=r"the loss became .* the first NaN or infinity is in") as stop:
        run(recipe, tmp_path / "run")
    assert "`--set train.lr=1e+29`" in stop.value.hint
    assert_kept_from_before(tmp_path / "run")


def test_the_rate_to_lower_is_that_of_the_phase_that_diverged(tmp_path, image_folder):
    with pytest.raises(DivergedError, match="of the warmup phase") as stop:
        run(recipe_for(image_folder, "train.warmup.lr=1e30"), tmp_path / "run")
    assert "`--set train.warmup.lr=1e+29`" in stop.value.hint


def test_a_network_that_diverged_in_its_last_step_has_no_result(tmp_path, image_folder):
    """No loss follows that step: the evaluation finds it, before the weights are saved."""
    recipe = recipe_for(image_folder, "train.lr=1e20", "train.max_steps=1", "train.warmup.epochs=0")
    with pytest.raises(DivergedError, match="answers images with NaN or infinity"):
        run(recipe, tmp_path / "run")
    assert_kept_from_before(tmp_path / "run")


def test_a_network_that_fails_only_in_training_says_so(tmp_path, image_folder):
    """Batch norm has nothing to estimate from in one value."""
    recipe = recipe_for(image_folder, "train.batch_size=1", "data.image_size=4", "train.warmup.epochs=0")
    with pytest.raises(
        UnsupportedError, match=r"fails in training on a batch of shape \(1, 3, 4, 4\): ValueError: Expected"
    ):
        run(recipe, tmp_path / "run")


def test_best_is_kept_only_beside_a_validation_split(tmp_path, write_image_folder):
    for split, count in {"train": 8, "val": 3, "test": 3}.items():
        write_image_folder(tmp_path / "data" / split, {"a": count, "b": count})
    result = run(recipe_for(tmp_path / "data"), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "best").is_file() and "test`" in result["measured_on"]


def test_best_is_kept_though_a_run_is_stopped_while_it_is_written(tmp_path, write_image_folder, monkeypatch):
    for split, count in {"train": 8, "val": 3, "test": 3}.items():
        write_image_folder(tmp_path / "data" / split, {"a": count, "b": count})
    recipe, out, save, stopped = recipe_for(tmp_path / "data"), tmp_path / "run", KeptPhase.save, []

    def stop_at_best(self, name="last"):
        if name == "best" and self.progress.phase == "qat" and not stopped:
            stopped.append(name)
            raise StopRequested(signal.SIGTERM)
        save(self, name)

    monkeypatch.setattr(KeptPhase, "save", stop_at_best)
    with pytest.raises(Interruption):
        run(recipe, out)
    resume(out)
    run(recipe, tmp_path / "whole")
    best = [load_checkpoint(folder / "checkpoints" / "best") for folder in (out, tmp_path / "whole")]
    assert all(torch.equal(tensor, best[1].model[name]) for name, tensor in best[0].model.items())
    assert epochs_of(out) == epochs_of(tmp_path / "whole")


def test_a_run_that_is_stopped_after_its_last_epoch_keeps_its_warnings(tmp_path, image_folder, monkeypatch):
    measure, stopped = KeptPhase.measure, []

    def stop_once(self):
        if not stopped:
            stopped.append(True)
            raise StopRequested(signal.SIGTERM)
        return measure(self)

    monkeypatch.setattr(kept_phase, "cost_in_words", lambda *_, **facts: f"it cost {facts['train_top1']}")
    monkeypatch.setattr(KeptPhase, "measure", stop_once)
    with pytest.raises(Interruption):
        run(recipe_for(image_folder), tmp_path / "run")
    assert resume(tmp_path / "run")["warnings"][-1] == f"it cost {epochs_of(tmp_path / 'run')[-1]['train_top1']}"


def test_a_run_that_another_process_trained_on_meanwhile_is_not_written_over(tmp_path, image_folder):
    out = tmp_path / "run"
    run(recipe_for(image_folder), out)
    (out / "result.json").unlink()
    folder, checkpoint = entry.open_run(str(out))
    resume(out)  # to its end
    with pytest.raises(UsageError, match="another process has just trained"):
        entry.resume_run(folder, checkpoint, RunContext(CPU, Reporter()), factory=None)
    assert (out / "result.json").is_file()


def test_a_run_does_not_replace_the_one_that_it_starts_from(tmp_path, image_folder):
    out = tmp_path / "run"
    run(recipe_for(image_folder, "train.epochs=0"), out)
    recipe, context = recipe_for(image_folder, weights=str(out)), RunContext(CPU, Reporter())
    with pytest.raises(UsageError, match=r"the weights `.*` are in the run that `--force` would replace"):
        entry.start_run(recipe, context, source="test", out=str(out), force=True, given=None)
    assert (out / "checkpoints" / "last").is_file()


def test_every_scheme_trains(tmp_path, image_folder):
    for scheme in ("asq", "pot", "apot", "lsq"):
        out = tmp_path / scheme
        result = run(recipe_for(image_folder, "train.max_steps=2", scheme=scheme, bits=4), out)
        assert result["scheme"] == scheme


def test_options_of_the_quantizers_train(tmp_path, image_folder):
    for n, overrides in enumerate([
        ["weights.grid=exact", "activations.dequantize_by=step_size"],
        ["weights.grid=7/5", "weights.levels=printed", "activations.adapter={hidden: 3, bits: float, output: relu}"],
        ["weights.per=tensor", "calibration.start=lsq", "first_last=same"],
        ["first_last=float", "layers={layer1.0.conv1: {weights: {quantizer: float}}}"],
    ]):  # fmt: skip
        result = run(recipe_for(image_folder, "train.max_steps=2", *overrides), tmp_path / str(n))
        assert result["images"] == 3


def test_classes_without_images_are_told(tmp_path, write_image_folder):
    folder = write_image_folder(tmp_path / "few", {"a": 1, "b": 1, "c": 1})
    recipe = recipe_for(folder, "train.max_steps=1")
    heard = Notes()
    entry.dry_run(recipe, RunContext(CPU, heard), source="")
    told = heard.notes
    assert "warning: 1 of 3 classes has no training images" in told
    assert "warning: 2 of 3 classes have no test images" in told


def test_large_images_are_streamed(tmp_path, write_image_folder):
    folder = write_image_folder(tmp_path / "large", {"a": 12, "b": 12}, size=(90, 80))
    recipe = recipe_for(folder, "train.max_steps=2", "data.workers=1")
    assert recipe.data.augment == "resized_crop" and recipe.data.resize == 18
    result = run(recipe, tmp_path / "run")
    assert result["images"] == 2 and not result["float_trained"]


def test_a_reporter_hears_plan_phases_steps_and_epochs(tmp_path, image_folder):
    heard = []

    class Listener(Reporter):
        def plan(self, specs):
            heard.append(("plan", len(specs)))

        def phase(self, name, *, epochs, steps, first):
            heard.append(("phase", name, epochs, steps, first))

        def step(self, **state):
            heard.append(("step", state["images"]))

        def epoch(self, record):
            heard.append(("epoch", record["phase"], record["epoch"]))

    context = replace(RunContext(CPU, Listener()), command=("asq",))
    entry.start_run(
        recipe_for(image_folder), context, source="test", out=str(tmp_path / "run"), force=False, given="model: x\n"
    )
    assert ("plan", 20) in heard and ("phase", "qat", 2, 10, 0) in heard and ("epoch", "qat", 2) in heard
    assert sum(h[0] == "step" for h in heard) == 15
    assert (tmp_path / "run" / "recipe.given.yaml").read_text() == "model: x\n"
