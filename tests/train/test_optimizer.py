import torch

from asqcli.models.registry import build_model
from asqcli.nn.prepare import LayerPlan, prepare
from asqcli.nn.survey import survey
from asqcli.train.optimizer import cosine_lr, parameter_groups

ASQ = {"quantizer": "asq", "bits": 4, "adapter": {"hidden": "quarter", "bits": 8, "output": "reciprocal"}}


def test_only_weights_of_convolutions_and_linear_layers_decay():
    model = build_model("resnet20", 10)
    layers = survey(model, torch.zeros(1, 3, 16, 16)).layers
    prepare(model, [LayerPlan(s.name, s.kind, {"quantizer": "post", "bits": 4}, ASQ, signed=False) for s in layers],
            torch.zeros(1, 3, 16, 16))
    decayed, free = parameter_groups(model, 1e-4)
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {s.name + ".weight" for s in layers}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert free["weight_decay"] == 0.0


def test_cosine_goes_from_lr_to_zero():
    rates = [cosine_lr(0.2, step, 8) for step in range(9)]
    assert rates[0] == 0.2 and rates[-1] < 1e-12 and rates == sorted(rates, reverse=True)
