"""The commands with networks of timm."""

import json

import pytest
from asq_process import asq, fails

from asqcli.engine import load
from tests.official_files import put_timm_into_cache

pytestmark = pytest.mark.slow

STEP = ("--set", "data.image_size=64", "--max-steps", "1", "--batch-size", "8", "--threads", "1")


def test_what_is_trained_is_evaluated_exported_and_proven(tmp_path, image_folder):
    done = asq("quantize", "timm:lcnet_050", "--data", image_folder, "--json", *STEP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = "runs/timm_lcnet_050-w4a4-post"
    trained = json.loads(done.stdout)
    assert trained["run"] == run
    evaluated = asq("eval", run, "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert [json.loads(evaluated.stdout)[key] for key in ("top1", "loss")] == [trained[key] for key in ("top1", "loss")]
    exported = asq("export", run, "--data", image_folder, "--json", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    file = json.loads(exported.stdout)["file"]
    proven = asq("infer", file, "--data", image_folder, "--verify", "--run", run, "--json", cwd=tmp_path)
    assert proven.returncode == 0, proven.stderr
    verify = json.loads(proven.stdout)["verify"]
    assert [verify[f"{what}_mismatches"] for what in ("code", "accumulator", "logit")] == [0, 0, 0]
    assert load(tmp_path / file).artifact.document.provenance.model == "timm:lcnet_050"  # its float peer's name
    assert "timm" in json.loads((tmp_path / run / "environment.json").read_text())


def test_weights_of_timm_and_their_preprocessing(tmp_path, image_folder):
    hub = tmp_path / "hub"
    put_timm_into_cache("test_resnet", hub)
    name, env = "timm:test_resnet.r160_in1k", {"HF_HUB_CACHE": str(hub)}
    arguments = ("quantize", name, "--data", image_folder, "--weights", "official", "--threads", "1", "--dry-run")
    done = asq(*arguments, "--set", "data.image_size=64", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "timm test_resnet.r160_in1k are for another number of classes: a new head" in done.stderr
    assert "mean:\n  - 0.5\n" in done.stdout + done.stderr
    fails(
        6, "not in the cache and ASQ_OFFLINE forbids downloads", *arguments, cwd=tmp_path,
        hint="give a file with --weights, or --weights none",
    )  # fmt: skip
    fails(3, "are not for the", "eval", name, "--data", image_folder, cwd=tmp_path, env=env)


def test_names(tmp_path):
    fails(2, "has no model `resnet81`", "quantize", "timm:resnet81", cwd=tmp_path, hint="did you mean `timm:resnet18`")
    (tmp_path / "mine.yaml").write_text("model: timm:lcnet_05\ndata: {name: digits}\n")
    hint = "did you mean `timm:lcnet_0"
    fails(2, "has no model `lcnet_05`", "recipe", "validate", "mine.yaml", cwd=tmp_path, hint=hint)
    done = asq("overhead", "timm:lcnet_050", "--input-size", "64", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["model"] == "timm:lcnet_050", done.stderr
