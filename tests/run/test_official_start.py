"""What a run starts from: the weights of torchvision and timm, as these have them, and in whatever opens the run."""

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from asqcli.models.official import official_weights
from asqcli.models.state import EXTRA, with_versions
from asqcli.recipe.resolve import Request, resolve
from asqcli.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from asqcli.run.restore import restore_model
from asqcli.run.start import start_model
from asqcli.run.teacher import load_teacher, save_teacher
from asqcli.train.progress import Progress
from tests.official_files import put_into_cache, put_timm_into_cache

pytestmark = pytest.mark.slow

SIZE = "data.image_size=96"


def started(name, weights, *overrides, classes=1000):
    """(what a run would start from, its recipe, what was told)"""
    flags = {"pretrained": (str(weights), "--weights")}
    recipe = resolve(Request(name, None, "float", None, flags, [SIZE, *overrides])).recipe
    told = []
    start = start_model(recipe, classes, told.append)
    return start, recipe, " ".join([*told, *start.notes])


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mnasnet0_5"])
def test_official_weights_answer_as_in_torchvision(home, name):
    put_into_cache(name, home)
    start, _, told = started(name, "official")
    theirs = models.get_model(name, weights=official_weights(name)).eval()
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(start.model.eval()(x), theirs(x))
    assert ("left out, as only training would run them: aux1, aux2" in told) == (name == "googlenet")
    assert not start.needs_training and start.caveat is None


def test_what_comes_with_official_weights_stays_with_a_run(home):
    file = put_into_cache("googlenet", home)
    start, recipe, told = started("googlenet", "auto", classes=3)
    model = start.model.eval()
    assert model.transform_input and start.needs_training and "a new head for 3" in told
    save_checkpoint(home / "last", checkpoint := Checkpoint(
        recipe, Progress("float", facts={"weights": "none"}), [], ("a", "b", "c"), model.state_dict(), {}
    ))  # fmt: skip
    assert restore_model(load_checkpoint(home / "last"), source="r").transform_input
    next_start, _, _ = started("googlenet", home / "last", classes=3)
    assert next_start.model.transform_input
    save_teacher(home / "float", model, None)
    plain, _, told = started("googlenet", "none", classes=3)
    assert not plain.model.transform_input
    load_teacher(home / "float", plain.model)
    assert plain.model.transform_input
    # A run from before has no extra state, and keeps the network that it had.
    before = {name: tensor for name, tensor in model.state_dict().items() if name != EXTRA}
    checkpoint.model = with_versions(before, {})
    assert not restore_model(checkpoint, source="r").transform_input
    by_path, by_path_recipe, _ = started("googlenet", file)
    assert by_path.model.transform_input and by_path.caveat is None
    assert by_path_recipe.data.mean == (0.485, 0.456, 0.406)
    own = file.rename(home / "own.pth")
    other, _, told = started("googlenet", own)
    assert not other.model.transform_input and "note: `googlenet` is built with `transform_input=False`" in told
    half = [f"data.{key}=[0.5,0.5,0.5]" for key in ("mean", "std")]
    assert started("googlenet", own, *half)[0].caveat is None


def test_weights_of_timm_answer_as_in_timm(home, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home / "hub"))
    state = put_timm_into_cache("test_resnet", home / "hub")
    theirs = timm.create_model("test_resnet")
    theirs.load_state_dict(state)
    x = torch.randn(1, 3, 96, 96)
    for wanted in ("auto", "official"):
        start, recipe, told = started("timm:test_resnet", wanted)
        with torch.no_grad():
            assert torch.equal(start.model.eval()(x), theirs.eval()(x))
        assert not start.needs_training and "weights: timm test_resnet.r160_in1k" in told
        assert recipe.data.mean == (0.5, 0.5, 0.5)
    start, _, told = started("timm:test_resnet", "official", classes=3)
    assert start.needs_training and "a new head for 3 (fc.bias, fc.weight)" in told


def test_a_file_for_timm_tells_which_colours_its_own_weights_want(tmp_path):
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "own.safetensors")
    _, _, told = started("timm:test_resnet", tmp_path / "own.safetensors", "data.mean=[0.4,0.4,0.4]")
    half = "--set data.mean=[0.5,0.5,0.5] --set data.std=[0.5,0.5,0.5]"
    assert f"note: weights that were made from timm's own of `timm:test_resnet` want {half}" in told
    plain = [f"data.{key}=[0.5,0.5,0.5]" for key in ("mean", "std")]
    assert started("timm:test_resnet", tmp_path / "own.safetensors", *plain)[0].caveat is None
