import torch
from torch import nn

from asqcli.api import quantize_module
from asqcli.train.diagnose import first_nonfinite
from asqcli.train.objective import Objective
from asqcli.train.step_hooks import OscillationFreezer, WeightAverage


def test_the_average_follows_its_formula():
    layer = nn.Linear(2, 1, bias=False)
    average = WeightAverage(layer, decay=0.75)
    expected = layer.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            layer.weight.add_(step)
        average.after_step(layer)
        expected = 0.75 * expected + 0.25 * layer.weight.detach()
    torch.testing.assert_close(average.state()["weight"], expected)


def test_a_layer_of_two_names_is_averaged_under_both():
    model = nn.Module()
    model.a = model.b = nn.Linear(2, 1)
    average, start = WeightAverage(model, decay=0.9), model.a.weight.detach().clone()
    with torch.no_grad():
        model.a.weight.add_(1)
    average.after_step(model)
    model.load_state_dict(average.state())
    torch.testing.assert_close(model.a.weight.detach(), start + 0.1)


def test_buffers_are_copied_not_averaged():
    norm = nn.BatchNorm2d(3)
    average = WeightAverage(norm, decay=0.99)
    norm.train()(torch.randn(4, 3, 2, 2) + 5)
    average.after_step(norm)
    assert torch.equal(average.state()["running_mean"], norm.running_mean)


def test_a_weight_that_jumps_to_and_fro_is_held_and_others_are_not():
    model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False))
    quantize_module(model, [torch.randn(4, 3, 2, 2)], scheme="lsq", bits=3, first_last="same")
    layer = model[0]
    with torch.no_grad():
        layer.weight_quantizer.step_size.fill_(1.0)
        layer.weight.copy_(torch.tensor([0.4, 1.0, -2.0]).reshape(1, 3, 1, 1))
    freezer = OscillationFreezer(model, threshold=0.2, momentum=0.1)
    for step in range(12):
        with torch.no_grad():
            layer.weight[0, 0] = 0.4 if step % 2 else 0.6  # rounds to 0 and 1 in turn
            layer.weight[0, 1] = 1.0 + 0.1 * step  # passes a boundary once
        freezer.after_step(model)
    assert freezer.tensors["0/frozen"].flatten().tolist() == [True, False, False]
    held = layer.weight[0, 0].item()
    assert held in (0.0, 1.0)
    for _ in range(100):  # whatever the optimizer does to it from now on
        with torch.no_grad():
            layer.weight[0, 0] = 3.0 - 2 * held
        freezer.after_step(model)
        assert layer.weight[0, 0].item() == held


def test_distillation_is_the_weighted_sum_of_both_losses():
    torch.manual_seed(0)
    logits, labels, images = torch.randn(6, 4), torch.arange(6) % 4, torch.randn(6, 3, 2, 2)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    objective = Objective(teacher=teacher, weight=0.3, temperature=2.0)
    p = torch.softmax(teacher(images) / 2, 1)
    divergence = (p * (p.log() - torch.log_softmax(logits / 2, 1))).sum(1).mean()
    expected = 0.7 * nn.functional.cross_entropy(logits, labels) + 0.3 * 4 * divergence
    torch.testing.assert_close(objective(logits, labels, images), expected)


def test_label_smoothing_by_hand():
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    target = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    expected = -(target * torch.log_softmax(logits, 1)).sum()
    torch.testing.assert_close(Objective(label_smoothing=0.1)(logits, labels, torch.zeros(1)), expected)


def test_the_first_layer_to_give_a_nan_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    images = torch.randn(2, 3, 4, 4)
    assert first_nonfinite(model, images) is None
    with torch.no_grad():
        model[2].weight.fill_(3e38)
    assert first_nonfinite(model, images) == "the output of layer `2`"
    with torch.no_grad():
        model[0].bias[1] = torch.nan
    assert first_nonfinite(model, images) == "the parameter `0.bias`"
