import pytest
import torch

from asqcli.errors import InputError
from asqcli.models.registry import build_model
from asqcli.models.weights import load_weights


@pytest.fixture
def state():
    torch.manual_seed(0)
    return build_model("resnet20", 10).state_dict()


def test_missing_unexpected_and_misshapen_keys_stand_in_one_table(state):
    state["layer9.weight"] = torch.ones(1)
    del state["bn1.bias"]
    state["conv1.weight"] = torch.ones(16, 1, 3, 3)
    with pytest.raises(InputError) as failure:
        load_weights(build_model("resnet20", 10), state, source="x.pt", head=lambda: "linear")
    text = failure.value.message
    assert "missing (1):\n    bn1.bias" in text and "unexpected (1):\n    layer9.weight" in text
    assert "another shape (1):\n    conv1.weight (16, 1, 3, 3), the network has (16, 3, 3, 3)" in text


def test_weights_that_are_no_numbers(state):
    state["conv1.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"`conv1.weight` in `x.pt`"):
        load_weights(build_model("resnet20", 10), state, source="x.pt", head=lambda: "linear")


def test_a_head_for_other_classes_is_replaced_and_said(state):
    model = build_model("resnet20", 7)
    report = load_weights(model, state, source="x", head=lambda: "linear")
    assert report.replaced_head == ("linear.bias", "linear.weight")
    assert torch.equal(model.conv1.weight, state["conv1.weight"]) and model.linear.weight.shape == (7, 64)
    with pytest.raises(InputError, match="another shape"):
        load_weights(build_model("resnet20", 7), state, source="x")


@pytest.mark.parametrize("counted", [torch.tensor(7.0), torch.tensor(6.5)])
def test_counters_that_were_cast_or_averaged(state, counted):
    model = build_model("resnet20", 10)
    load_weights(model, {**state, "bn1.num_batches_tracked": counted}, source="x")
    assert model.bn1.num_batches_tracked.dtype == torch.int64 and model.bn1.num_batches_tracked == int(counted)
    with pytest.raises(InputError, match=r"is of type torch.int64"):
        load_weights(model, {**state, "linear.bias": torch.arange(10)}, source="x")
    with pytest.raises(InputError, match="NaN or infinity"):
        load_weights(model, {**state, "bn1.num_batches_tracked": torch.tensor(torch.nan)}, source="x")
