"""A run knows its own answers: whoever opens it gets the network that was trained, or is refused."""

import hashlib
import re
from dataclasses import replace

import pytest
import torch
from asq_process import asq, fails
from torch import nn

from asqcli.api import quantize_module
from asqcli.errors import InputError
from asqcli.models.registry import build_model
from asqcli.probes import probe_inputs, probe_pixels
from asqcli.recipe.schema import Data
from asqcli.run.checkpoint import load_checkpoint, save_checkpoint
from asqcli.run.fingerprint import TOLERANCES, Fingerprint, require_same_network, take_fingerprint
from asqcli.run.restore import restore_model

DATA = Data(name="digits", image_size=16, resize=16, augment="none")
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, num_classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.head(x.mean((2, 3)))
"""


def test_the_fixed_images_are_these():
    """Runs of today are compared on them tomorrow: the same bytes, on every processor and in every version."""
    pixels = probe_pixels(32)
    assert pixels.shape == (4, 32, 32, 3) and pixels.dtype == "uint8"
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "cf8274136d346027"
    assert (probe_pixels(32, 2) == pixels[:2]).all()
    assert 30 < pixels.std() < 80 and all(60 < image.mean() < 200 for image in pixels)
    assert not any((image == image[:, ::-1]).all() or (image == image[::-1]).all() for image in pixels)
    inputs = probe_inputs(16, (0.5,) * 3, (0.5,) * 3)
    assert inputs.shape == (4, 3, 16, 16) and abs(inputs).max() <= 1.0


def test_answers_are_those_of_evaluation_and_change_nothing(tiny_net):
    tiny_net.train()
    before = {name: tensor.clone() for name, tensor in tiny_net.state_dict().items()}
    fingerprint = take_fingerprint(tiny_net, DATA)
    assert tiny_net.training and all(torch.equal(t, before[n]) for n, t in tiny_net.state_dict().items())
    images = torch.from_numpy(probe_inputs(16, DATA.mean, DATA.std))
    assert torch.equal(fingerprint.logits, tiny_net.eval()(images).detach()) and fingerprint.kind == "float"


def test_a_network_that_overflows_has_no_answers(tiny_net):
    with torch.no_grad():
        tiny_net.head.weight.fill_(torch.inf)
    assert take_fingerprint(tiny_net, DATA) is None


class Between(nn.Module):
    """Two layers, and what a function of the test does between them."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), function

    def forward(self, x):
        return self.head(self.function(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("exact", torch.relu),
        ("exact", lambda x: nn.functional.silu(nn.functional.avg_pool2d(x, 2)).sigmoid()),
        ("exact", lambda x: nn.functional.avg_pool2d(x, 3, ceil_mode=True).tanh()),
        ("exact", lambda x: x * x.mean(1, keepdim=True) + torch.stack([x, x.relu()]).sum(0).narrow(1, 0, 1)),
        ("mixed", lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=3)),
        ("mixed", lambda x: x * x.mean((1, 2), keepdim=True)),
        ("mixed", torch.exp),
    ],
)
def test_only_what_every_processor_computes_alike_is_held_to_the_bit(kind, function):
    torch.manual_seed(0)
    network = Between(function)
    quantize_module(network, [torch.randn(4, 3, 16, 16)])
    assert take_fingerprint(network, DATA).kind == kind


def test_batch_norms_and_sums_are_exact(tiny_net):
    quantize_module(tiny_net, [torch.randn(4, 3, 16, 16)])
    assert take_fingerprint(tiny_net, DATA).kind == "exact"


@pytest.mark.parametrize(("kind", "refused"), [("exact", 1e-6), ("float", 1e-3), ("mixed", 0.1)])
def test_each_kind_has_its_tolerance(tiny_net, kind, refused):
    logits = take_fingerprint(tiny_net, DATA).logits
    spread = (logits.max() - logits.min()).item()

    def compare(by, name="resnet20"):
        other = logits.clone()
        other[1, 2] += by * spread
        require_same_network(tiny_net, Fingerprint(other, kind), DATA, name=name, source="run")

    compare(TOLERANCES[kind] / 2)
    with pytest.raises(InputError, match="is not the one that was trained into `run`: for fixed images"):
        compare(refused)


@pytest.fixture(scope="module")
def run_of_a_factory(tmp_path_factory):
    """The folder with `fingerprinted.py`, and in it the finished run `run`."""
    cwd = tmp_path_factory.mktemp("fingerprint")
    (cwd / "fingerprinted.py").write_text(NETWORK)
    asq("quantize", "fingerprinted:Net", "--out", "run", "--max-steps", "2", "--threads", "1", cwd=cwd)
    assert (cwd / "run" / "result.json").is_file()
    return cwd


EDITS = {
    "another operation": ("self.bn1(self.conv1(x)).relu()", "self.bn1(self.conv1(x)).abs()"),
    "another constant": ("nn.BatchNorm2d(12)", "nn.BatchNorm2d(12, eps=0.1)"),
    "a drawn constant": ("x.mean((2, 3))", "x.mean((2, 3)) * torch.rand(())"),
    "another order": ("x.mean((2, 3))", "x.flip(1).mean((2, 3))"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_factory_that_was_edited_since_is_refused(run_of_a_factory, edit, monkeypatch):
    before, after = EDITS[edit]
    module = f"edited_{re.sub('[^a-z]', '_', edit)}"
    (run_of_a_factory / f"{module}.py").write_text(NETWORK.replace(before, after))
    checkpoint = load_checkpoint(run_of_a_factory / "run" / "checkpoints" / "last")
    name = f"{module}:Net"
    moved = replace(checkpoint, recipe=checkpoint.recipe.model_copy(update={"model": name}))
    monkeypatch.chdir(run_of_a_factory)
    with pytest.raises(Exception, match=f"`{name}` now builds another network than the one that was") as refusal:
        restore_model(moved, source="run", factory=name)
    assert refusal.value.exit_code == 4


def test_every_command_that_opens_a_run_compares(run_of_a_factory, tmp_path):
    """The same edit under each command: none of them may go on with another network."""
    text = "`fingerprinted:Net` now builds another network than the one that was trained into"
    (run_of_a_factory / "fingerprinted.py").write_text(NETWORK.replace("x.mean((2, 3))", "x.flip(1).mean((2, 3))"))
    try:
        for command in (
            ["eval", "fingerprinted:Net", "--weights", "run"],
            ["export", "run", "--model", "fingerprinted:Net"],
            ["quantize", "fingerprinted:Net", "--weights", "run", "--max-steps", "1", "--out", tmp_path / "other"],
        ):
            fails(4, text, *command, cwd=run_of_a_factory)
    finally:
        (run_of_a_factory / "fingerprinted.py").write_text(NETWORK)
    assert asq("eval", "fingerprinted:Net", "--weights", "run", cwd=run_of_a_factory).returncode == 0


def test_a_run_from_before_says_so(run_of_a_factory):
    last = run_of_a_factory / "run" / "checkpoints" / "last"
    whole = last.read_bytes()
    save_checkpoint(last, replace(load_checkpoint(last), fingerprint=None))
    try:
        done = asq("eval", "fingerprinted:Net", "--weights", "run", cwd=run_of_a_factory)
    finally:
        last.write_bytes(whole)
    assert done.returncode == 0 and "note: `run` was made before asq kept a network's answers" in done.stderr


def test_the_state_dict_alone_would_not_tell():
    """What the comparison is for: two networks with the same parameters that load each other's without a word."""
    one, other = build_model("resnet20", 10), build_model("resnet20", 10)
    other.relu = nn.Identity()
    other.forward = lambda x: build_model("resnet20", 10).forward(x)
    other.load_state_dict(one.state_dict())
    expected = take_fingerprint(one.eval(), DATA)
    with pytest.raises(InputError):
        require_same_network(other, expected, DATA, name="resnet20", source="run")
