"""The commands with torchvision's own weights, in its cache."""

import json

import pytest
from asq_process import asq

from tests.official_files import put_into_cache

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["inception_v3", "densenet121", "mnasnet0_5"])
def test_official_weights_are_found_and_fit(tmp_path, name):
    put_into_cache(name, tmp_path)
    done = asq("quantize", name, "--set", "data.image_size=96", "--threads", "1", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a new head for 10" in done.stderr and "no pretrained weights" not in done.stderr
    assert "cannot be exported" not in done.stderr


def test_what_googlenet_is_trained_with_is_evaluated_and_exported(tmp_path, image_folder):
    put_into_cache("googlenet", tmp_path)
    options = ("--set", "data.image_size=64", "--max-steps", "1", "--batch-size", "8", "--threads", "1")
    done = asq("quantize", "googlenet", "--data", image_folder, "--out", "r", "--json", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out, as only training would run them: aux1, aux2" in done.stderr
    evaluated = asq("eval", "r", "--json", cwd=tmp_path)
    assert json.loads(evaluated.stdout)["top1"] == json.loads(done.stdout)["top1"], evaluated.stderr
    exported = asq("export", "r", "--json", cwd=tmp_path)  # which runs the file beside the network
    assert exported.returncode == 0, exported.stderr
