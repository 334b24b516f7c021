import copy
from unittest import mock

import pytest
import torch
from torch import nn

from asqcli.api import quantize_module
from asqcli.models.registry import build_model
from asqcli.nn.prepare import prepare
from asqcli.nn.survey import survey
from asqcli.quant.spec import AsqActivations, LayerSpec, PostWeights
from asqcli.train.optimizer import (
    RATE,
    give_momenta,
    learning_rate,
    make_optimizer,
    optimizer_state,
    parameter_groups,
    rates_are_tensors,
    restore_optimizer,
    set_rate,
)


def test_only_weights_of_convolutions_and_linear_layers_decay():
    model = build_model("resnet20", 10)
    layers = survey(model, torch.zeros(1, 3, 16, 16)).layers
    specs = [
        LayerSpec(
            name=s.name, kind=s.kind, weights=PostWeights(bits=4), activations=AsqActivations(bits=4), signed=False
        )
        for s in layers
    ]
    prepare(model, specs, torch.zeros(1, 3, 16, 16))
    decayed, free = parameter_groups(model, 1e-4)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {s.name + ".weight" for s in layers}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert free["weight_decay"] == 0.0


def test_the_rate_rises_in_the_ramp_and_goes_to_zero_along_the_cosine():
    plain = [learning_rate(0.2, step, 8) for step in range(9)]
    assert plain[0] == 0.2 and plain[-1] < 1e-12 and plain == sorted(plain, reverse=True)
    ramped = [learning_rate(0.2, step, 8, ramp_steps=4) for step in range(9)]
    assert ramped[:3] == [pytest.approx(plain[n] * (n + 1) / 4) for n in range(3)] and ramped[3:] == plain[3:]


def textbook_adamw(weight, gradients, lr, decay, first=0.9, second=0.99, epsilon=1e-8):
    """Algorithm 2 of Loshchilov and Hutter (2019), one element after the other."""
    weight = [*weight]
    for i in range(len(weight)):
        m = v = 0.0
        for t, gradient in enumerate(gradients, start=1):
            m = first * m + (1 - first) * gradient[i]
            v = second * v + (1 - second) * gradient[i] ** 2
            mean, spread = m / (1 - first**t), v / (1 - second**t)
            weight[i] -= lr * (mean / (spread**0.5 + epsilon) + decay * weight[i])
    return weight


def steps_with(model, optimizer, gradients):
    for gradient in gradients:
        model.weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()


def test_adamw_is_that_of_the_paper_and_decays_weights_alone():
    model = nn.Linear(3, 1).double()
    start, gradients = model.weight.detach().clone(), [[0.5, -2.0, 0.1], [0.25, 1.0, 0.0], [-3.0, 0.5, 0.01]]
    optimizer = make_optimizer(model, "adamw", lr=0.01, momentum=0.9, weight_decay=0.1)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    steps_with(model, optimizer, gradients)
    assert model.weight[0].tolist() == pytest.approx(textbook_adamw(start[0].tolist(), gradients, 0.01, 0.1))


@pytest.mark.parametrize(("kind", "kept"), [("sgd", {"momentum_buffer"}), ("adamw", {"exp_avg", "exp_avg_sq", "step"})])
def test_an_optimizer_goes_on_from_its_state_to_the_bit(kind, kept):
    first, second = [[0.5, -2.0, 0.1], [0.25, 1.0, 0.0]], [[-3.0, 0.5, 0.01], [1.0, 1.0, 1.0]]
    whole, halves = nn.Linear(3, 1).double(), nn.Linear(3, 1).double()
    halves.load_state_dict(whole.state_dict())
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    steps_with(whole, make_optimizer(whole, kind, **options), first + second)
    optimizer = make_optimizer(halves, kind, **options)
    steps_with(halves, optimizer, first)
    state = optimizer_state(halves, optimizer)
    assert state.keys() == kept and all(names.keys() == {"weight"} for names in state.values())
    again = make_optimizer(halves, kind, **options)
    restore_optimizer(halves, again, {kind: {n: t.clone() for n, t in kept.items()} for kind, kept in state.items()})
    steps_with(halves, again, second)
    assert torch.equal(whole.weight, halves.weight)


def test_a_head_steps_at_its_own_rate_and_decays_as_its_kind_does():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = make_optimizer(model, "sgd", lr=0.1, momentum=0.9, weight_decay=0.01, head="1", head_rate=5.0)
    groups = {id(p): (group["weight_decay"], group[RATE]) for group in optimizer.param_groups for p in group["params"]}
    assert [groups[id(p)] for p in model.parameters()] == [(0.01, 1.0), (0.0, 1.0), (0.01, 5.0), (0.0, 5.0)]


def small_quantized_network():
    layers = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    model = nn.Sequential(*layers)  # the first layer and the last have no adapter
    return quantize_module(model, [torch.rand(4, 3, 8, 8)])


def moved_by_a_step(model, kind, **rates):
    """Return how far each parameter moves, by its name, with gradients of its own."""
    model, drawn = copy.deepcopy(model), torch.Generator().manual_seed(3)
    optimizer = make_optimizer(model, kind, lr=0.01, momentum=0.9, weight_decay=1e-4, **rates)
    set_rate(optimizer, 0.01)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=drawn)
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_steps_and_adapters_have_rates_of_their_own(kind):
    model = small_quantized_network()
    plain = moved_by_a_step(model, kind)
    slow = moved_by_a_step(model, kind, step_lr=0.1, adapter_lr=3.0)
    kinds = set()
    for name, distance in slow.items():
        rate = 3.0 if ".adapter." in name else 0.1 if name.endswith(("step_size", "clipping_threshold")) else 1.0
        kinds.add(rate)
        torch.testing.assert_close(distance, rate * plain[name], rtol=1e-3, atol=1e-6)
    assert kinds == {3.0, 0.1, 1.0}


def test_without_rates_of_their_own_there_are_two_groups_in_the_order_of_the_network():
    model = small_quantized_network()
    groups = make_optimizer(model, "sgd", lr=0.1, momentum=0.9, weight_decay=1e-4).param_groups
    expected = parameter_groups(model, 1e-4)
    assert [[id(p) for p in g["params"]] for g in groups] == [[id(p) for p in g["params"]] for g in expected]
    assert [g[RATE] for g in groups] == [1.0, 1.0]


def test_the_fused_form_takes_parameters_whose_first_gradient_comes_later():
    """On a GPU it is used; PyTorch has it on the CPU, too."""
    found = {}
    for form in ("fused", "foreach"):
        early, late = (torch.nn.Parameter(torch.tensor([value])) for value in (1.0, 2.0))
        optimizer = torch.optim.SGD([early, late], lr=0.1, momentum=0.9, **{form: True})
        if form == "fused":
            optimizer.register_step_pre_hook(give_momenta)
        for gradients in ((0.5, None), (0.25, 1.0), (None, 0.5), (1.0, 1.0)):
            for parameter, gradient in zip((early, late), gradients, strict=True):
                parameter.grad = None if gradient is None else torch.tensor([gradient])
            optimizer.step()
        found[form] = torch.cat([early, late]).detach()
    torch.testing.assert_close(found["fused"], found["foreach"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_each_group_has_its_share_of_a_rate_as_a_number_or_as_a_tensor(as_tensors):
    """On a GPU they are tensors; the fused form takes them on the CPU, too."""
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": [p], RATE: share} for p, share in zip(parameters, (1.0, 0.25), strict=True)]
    optimizer = torch.optim.SGD(groups, lr=9.0, fused=True)
    if as_tensors:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(9.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates_are_tensors(optimizer) == as_tensors
    for lr in (0.5, 0.25):
        set_rate(optimizer, lr)
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        optimizer.step()
    assert [p.item() for p in parameters] == [0.25, 0.8125]
    assert not as_tensors or all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, rates, strict=True))


def test_momenta_are_made_once():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    with mock.patch("torch.zeros_like", wraps=torch.zeros_like) as made:
        for _ in range(3):
            give_momenta(optimizer)
    assert made.call_count == 1 and optimizer.state[parameter]["momentum_buffer"].tolist() == [0, 0, 0]
