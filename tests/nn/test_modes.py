import pytest
import torch
from torch import nn

from asqcli.errors import UnsupportedError
from asqcli.export.torch_runner import TorchRunner
from asqcli.nn.calibration import calibrate
from asqcli.nn.modes import evaluating, modes_in_training, to_training
from asqcli.nn.survey import survey
from tests.conftest import TinyNet
from tests.nn.test_prepare import specs_for


class ReturnsNothing(TinyNet):
    """Keeps a norm in evaluation mode; its `train`, and so its `eval`, return nothing."""

    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()


class ByExactType(TinyNet):
    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if type(module) is nn.BatchNorm2d:
                module.eval()
        return self


def test_modes_come_back_as_the_author_wants_them():
    model = ReturnsNothing()
    to_training(model)
    model.bn2.eval()  # by hand
    before = {name: module.training for name, module in model.named_modules()}
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert modes_in_training(model)["bn2"] and not modes_in_training(model)["bn"]
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not before["bn"] and before["stem"]


def test_a_network_whose_eval_returns_nothing_is_quantized_and_runs():
    model, images = ReturnsNothing(), torch.randn(4, 3, 8, 8)
    calibrate(model, specs_for(model), [images], start="mse")
    to_training(model)
    assert not model.bn.training and model.bn2.training
    assert TorchRunner(model)(images.numpy(), lambda *_: None).shape == (4, 10)


def test_norms_that_are_frozen_by_their_exact_type_would_train_once_replaced():
    model = ByExactType()
    with pytest.raises(UnsupportedError, match=r"`train\(\)` freezes layer `bn` in float only"):
        calibrate(model, specs_for(model), [torch.randn(4, 3, 8, 8)], start="mse")


class StaysInTraining(nn.Sequential):
    def eval(self):
        return self


class Raises(nn.Sequential):
    def train(self):
        return super().train()


@pytest.mark.parametrize(
    ("kind", "message"), [(StaysInTraining, "still in training mode"), (Raises, r"`eval\(\)` raised TypeError")]
)
def test_an_eval_that_does_not_evaluate(kind, message):
    with pytest.raises(UnsupportedError, match=message):
        survey(kind(nn.Conv2d(3, 4, 1)), torch.zeros(1, 3, 4, 4))
