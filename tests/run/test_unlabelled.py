"""Runs without labels: the float network is the teacher, and agreement with it is what is measured."""

import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from asqcli.data.source import open_data
from asqcli.errors import InputError, Interruption, NotLearningError
from asqcli.measures import ACCURACY, AGREEMENT
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry
from asqcli.run.checkpoint import load_checkpoint
from asqcli.run.checks import require_learning
from asqcli.run.context import RunContext, StopRequested
from asqcli.run.restore import restore_model
from tests.run.whole_runs import CPU, Notes, epochs_of, run

NAMES = ("ant", "bee", "cow")
TINY = "tests.conftest:TinyNet"


def recipe_for(folder, *overrides, weights=None, labels=False, classes=None, model=TINY, scheme="post"):
    flags = {"data.name": (str(folder), "--data"), "pretrained": (weights and str(weights), "--weights")}
    flags |= {"data.labels": (labels, "--no-labels"), "data.classes": (classes and str(classes), "--classes")}
    small = ["train.epochs=2", "train.batch_size=8", "data.image_size=16"]
    return resolve(Request(model, None, scheme, None, flags, [*small, *overrides])).recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A float run on three classes."""
    from tests.conftest import write_image_folder

    root = tmp_path_factory.mktemp("float")
    folder = write_image_folder(root / "images", dict.fromkeys(NAMES, 12))
    run(recipe_for(folder, "train.epochs=4", labels=True, scheme="float"), root / "trained")
    return root / "trained"


@pytest.fixture
def split_images(tmp_path, write_image_folder):
    """Twelve training images and six to measure on, in folders called by other names."""
    for split, each in (("train", 6), ("test", 3)):
        write_image_folder(tmp_path / "photos" / split, {"m": each, "n": each}, seed=5)
    return tmp_path / "photos"


def network_of(checkpoint_of):
    checkpoint = load_checkpoint(checkpoint_of / "checkpoints" / "last")
    return restore_model(checkpoint, source="test", factory=TINY).eval()


def weights_of(out):
    return load_checkpoint(out / "checkpoints" / "last").model


def all_equal(some, others):
    return some.keys() == others.keys() and all(torch.equal(some[n], others[n]) for n in some)


def test_what_is_measured_is_how_often_the_answer_is_the_float_networks(tmp_path, trained, split_images):
    recipe, heard = recipe_for(split_images, weights=trained), Notes()
    result = run(recipe, tmp_path / "run", reporter=heard)
    images, _ = next(open_data(str(split_images), entry.preprocessing_of(recipe), workers=0).result.eval_batches(6))
    with torch.no_grad():
        ours, floats = (network_of(out)(images) for out in (tmp_path / "run", trained))
    agreement = (ours.argmax(1) == floats.argmax(1)).double().mean().item()
    assert result["top1"] == round(100 * agreement, 2) and result["images"] == 6
    assert result["measures"] == "agreement with the float network" and result["float_top1"] == 100.0
    assert {e["measures"] for e in epochs_of(tmp_path / "run")} == {result["measures"]}
    assert [e["phase"] for e in epochs_of(tmp_path / "run")] == ["qat", "qat"]
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last").classes == NAMES
    assert not any("top-1" in note or "classes have" in note for note in heard.notes)


def test_names_of_folders_and_labels_have_no_say(tmp_path, trained, split_images):
    flat = tmp_path / "flat"
    for split in ("train", "test"):
        (flat / split).mkdir(parents=True)
        for path in (split_images / split).glob("*/*.jpg"):
            (flat / split / f"{path.parent.name}{path.name}").write_bytes(path.read_bytes())
    for name, folder in {"nested": split_images, "flat": flat}.items():
        run(recipe_for(folder, weights=trained), tmp_path / "runs" / name)
    nested, flattened = (tmp_path / "runs" / name for name in ("nested", "flat"))
    assert all_equal(weights_of(nested), weights_of(flattened)) and epochs_of(nested) == epochs_of(flattened)


def test_a_run_without_labels_resumes_to_the_same_bits(tmp_path, trained, image_folder):
    recipe, heard, polls = recipe_for(image_folder, weights=trained), Notes(), []

    def poll():
        polls.append(any("before training" in note for note in heard.notes))
        if sum(polls) == 3:  # among the steps of the first epoch
            raise StopRequested(signal.SIGINT)

    whole = run(recipe, tmp_path / "whole")
    with pytest.raises(Interruption, match="in epoch 1 of the qat phase"):
        run(recipe, tmp_path / "run", poll, heard)
    folder, checkpoint = entry.open_run(str(tmp_path / "run"))
    resumed = entry.resume_run(folder, checkpoint, RunContext(CPU, Notes()), factory=TINY)
    assert all_equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "run"))
    assert epochs_of(tmp_path / "whole") == epochs_of(tmp_path / "run") and resumed["top1"] == whole["top1"]


def test_norms_keep_the_statistics_that_they_have_before_training(tmp_path, trained, split_images):
    def statistics(*overrides):
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        run(recipe_for(split_images, *overrides, weights=trained), out)
        return {name: tensor for name, tensor in weights_of(out).items() if name.endswith("running_mean")}

    short, long, batch = statistics("train.epochs=1"), statistics(), statistics("train.batch_norm=batch")
    assert all_equal(short, long) and not any(torch.equal(long[name], batch[name]) for name in long)


def names_in(tmp_path, *lines):
    (tmp_path / "names.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "names.txt"


def dry_run(recipe, reporter=None):
    return entry.dry_run(recipe, RunContext(CPU, reporter or Notes()), source="test")


def test_a_file_names_the_classes(tmp_path, trained, split_images):
    heard = Notes()
    dry_run(recipe_for(split_images, weights=trained, classes=names_in(tmp_path, "x", "y", "z")), heard)
    assert any(note.startswith("classes: 3, named by") for note in heard.notes)
    with pytest.raises(InputError, match=r"names 2 classes, and `tests.conftest:TinyNet` answers with 3 logits"):
        dry_run(recipe_for(split_images, weights=trained, classes=names_in(tmp_path, "x", "y")))
    with pytest.raises(InputError, match="more than once: `x`"):
        dry_run(recipe_for(split_images, weights=trained, classes=names_in(tmp_path, "x", "y", "x")))


FACTORY = """
import torch
from tests.conftest import TinyNet

def loaded():
    torch.manual_seed(0)
    return TinyNet(7)

def random():
    return TinyNet(7)
"""


def test_the_teacher_must_have_been_trained(tmp_path, split_images, monkeypatch):
    (tmp_path / "teachers.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)

    def start(factory, weights="factory"):
        heard = Notes()
        dry_run(recipe_for(split_images, weights=weights, model=f"teachers:{factory}"), heard)
        return heard.notes

    assert any(note.startswith("classes: 7, which are numbered") for note in start("loaded"))
    with pytest.raises(InputError, match="starts without weights"):
        start("random")
    with pytest.raises(InputError, match="starts without weights: none \\(there are no official weights"):
        start("loaded", "auto")


def test_photos_that_look_alike_to_the_float_network_do_not_end_a_run():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    images = torch.randn(8, 3, 1, 1)

    class Split:
        labels = torch.zeros(8, dtype=torch.int64)

        def __len__(self):
            return 8

        def spread(self, count):
            return self

        def eval_batches(self, size):
            yield images, self.labels

    phase = SimpleNamespace(
        model=model, split=Split(), measure=AGREEMENT, objective=SimpleNamespace(teacher=model), steps_done=900,
        steps=1000, steps_per_epoch=1, settings=SimpleNamespace(batch_size=8, optimizer="sgd"), device=CPU,
        progress=SimpleNamespace(phase="qat"), section="train",
    )  # fmt: skip
    record = {"steps": 900, "train_loss": 0.1, "train_top1": 100.0}
    require_learning(phase, record)
    phase.measure = ACCURACY
    with pytest.raises(NotLearningError, match="still only guesses"):
        require_learning(phase, record)
    phase.measure = AGREEMENT
    nn.init.zeros_(model[1].weight)
    with pytest.raises(NotLearningError, match=r"the same answer .* classified as the float network"):
        require_learning(phase, record)
