"""Networks that learn nothing, and networks that evaluate as something else than they trained."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from asqcli.accuracy import Accuracy
from asqcli.errors import NotLearningError
from asqcli.measures import AGREEMENT
from asqcli.recipe.resolve import Request, resolve
from asqcli.run import entry
from asqcli.run.context import RunContext
from asqcli.train.learning import Guessing, answers_alike, cost_in_words, falls_behind
from asqcli.train.reporter import Reporter

NETWORKS = """
import torch
from torch import nn

class Slow(nn.Module):
    def __init__(self, num_classes=10, momentum=0.001):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32, momentum=momentum), nn.ReLU(),
        )
        self.head = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.head(self.layers(x).mean((2, 3)))

class Dying(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, num_classes)
        nn.init.constant_(self.conv.bias, -100.0)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

class Otherwise(Slow):
    def forward(self, x):
        return super().forward(x if self.training else x.flip(2))
"""


class Notes(Reporter):
    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)


@pytest.fixture
def quantize(tmp_path, monkeypatch):
    """Run a network of NETWORKS on the digits; return (result, notes, metrics)."""
    (tmp_path / "learning_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)

    def run(name, *overrides, scheme="lsq", bits=8):
        flags = {"pretrained": ("none", "--weights")}
        model = f"learning_networks:{name}" if f"class {name}(" in NETWORKS else name
        recipe = resolve(Request(model, None, scheme, bits, flags, list(overrides))).recipe
        context = RunContext(torch.device("cpu"), notes := Notes())
        result = entry.start_run(recipe, context, source="test", out=name, force=False, given=None)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return result, notes.texts, [json.loads(line) for line in lines]

    return run


def test_guessing_by_hand():
    even, uneven = Guessing.among(torch.arange(10).repeat(7)), Guessing.among(torch.tensor([0, 0, 0, 1]))
    assert even.loss == pytest.approx(np.log(10)) and even.top1 == pytest.approx(10)
    assert uneven.loss == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)) and uneven.top1 == 75
    assert even.is_not_beaten(loss=2.31, top1=10.5, images=1000)
    assert not even.is_not_beaten(loss=2.2, top1=10.5, images=1000)  # it learns, if slowly
    assert not even.is_not_beaten(loss=2.31, top1=20.0, images=1000)
    assert even.is_not_beaten(loss=None, top1=14.0, images=100)  # luck over few images


def test_dead_relus_answer_all_images_alike():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    images = torch.randn(6, 3, 4, 4)
    assert not answers_alike(model, images)
    with torch.no_grad():
        model[0].bias.fill_(-100)
    assert answers_alike(model, images) and model.training


def test_a_gap_is_told_beyond_luck():
    def evaluated(top1, images=512):
        return Accuracy(top1=top1, top5=100.0, loss=1.0, images=images)

    assert falls_behind(evaluated(18.6), train_top1=97.8, images=1437)
    assert not falls_behind(evaluated(92.0), train_top1=97.8, images=1437)
    assert not falls_behind(evaluated(40.0, images=16), train_top1=60.0, images=16)
    assert not falls_behind(evaluated(99.0), train_top1=80.0, images=1437)  # augmentation, dropout


@pytest.mark.parametrize(
    ("top1", "train_top1", "ending"),
    [
        (93.5, 91.0, None),
        (90.0, 88.0, "6.39 points below the float network's 96.39%, and training had 88.00% .*`--epochs 10`"),
        (90.0, 99.0, "6.39 points .* training had 99.00% right in its last epoch: try more bits$"),
    ],
)
def test_what_quantization_costs_is_told_with_what_may_help(top1, train_top1, ending):
    evaluated = Accuracy(top1=top1, top5=100.0, loss=1.0, images=360)
    text = cost_in_words(evaluated, float_top1=96.39, train_top1=train_top1, epochs=5)
    assert text is None if ending is None else re.search(ending, text)


def test_agreement_is_told_below_ninety_percent_in_words_of_its_own():
    def told(top1):
        evaluated = Accuracy(top1=top1, top5=100.0, loss=1.0, images=360)
        return cost_in_words(evaluated, float_top1=100.0, train_top1=70.0, epochs=5, measure=AGREEMENT)

    assert told(89.0) == (
        "agreement with the float network is 89.00%, and training had 70.00% as the float network has them in its last "
        "epoch: try `--epochs 10`, then more bits"
    )
    assert told(90.0) is None


def test_a_costly_result_says_so(quantize):
    settings = ["train.warmup.epochs=6", "train.epochs=1", "train.lr=1e-6", "first_last=same"]
    result, notes, _ = quantize("Slow", *settings, scheme="lsq", bits=2)
    assert "points below the float network's" in result["warnings"][-1]
    assert f"warning: {result['warnings'][-1]}" in notes
    cut, _, _ = quantize("Otherwise", "train.max_steps=1", scheme="lsq", bits=2)
    assert cut["warnings"] == []


def test_slow_statistics_are_estimated_before_every_figure(quantize):
    epochs = ["train.warmup.epochs=3", "train.epochs=1"]
    result, notes, metrics = quantize("Slow", *epochs)
    assert all(abs(m["top1"] - m["train_top1"]) < 25 for m in metrics[1:]), metrics
    assert result["float_top1"] == metrics[2]["top1"]
    assert not any("batch-norm" in text for text in result["warnings"])
    told = [text for text in notes if "2 batch norms average too slowly" in text and "momentum 0.001" in text]
    assert len(told) == 2  # once a phase


def test_statistics_that_may_not_be_estimated_are_told_of(quantize):
    epochs = ["train.warmup.epochs=6", "train.epochs=1", "train.batch_norm_batches=0"]
    result, notes, metrics = quantize("Slow", *epochs)
    assert metrics[5]["train_top1"] - metrics[5]["top1"] > 20
    assert "warmup phase" in result["warnings"][0] and "batch_norm_batches" in result["warnings"][0]
    assert f"warning: {result['warnings'][0]}" in notes


def test_a_network_that_evaluates_otherwise_is_told_of(quantize):
    result, _, _ = quantize("Otherwise", "train.epochs=8", scheme="float", bits=None)
    assert "computes something else in evaluation" in result["warnings"][0]


def test_a_dead_network_ends_the_run(quantize, tmp_path):
    with pytest.raises(NotLearningError, match="gives every image the same answer") as stop:
        quantize("Dying")
    assert stop.value.exit_code == 5 and "`--set train.warmup.optimizer=adamw`" in stop.value.hint
    assert not (tmp_path / "Dying" / "result.json").exists()


@pytest.mark.parametrize(
    ("more", "hint"), [((), "`--set train.optimizer=adamw`"), (("train.optimizer=adamw",), "`--set train.lr=1e-10`")]
)
def test_a_network_that_guesses_for_half_of_its_training_ends_the_run(quantize, more, hint):
    with pytest.raises(NotLearningError, match="still only guesses after 115 steps of the float phase") as stop:
        quantize("Slow", "train.epochs=10", "train.lr=1e-9", *more, scheme="float", bits=None)
    assert stop.value.exit_code == 5 and hint in stop.value.hint


def test_a_network_without_norms_learns_by_its_defaults(quantize):
    """By SGD it stayed at 10 to 31% in six settings, by AdamW without a ramp at 66% after three times as long."""
    result, _, _ = quantize("squeezenet1_1", "train.epochs=5", scheme="float", bits=None)
    assert result["top1"] > 60
