"""`train.precision` through whole runs: recorded, told, gone on with, and absent from older recipes."""

import pytest
import torch

from asqcli.quant.spec import LayerSpec, PostWeights, UniformWeights
from asqcli.recipe.schema import Recipe
from asqcli.run.checkpoint import load_checkpoint
from asqcli.run.precision import precision_in_words
from asqcli.run.restore import restore_model
from tests.run.test_entry import recipe_for
from tests.run.whole_runs import CPU, Notes, run

pytestmark = pytest.mark.slow


def recipe_in(precision, folder):
    return recipe_for(folder, "train.epochs=1", f"train.precision={precision}")


def test_it_is_told_recorded_and_changes_what_is_trained_alone(tmp_path, image_folder):
    reporter, weights = Notes(), []
    for precision in ("float32", "bfloat16"):
        result = run(recipe_in(precision, image_folder), tmp_path / precision, reporter=reporter)
        checkpoint = load_checkpoint(tmp_path / precision / "checkpoints" / "last")
        assert result["precision"] == checkpoint.recipe.train.precision == precision
        restore_model(checkpoint, source=precision)  # whose answers must be those of the run, to the bit
        weights.append(checkpoint.model["conv1.weight"])
    assert not torch.equal(*weights) and torch.allclose(*weights, atol=0.05)
    assert sum("multiply in bfloat16" in note for note in reporter.notes) == 1


def test_recipes_from_before_it_mean_float32(image_folder):
    stored = recipe_in("float32", image_folder).model_dump(mode="json")
    del stored["train"]["precision"]
    assert Recipe.model_validate(stored).train.precision == "float32"


def test_notes_name_layers_that_stay_in_float32(image_folder, monkeypatch):
    specs = [
        LayerSpec(name="first", kind="conv", weights=UniformWeights(bits=8), activations=None),
        LayerSpec(name="second", kind="conv", weights=PostWeights(bits=4, grid="exact"), activations=None),
    ]
    assert not list(precision_in_words(recipe_in("float32", image_folder), specs, CPU))
    for native in (False, True):
        monkeypatch.setattr("asqcli.run.precision.multiplies_bfloat16", lambda _, native=native: native)
        first, *others = precision_in_words(recipe_in("bfloat16", image_folder), specs, CPU)
        assert "multiply in bfloat16" in first and others[-1].endswith("no whole numbers: second")
        assert [("slower" in note) for note in others[:-1]] == [True] * (not native)
