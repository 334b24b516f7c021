"""The commands as processes: exit code, text, JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from asq_process import QUICK, asq, fails, obeying_permissions
from safetensors import safe_open
from safetensors.torch import save_file

pytestmark = pytest.mark.slow


def test_quantize_prints_one_json_document_and_the_layers(run_folder):
    folder, done = run_folder
    document = json.loads(done.stdout)
    assert document["schema"] == 1 and document["run"] == "r" and document["epochs"] == 1
    assert {"float_top1", "top1", "top5"} <= document.keys()
    assert document == json.loads((folder / "result.json").read_text())
    assert "layer3.2.conv2 │ conv   │ post 4 bits" in done.stderr and "no pretrained weights" in done.stderr
    assert "qat epoch 1/1" in done.stderr  # piped: one line an epoch


def test_eval_of_a_run_gives_its_result_to_the_digit(run_folder):
    folder, done = run_folder
    expected = json.loads(done.stdout)
    for target in (folder, folder / "checkpoints" / "last"):
        measured = json.loads(asq("eval", target, "--json", "--batch-size", "7", cwd=folder).stdout)
        assert [measured[k] for k in ("top1", "top5", "images")] == [expected[k] for k in ("top1", "top5", "images")]
    by_name = json.loads(asq("eval", "resnet20", "--weights", folder, "--json", cwd=folder).stdout)
    assert by_name["top1"] == expected["top1"]


def test_eval_checks_a_minimum(run_folder):
    folder, _ = run_folder
    done = asq("eval", folder, "--min-top1", "100", "--json", cwd=folder)
    assert done.returncode == 1 and json.loads(done.stdout)["passed"] is False
    assert "less than the 100.00% asked for" in done.stderr
    assert asq("eval", folder, "--min-top1", "0", cwd=folder).returncode == 0


def test_resume_of_a_finished_run_and_with_another_recipe(run_folder):
    folder, done = run_folder
    again = asq("quantize", "--resume", folder, "--json", cwd=folder)
    assert again.returncode == 0 and json.loads(again.stdout) == json.loads(done.stdout)
    fails(2, "`train.lr` 0.02 -> 0.5", "quantize", "--resume", folder, "--lr", "0.5", cwd=folder)
    fails(3, "is not the folder of a run", "quantize", "--resume", folder / "checkpoints", cwd=folder)
    fails(2, "`--out` makes no sense beside `--resume`", "quantize", "--resume", folder, "--out", "x", cwd=folder)


def test_a_run_that_somebody_changed(run_folder, tmp_path):
    for name in ("checkpoint", "environment", "result"):
        shutil.copytree(run_folder[0], tmp_path / name)
    last = tmp_path / "checkpoint" / "checkpoints" / "last"
    with safe_open(last, "pt") as file:
        document = json.loads(file.metadata()["asq_checkpoint"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    document["plans"][3]["signed"] = None
    save_file(tensors, last, {"asq_checkpoint": json.dumps(document)})
    for command in (["eval"], ["export"], ["quantize", "--resume"]):
        fails(3, "checkpoints/last` is corrupt: `plans.3.signed`", *command, "checkpoint", cwd=tmp_path)
    (tmp_path / "environment" / "environment.json").write_text('{"threads": "many"}')
    (tmp_path / "environment" / "result.json").unlink()
    fails(3, "environment.json` is corrupt: `threads`", "quantize", "--resume", "environment", cwd=tmp_path)
    (tmp_path / "result" / "result.json").write_text("{}")
    fails(3, "result.json` is corrupt: `model`", "quantize", "--resume", "result", cwd=tmp_path, hint="remove it")


def test_out_is_not_overwritten(run_folder):
    folder, _ = run_folder
    before = (folder / "result.json").read_bytes()
    fails(2, "is there already", "quantize", "resnet20", "--out", folder, *QUICK, cwd=folder)
    assert (folder / "result.json").read_bytes() == before


SHORT_RUN = ["quantize", "resnet20", "--weights", "none", "--threads", "1", "--epochs", "1"]
SHORT_RUN += ["--set", "train.warmup.epochs=1", "--set", "train.batch_size=128"]


def weights_and_epochs(run):
    with safe_open(run / "checkpoints" / "last", "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return weights, [(line["phase"], line["epoch"], line["train_loss"]) for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("whole")
    assert asq(*SHORT_RUN, "--out", "r", cwd=cwd).returncode == 0
    return weights_and_epochs(cwd / "r")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, uninterrupted, number):
    with subprocess.Popen(
        [sys.executable, "-m", "asqcli", *SHORT_RUN, "--out", "r"],
        cwd=tmp_path,
        env={**os.environ, "ASQ_OFFLINE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr:
            if line.startswith("training a float baseline"):
                break
        while not (tmp_path / "r" / "checkpoints" / "last").exists():
            assert process.poll() is None
        process.send_signal(number)
        rest = process.stderr.read()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number, rest
        assert "error: stopped in epoch" in rest and "hint: go on with `asq quantize --resume r`" in rest
    assert asq("quantize", "--resume", "r", cwd=tmp_path).returncode == 0
    weights, epochs = weights_and_epochs(tmp_path / "r")
    expected_weights, expected_epochs = uninterrupted
    assert epochs == expected_epochs and weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)


def test_dry_run_trains_nothing_and_its_recipe_can_be_run(tmp_path):
    done = asq("quantize", "resnet20", "--bits", "3", "--dry-run", "--json", *QUICK, cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["recipe"]["weights"]["bits"] == 3 and len(document["layers"]) == 20
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine.yaml").write_text(json.dumps(document["recipe"]))  # JSON is YAML
    assert asq("recipe", "validate", "mine.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "unknown.yaml").write_text("model: resnet21\n")
    fails(2, "unknown model `resnet21`", "recipe", "validate", "unknown.yaml", cwd=tmp_path, hint="did you mean")


def test_profile_measures_and_leaves_nothing(tmp_path):
    done = asq("quantize", "resnet20", "--profile", "--json", "--batch-size", "32", *QUICK, cwd=tmp_path)
    document = json.loads(done.stdout)
    assert len(done.stderr.splitlines()) == 2  # the data and the weights, nothing of torch's
    assert document["ratio"] > 0 and sum(document["parts"].values()) == pytest.approx(100, abs=1)
    assert {"forward", "backward", "update"} == document["sections_ms"].keys()
    assert "fake quantizers" in document["parts"] and not (tmp_path / "runs").exists()
    assert document["precision"] == "float32" and "float_bf16_ms" in document and document["teacher_ms"] is None
    assert document["images_per_second"] == pytest.approx(32_000 / document["quantized_ms"], abs=0.1)
    # Beyond what a float step keeps for its backward, a quantized one has the input of one layer at a time.
    assert 0.9 < document["peak_mib"] / document["float_peak_mib"] < 1.15
    fails(2, "nothing is quantized", "quantize", "resnet20", "--scheme", "float", "--profile", cwd=tmp_path)


def test_wrong_command_lines(tmp_path):
    fails(2, "no model was named", "quantize", cwd=tmp_path)
    fails(2, "unknown model `resnet81`", "quantize", "resnet81", cwd=tmp_path, hint="did you mean `resnet18`")
    assert "data:" not in asq("quantize", "resnet81", "--dry-run", cwd=tmp_path).stderr  # told before they are fetched
    fails(2, "unknown scheme `psot`", "quantize", "resnet20", "--scheme", "psot", cwd=tmp_path, hint="did you mean")
    for bits in ("1", "9"):
        fails(2, f"is {bits} (from --bits)", "quantize", "resnet20", "--scheme", "lsq", "--bits", bits, cwd=tmp_path)
    fails(2, "choose 2 to 4 with POST levels", "quantize", "resnet20", "--bits", "8", "--set", "activations.bits=8",
          cwd=tmp_path, hint="above 4 bits")  # fmt: skip
    fails(2, "no such option", "quantize", "--recpie", "x", cwd=tmp_path, hint="did you mean `--recipe`")
    fails(2, "no such command", "quantise", cwd=tmp_path)
    fails(2, "matches no layer", "quantize", "resnet20", "--set", "layers={layer1.0.cnv1: {weights: {bits: 3}}}",
          cwd=tmp_path, hint="did you mean `layer1.0.conv1`")  # fmt: skip
    fails(2, "unknown device `cpuu`", "quantize", "resnet20", "--device", "cpuu", cwd=tmp_path)
    fails(3, "no data set or folder", "quantize", "resnet20", "--data", "nowhere", cwd=tmp_path)
    fails(3, "no run folder, checkpoint or exported file", "eval", "runs/absent", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_mistakes_in_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: resnet20\nwieghts: {bits: 3}\ntrain: {epochs: many, lr: 0}\n")
    done = asq("quantize", "--recipe", "mine.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "usage" and error["message"].startswith("3 mistakes in `mine.yaml`")
    for text in ("unknown key `wieghts`", "did you mean `weights`", "`train.epochs` is `many`", "`train.lr` is 0"):
        assert text in error["message"]
    (tmp_path / "broken.yaml").write_text("model: [resnet20\ntrain: 3")
    fails(2, "is not YAML at line 2", "recipe", "validate", "broken.yaml", cwd=tmp_path)
    fails(2, "no recipe or file", "recipe", "show", "resnet20_digits", cwd=tmp_path, hint="did you mean")


def test_weights_that_do_not_fit_or_are_none(tmp_path):
    torch.save({"conv1.weight": torch.ones(16, 3, 3, 3), "other": torch.ones(1)}, tmp_path / "other.pt")
    fails(3, "missing (", "quantize", "resnet20", "--weights", "other.pt", *QUICK, cwd=tmp_path, hint="is this the")
    (tmp_path / "notes.txt").write_text("buy milk")
    fails(3, "`notes.txt` is a text, not weights", "quantize", "resnet20", "--weights", "notes.txt", cwd=tmp_path)
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'touch harm'\ntR.")
    fails(3, "evil.pt", "quantize", "resnet20", "--weights", "evil.pt", cwd=tmp_path)
    fails(3, "no weights file", "eval", "resnet20", "--weights", "absent.pt", cwd=tmp_path)
    fails(2, "no official weights", "quantize", "resnet20", "--weights", "official", cwd=tmp_path)
    assert not (tmp_path / "harm").exists() and not (tmp_path / "runs").exists()


def test_images_that_are_missing_or_broken(tmp_path, image_folder):
    (tmp_path / "empty").mkdir()
    fails(3, "no images in `empty`", "quantize", "resnet20", "--data", "empty", cwd=tmp_path)
    broken = image_folder / "bee" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    fails(3, "bee/4.jpg` cannot be read", "quantize", "resnet20", "--data", image_folder, cwd=tmp_path, hint="mend or")
    (image_folder / "dog").mkdir()
    fails(3, "dog` has no images", "quantize", "resnet20", "--data", image_folder, cwd=tmp_path, hint="remove it")
    (image_folder / "dog").rename(os.fsdecode(os.fsencode(image_folder) + b"/caf\xe9"))
    unnamed = ("quantize", "resnet20", "--data", image_folder, "--json")
    fails(3, "caf\\xe9` has bytes that are not UTF-8 in its name", *unnamed, cwd=tmp_path, prints=True)


def test_how_a_folder_of_images_is_read_is_told(tmp_path, write_image_folder):
    for split, count in {"Training": 6, "Testing": 2}.items():
        write_image_folder(tmp_path / "photos" / split, {"ant": count, "bee": count})
    (tmp_path / "photos" / "Testing" / "ant" / "._0.jpg").touch()
    done = asq("quantize", "resnet20", "--data", "photos", "--dry-run", "--weights", "none", cwd=tmp_path)
    assert "data: 12 training images, 4 images of `photos/Testing`, 2 classes" in done.stderr
    assert "data: folders read as splits: train in `Training`, test in `Testing`" in done.stderr
    assert "data: passed over, hidden or left by a system: `Testing/ant/._0.jpg`" in done.stderr


def test_the_machine_has_its_limits(tmp_path):
    if not torch.cuda.is_available():
        fails(6, "finds no CUDA device", "quantize", "resnet20", "--device", "cuda", cwd=tmp_path, hint="leave")
    (tmp_path / "file").write_text("in the way")
    fails(6, "cannot write `file/run`", "quantize", "resnet20", "--out", "file/run", *QUICK, cwd=tmp_path)


def test_a_read_only_folder(tmp_path):
    if (before := obeying_permissions()) is None:
        pytest.skip("root may write everywhere, and cannot give that up")
    (tmp_path / "ro").mkdir(mode=0o555)
    arguments = ("quantize", "resnet20", "--out", "ro/run", *QUICK)
    fails(6, "cannot write `ro/run`", *arguments, cwd=tmp_path, before=before)


FACTORY = """
import torch
from torch import nn
def net(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes))
def broken(num_classes=10): raise ValueError("not today")
def leaves(num_classes=10): raise SystemExit(0)
def talks(num_classes=10):
    print("hello from the factory")
    return net(num_classes)
def pair(num_classes=10):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(num_classes)
        def forward(self, x): return self.net(x), x
    return Pair()
def fixed(): return net(99)
def greedy(num_classes=10):
    class Greedy(nn.Sequential):
        def forward(self, x): return super().forward(x) if len(x) == 1 else torch.empty(10**15)
    return Greedy(*net(num_classes))
def grey(num_classes=10): return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(num_classes))
"""

OWN_RECIPE = """
model: own:net
data: {name: images}
weights: {quantizer: post, bits: 3}
activations: {quantizer: asq, bits: 3}
train: {epochs: 2, batch_size: 8, warmup: {epochs: 2}}
"""


def test_an_own_network_on_own_images_from_an_own_recipe(tmp_path, image_folder):
    (tmp_path / "own.py").write_text(FACTORY)
    (tmp_path / "own.yaml").write_text(OWN_RECIPE)
    done = asq("quantize", "--recipe", "own.yaml", "--out", "r", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # the run folder does not import code by itself; the caller names it
    fails(2, "is code", "eval", "r", cwd=tmp_path, hint="name it yourself: `asq eval own:net --weights r`")
    fails(2, "is code", "export", "r", cwd=tmp_path, hint="name it yourself: ")
    fails(2, "trained with the model `own:net`, not `own:pair`", "export", "r", "--model", "own:pair", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "own.py").write_text(FACTORY)
    hint = "`../r` was trained on it; name where it is now with --data"
    fails(3, "`images`", "eval", "own:net", "--weights", "../r", cwd=elsewhere, hint=hint)
    measured = json.loads(asq("eval", "own:net", "--weights", "r", "--json", cwd=tmp_path).stdout)
    assert measured["top1"] == result["top1"]
    for factory, text in {
        "broken": "raised ValueError: not today",
        "leaves": "raised SystemExit",
        "pair": "returns tuple, not logits of shape (1, 3)",
        "fixed": "returns (1, 99), not logits",
        "grey": "fails on an input of shape (1, 3, 24, 24)",
    }.items():
        fails(4, text, "quantize", f"own:{factory}", "--data", image_folder, "--dry-run", cwd=tmp_path)
    greedy = ("quantize", "own:greedy", "--data", image_folder, *QUICK)
    fails(6, "out of memory", *greedy, cwd=tmp_path, hint="try a smaller `--batch-size`")
    talking = asq("quantize", "own:talks", "--data", image_folder, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(talking.stdout)["layers"] and "hello from the factory" in talking.stderr
    fails(2, "no module `absent`", "quantize", "absent:net", "--data", image_folder, cwd=tmp_path)
    fails(2, "is not of the form package.module:factory", "quantize", ":net", cwd=tmp_path)
    fails(2, "no function `nett`", "quantize", "own:nett", cwd=tmp_path, hint="did you mean `net`")


def test_overhead_of_resnet18_is_table_1(tmp_path):
    done = asq("overhead", "resnet18", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    published = done.stdout.split("As published")[1].split("As stored")[0]
    rows = [line.split() for line in published.splitlines() if line[:1].isdigit()]
    assert [(row[0], row[3], row[6]) for row in rows] == [
        ("8", "2.67", "0.04"), ("4", "5.34", "0.07"), ("3", "7.11", "0.10"), ("2", "10.67", "0.14"),
    ]  # fmt: skip
    assert "11,689,512 parameters, 1,814,073,344 multiply-adds" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_overhead_in_json_by_layer_with_a_plot_and_a_check(tmp_path):
    pytest.importorskip("matplotlib")
    args = ("overhead", "resnet20", "--bits", "4,8,4", "--json", "--per-layer", "--plot", "shares.png")
    done = asq(*args, "--max-param-percent", "6.01", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["passed"] is False
    assert "error: at 4 bits the adapters add 6.02% to the parameters, more than the 6.01% asked for" in done.stderr
    assert (document["schema"], document["model"], document["input_size"]) == (1, "resnet20", 32)
    assert document["quantizable"] is True and document["parameters"] == 269_722
    four, eight = document["rows"]
    assert (four["bits"], four["scheme"], eight["bits"], eight["scheme"]) == (4, "post", 8, "asq")
    for row in (four, eight):
        assert all(round(row[key], 2) == row[key] for key in row if key.endswith("_percent"))
        stored = dict(row["stored"])
        assert stored.pop("total") == sum(stored.values())
        assert row["stored_param_percent"] == round(
            100 * stored["adapters"] / (sum(stored.values()) - stored["adapters"]), 2
        )
    layers = document["layers"]
    assert len(layers) == 20 and sum(layer["multiply_adds"] for layer in layers) == document["multiply_adds"]
    assert [layer["name"] for layer in layers if not layer["adapter_parameters"]] == ["conv1", "linear"]
    first = {"bits": 4, "quantized_bytes": 432 / 2, "equivalent_operations": 442_368 / 8}
    assert layers[0]["rows"][0] == first and layers[0]["output_shape"] == [16, 32, 32]
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
    within = asq("overhead", "resnet20", "--bits", "4", "--per-layer", "--max-param-percent", "6.02", cwd=tmp_path)
    assert within.returncode == 0 and "layer3.2.conv2" in within.stdout


def test_overhead_of_a_network_that_cannot_be_quantized(tmp_path):
    done = asq("overhead", "vit_b_32", "--bits", "4", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["quantizable"] is False
    assert "does not take this network: layer `encoder.layers.encoder_layer_0.self_attention`" in done.stderr
    assert "(33.2%) are in no layer that asq quantizes" in done.stderr


def test_overhead_of_what_is_wrong(tmp_path):
    (tmp_path / "own.py").write_text(FACTORY)
    fails(2, "unknown model `resnet81`", "overhead", "resnet81", cwd=tmp_path, hint="did you mean `resnet18`")
    fails(2, "1 bits cannot be quantized to, choose 2 to 8", "overhead", "resnet18", "--bits", "4,1", cwd=tmp_path)
    fails(2, "9 bits cannot be quantized to, choose 2 to 8", "overhead", "resnet18", "--bits", "9", cwd=tmp_path)
    fails(2, "`--bits` is `4;3`", "overhead", "resnet18", "--bits", "4;3", cwd=tmp_path, hint="--bits 8,4,3,2")
    fails(2, "--input-size", "overhead", "resnet18", "--input-size", "0", cwd=tmp_path)
    fails(2, "does not end in .png", "overhead", "resnet18", "--plot", "a.pdf", cwd=tmp_path)
    fails(4, "runs out of pixels in layer `features.12` (MaxPool2d)", "overhead", "alexnet", "--input-size", "32",
          cwd=tmp_path, hint="`--input-size 63` and more works")  # fmt: skip
    fails(4, "raised ValueError: not today", "overhead", "own:broken", cwd=tmp_path)
    fails(4, "returns tuple, not one row of logits", "overhead", "own:pair", cwd=tmp_path)
    (tmp_path / "file").write_text("in the way")
    if importlib.util.find_spec("matplotlib"):
        fails(6, "cannot write `file/a.png`", "overhead", "resnet20", "--plot", "file/a.png", cwd=tmp_path)
    talking = asq("overhead", "own:talks", "--json", cwd=tmp_path)
    assert json.loads(talking.stdout)["outputs"] == 10 and "hello from the factory" in talking.stderr


def test_overhead_without_matplotlib(tmp_path):
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *args: None if name == 'matplotlib' else find(name, *args)\n"
        "sys.argv = ['asq', 'overhead', 'resnet20', '--plot', 'a.png']\n"
        "from asqcli.cli.app import run\n"
        "sys.exit(run())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 6
    assert done.stderr == "error: `--plot` needs matplotlib\nhint: pip install 'asqcli[report]'\n"


def test_help_leaves_torch_alone(tmp_path):
    for args in (["--help"], ["quantize", "--help"], ["overhead", "--help"], ["recipe", "list"]):
        code = f"import sys; sys.argv = ['asq', *{args}]\nfrom asqcli.cli.app import run\nrun()\n"
        code += "assert 'torch' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "quantize" in asq("--help", cwd=tmp_path).stdout
    assert asq("--version", cwd=tmp_path).stdout.startswith("asq ")


def test_debug_shows_the_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "asqcli", "quantize", "resnet20", "--bits", "1", "--debug"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_real_checkpoint_on_real_images(real_data, tmp_path):
    """An independent program measured 81.03 and 88.72% on these 10,000 images."""
    import tarfile

    with tarfile.open(real_data / "cifar10-jpeg.tar.xz") as archive:
        members = [m for m in archive if m.name.startswith("cifar10-jpeg/test/")]
        archive.extractall(tmp_path, members, filter="data")
    args = ["--data", tmp_path / "cifar10-jpeg", "--json"]
    for file, top1 in {"resnet20-12fca82f.th": 81.03, "resnet20-cifar10-jpeg.safetensors": 88.72}.items():
        measured = json.loads(asq("eval", "resnet20", "--weights", real_data / file, *args, cwd=tmp_path).stdout)
        assert (measured["images"], measured["top1"]) == (10_000, pytest.approx(top1, abs=0.03))
