"""Teachers that a recipe names: runs, networks with weights, factories; what is refused; what a run keeps of them."""

import shutil
import signal
import sys

import pytest
import torch

from asqcli.data.source import open_data
from asqcli.errors import InputError, Interruption, MachineError, UnsupportedError, UsageError
from asqcli.recipe.resolve import Request, resolve, teacher_stated
from asqcli.run import entry
from asqcli.run.checkpoint import load_checkpoint
from asqcli.run.context import RunContext, StopRequested
from asqcli.run.restore import restore_model
from asqcli.train.reporter import Reporter
from tests.run.whole_runs import CPU, Notes, epochs_of, resume, run

pytestmark = pytest.mark.slow

KEY = "train.distillation.teacher"
SOURCE = """
import torch
from torch import nn

def small(num_classes=10, width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )

def big(num_classes=10):
    return small(num_classes, 12)

def taught(num_classes=10):
    net = big(num_classes)
    net.load_state_dict(torch.load("big.pth"))
    return net
"""


@pytest.fixture(autouse=True)
def school(tmp_path, monkeypatch):
    (tmp_path / "school.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("school", None)


def recipe_for(folder, *overrides, model="school:small", scheme="asq", weights="none"):
    flags = {"data.name": (str(folder), "--data"), "pretrained": (weights, "--weights")}
    usual = ["data.image_size=12", "train.epochs=2", "train.batch_size=8", "train.warmup.epochs=1"]
    return resolve(Request(model, None, scheme, None, flags, [*usual, *overrides])).recipe


def teaching(folder, teacher, *overrides, **others):
    return recipe_for(folder, f"{KEY}={teacher}", "train.distillation.weight=1.0", *overrides, **others)


@pytest.fixture
def small(tmp_path, image_folder):
    """A float run of the small network."""
    run(recipe_for(image_folder, scheme="float"), tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def big(tmp_path, image_folder):
    """A float run of the big one."""
    run(recipe_for(image_folder, "train.epochs=3", model="school:big", scheme="float"), tmp_path / "big")
    return tmp_path / "big"


def last(out):
    return load_checkpoint(out / "checkpoints" / "last")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_the_run_that_was_started_from_teaches_as_the_float_network_does(tmp_path, image_folder, small):
    run(recipe_for(image_folder, "train.distillation.weight=1.0", weights=str(small)), tmp_path / "own")
    result = run(teaching(image_folder, small, weights=str(small)), tmp_path / "named")
    assert same(last(tmp_path / "own").model, last(tmp_path / "named").model)
    assert result["teacher"] == f"school:small ({small})" and result["teacher_top1"] == result["float_top1"]
    assert (tmp_path / "own" / "checkpoints" / "float").is_file()
    assert {p.name for p in (tmp_path / "named" / "checkpoints").iterdir()} == {"last", "teacher"}


def test_the_loss_is_the_distance_from_the_teacher_alone(tmp_path, image_folder, small, big):
    """One step of a rate too small to move anything: the network at the end is the one that the loss is of."""
    still = ("data.augment=none", "train.batch_size=64", "train.lr=1e-30", "train.epochs=1")
    named = (f"{KEY}=school:big", f"{KEY}_weights={big}", "train.distillation.temperature=2.0")
    recipe = recipe_for(image_folder, *still, *named, "train.distillation.weight=1.0", weights=str(small))
    run(recipe, tmp_path / "run")
    network = restore_model(last(tmp_path / "run"), source="run", factory="school:small").train()
    teacher = restore_model(last(big), source="big", factory="school:big").eval()
    data = open_data(str(image_folder), entry.preprocessing_of(recipe), workers=0)
    images = torch.cat([x for x, _ in data.train.eval_batches(64)])
    with torch.no_grad():
        p, q = (torch.softmax(net(images).double() / 2, 1) for net in (teacher, network))
    expected = 4 * (p * (p.log() - q.log())).sum() / len(images)
    assert epochs_of(tmp_path / "run")[-1]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_quantized_run_teaches_as_it_evaluates(tmp_path, image_folder, small):
    first = run(recipe_for(image_folder, weights=str(small)), tmp_path / "first")
    result = run(teaching(image_folder, tmp_path / "first", weights=str(small)), tmp_path / "second")
    assert result["teacher_top1"] == first["top1"] and "quantized" in result["teacher"]
    kept = load_checkpoint(tmp_path / "second" / "checkpoints" / "teacher")
    assert kept.specs == last(tmp_path / "first").specs and not kept.optimizer


def stopped_in(phase, recipe, out):
    """Start a run, stop it in a phase, and return the hint."""
    file = out / "checkpoints" / "last"

    def poll():
        if file.is_file() and load_checkpoint(file).progress.phase == phase:
            raise StopRequested(signal.SIGINT)

    with pytest.raises(Interruption) as stop:
        run(recipe, out, poll)
    return stop.value.hint


def go_on(out, factory, teacher):
    folder, checkpoint = entry.open_run(str(out))
    return entry.resume_run(folder, checkpoint, RunContext(CPU, Reporter()), factory=factory, teacher=teacher)


def test_a_run_goes_on_to_the_same_bits_without_the_place_of_its_teacher(tmp_path, image_folder, big):
    recipe = recipe_for(image_folder, "train.distillation.weight=1.0", f"{KEY}=school:big", f"{KEY}_weights={big}")
    expected = run(recipe, tmp_path / "whole")
    hints = {phase: stopped_in(phase, recipe, tmp_path / phase) for phase in ("warmup", "qat")}
    shutil.rmtree(big)
    for phase, hint in hints.items():
        out = tmp_path / phase
        assert hint.endswith(f"school:small --resume {out} --set {KEY}=school:big`")
        with pytest.raises(UsageError, match="the teacher is made by `school:big`") as refused:
            go_on(out, "school:small", None)
        assert refused.value.hint == hint
        result = go_on(out, "school:small", "school:big")
        assert same(last(tmp_path / "whole").model, last(out).model)
        assert all(result[key] == expected[key] for key in ("loss", "teacher", "teacher_top1"))


def test_a_run_that_starts_over_imports_no_teacher_either(tmp_path, image_folder, big):
    named = (f"{KEY}=school:big", f"{KEY}_weights={big}")
    run(recipe_for(image_folder, *named, "train.max_steps=1", model="resnet20"), tmp_path / "run")
    for name in ("checkpoints/last", "result.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(UsageError, match="the teacher is made by `school:big`"):
        resume(tmp_path / "run")


def test_weights_of_a_factory_and_of_a_file(tmp_path, image_folder, big):
    torch.save(last(big).model, "big.pth")
    ways = {"school:taught": "the factory's own", "school:big": "big.pth"}
    for teacher, origin in ways.items():
        weights = (f"{KEY}_weights=big.pth",) if origin == "big.pth" else ()
        heard = Notes()
        context = RunContext(CPU, heard)
        entry.dry_run(teaching(image_folder, teacher, *weights), context, source="test")
        assert f"teacher: {teacher} ({origin})" in heard.notes


OTHERS = "runs/of_two"
REFUSED = [
    ((f"{KEY}={OTHERS}",), InputError, "it tells 2 classes apart, and the images have 3", ""),
    (
        (f"{KEY}={OTHERS}", f"{KEY}_weights={OTHERS}"),
        UsageError,
        "it is a run, which has weights of its own",
        "leave out",
    ),
    ((f"{KEY}=resnet32", f"{KEY}_weights={OTHERS}"), UsageError, "was trained with the model `resnet20`", ""),
    ((f"{KEY}={OTHERS}", "data.std=[0.5,0.5,0.5]"), InputError, "another std than", "`--set data.std=[0.229,0.224"),
    ((f"{KEY}=runs/none",), InputError, "the teacher `runs/none`: there is no such run", ""),
    ((f"{KEY}=resnet21",), UsageError, "unknown model `resnet21`", "did you mean"),
    ((f"{KEY}=resnet56",), UsageError, "there are no official weights of it", f"{KEY}_weights=FILE"),
    ((f"{KEY}=resnet18",), MachineError, "the official weights of `resnet18` are not in the cache", ""),
    ((f"{KEY}=school:big",), InputError, "it starts at random, and has nothing to teach", f"{KEY}_weights=FILE"),
    ((f"{KEY}=school:nobody",), UsageError, "has no function `nobody`", ""),
    ((f"{KEY}=resnet56", f"{KEY}_weights=none.pth"), InputError, "none.pth", ""),
]


def test_what_cannot_teach_is_refused_before_any_training(tmp_path, image_folder, write_image_folder, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    two = write_image_folder(tmp_path / "two", {"x": 9, "y": 9})
    run(recipe_for(two, "train.max_steps=1", model="resnet20", scheme="float"), tmp_path / OTHERS)
    for overrides, error, message, hint in REFUSED:
        with pytest.raises(error) as refused:
            run(recipe_for(image_folder, *overrides), tmp_path / "run")
        told = refused.value
        assert told.message.startswith("the teacher ") and message in told.message and hint in (told.hint or "")
        assert not (tmp_path / "run").exists()


def test_a_run_of_a_factory_teaches_whom_names_it(tmp_path, image_folder, big):
    with pytest.raises(UsageError, match="the teacher is made by `school:big`") as refused:
        run(teaching(image_folder, big), tmp_path / "run")
    assert f"`--set {KEY}=school:big --set {KEY}_weights={big}`" in refused.value.hint


def test_a_network_that_fails_is_told_to_be_the_teacher(tmp_path, image_folder, big):
    with pytest.raises(UnsupportedError, match=r"the teacher `school:big`: the network fails in evaluation"):
        run(teaching(image_folder, "school:big", f"{KEY}_weights={big}", "data.image_size=4", model="resnet20"), "run")


def test_a_run_cannot_replace_its_teacher(image_folder, small):
    recipe = teaching(image_folder, small)
    context = RunContext(CPU, Reporter())
    with pytest.raises(UsageError, match="is in the run that `--force` would replace"):
        entry.start_run(recipe, context, source="test", out=str(small), force=True, given=None)
    assert (small / "result.json").is_file()


def test_the_teacher_that_a_command_names_itself(tmp_path):
    def stated(recipe, *overrides):
        return teacher_stated(Request(None, recipe, None, None, {}, [*overrides]))

    (tmp_path / "own.yaml").write_text("train: {distillation: {teacher: school:big}}")
    assert stated(None) is None and stated(None, "train.distillation=null") is None
    assert stated("own.yaml") == "school:big" and stated("own.yaml", f"{KEY}=resnet56") == "resnet56"
