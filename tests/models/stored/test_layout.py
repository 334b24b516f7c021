import copy
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from asqcli.errors import InputError
from asqcli.models.registry import build_model
from asqcli.models.stored.layout import read_weights
from asqcli.models.weights import load_weights


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class Around(nn.Module):
    """A network whose own names begin with what is cut off from others."""

    def __init__(self, name="module"):
        super().__init__()
        self.add_module(name, Net())


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net()


@pytest.fixture
def read(tmp_path, net):
    """Return a function: content of a file to (what lies in it for the network, what was told)."""

    def read(content, model=net):
        torch.save(content, tmp_path / "w.pt")
        told = []
        stored = read_weights(tmp_path / "w.pt", model, told.append)
        load_weights(copy.deepcopy(model), stored.state, source="w.pt", about=stored.about)
        return stored.state, told

    return read


def prefixed(prefix, state):
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def others(state):
    """Return other weights of the same network."""
    return OrderedDict((n, t + 1 if t.is_floating_point() else t) for n, t in state.items())


def holds(state, wanted):
    return all(torch.equal(state[name], tensor) for name, tensor in wanted.items()) and len(state) == len(wanted)


KEYS = [
    "state_dict", "model", "net", "network", "model_state_dict", "model_state", "state_dict_ema", "model_ema", "ema",
    "params", "weights", "a_name_of_ones_own",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_state_dicts_under_keys(read, net, key):
    state = net.state_dict()
    adam = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 3, 2, 2)).sum().backward()
    adam.step()
    extras = {"epoch": 3, "optimizer": adam.state_dict(), "best": torch.tensor(9.0), "acc": np.float64(1)}
    for content in ({key: state}, {**extras, key: state}, {key: {"state_dict": state}}, {"x": {**extras, key: state}}):
        assert holds(read(content)[0], state) and read(content)[1] == []


PREFIXES = [
    "module.", "_orig_mod.", "model.", "net.", "_orig_mod.module.", "module._orig_mod.", "model._orig_mod.",
    "_forward_module.model.", "module.module.", "anything.",
]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(read, net, prefix):
    state = net.state_dict()
    for content in (prefixed(prefix, state), {"state_dict": prefixed(prefix, state), "epoch": 1}):
        assert holds(read(content)[0], state) and read(content)[1] == []


def test_wrappers_inside_of_names(read, net):
    compiled = {name.replace("conv.", "conv._orig_mod.").replace("fc.", "module.fc."): t
                for name, t in net.state_dict().items()}  # fmt: skip
    assert holds(read(compiled)[0], net.state_dict())


@pytest.mark.parametrize("name", ["module", "model", "net", "_orig_mod"])
def test_nothing_is_cut_where_names_fit(read, net, name):
    around = Around(name)
    state = around.state_dict()
    assert holds(read(state, around)[0], state)
    assert holds(read(prefixed("module.", state), around)[0], state)
    assert holds(read({"state_dict": prefixed("model._orig_mod.", state)}, around)[0], state)


def test_a_network_inside_of_a_wrapper_that_the_file_lacks(read, net):
    assert holds(read(net.state_dict(), Around())[0], prefixed("module.", net.state_dict()))


def test_counters_of_profilers_and_averages(read, net):
    state, zero = net.state_dict(), torch.zeros(1)
    profiled = {**state, "total_ops": zero, "total_params": zero, "conv.total_ops": zero, "bn.total_params": zero}
    assert holds(read(profiled)[0], state)
    averaged = AveragedModel(net).state_dict()
    assert "n_averaged" in averaged
    for content in (averaged, {"model_ema": averaged}):
        assert holds(read(content)[0], state) and read(content)[1] == []


def test_versions_of_modules_go_with_the_names(read, net):
    for wrapped in (nn.DataParallel(net), nn.Sequential(OrderedDict(model=nn.DataParallel(net)))):
        state, _ = read({"state_dict": wrapped.state_dict()})
        assert state._metadata["bn"] == {"version": 2} and state._metadata[""] == {"version": 1}


def test_averaged_weights_go_first_and_it_is_told(read, net):
    raw, average = net.state_dict(), others(net.state_dict())
    for content in (
        {"model": raw, "model_ema": average},
        {"state_dict_ema": prefixed("module.", average), "state_dict": raw},
        {"state_dict": {**prefixed("model.", raw), **prefixed("ema_model.module.", average)}},
    ):
        state, (told,) = read(content)
        assert holds(state, average) and "averaged weights go first" in told and "w.pt" in told
    assert told.endswith(
        "those under `state_dict.ema_model` are taken, not `state_dict.model`: averaged weights go first"
    )


def test_averages_that_are_not_whole_do_not_count(read, net):
    raw = net.state_dict()
    assert holds(read({"model": raw, "ema": others(dict(net.named_parameters()))})[0], raw)
    assert holds(read({"model": raw, "ema": None})[0], raw)


def test_usual_names_go_before_others(read, net):
    raw = net.state_dict()
    state, (told,) = read({"teacher": others(raw), "model": raw})
    assert holds(state, raw) and "not `teacher`: the usual name goes first" in told


def test_the_same_weights_twice_are_no_choice(read, net):
    raw = net.state_dict()
    assert read({"student": raw, "best": copy.deepcopy(raw)})[1] == []


def test_two_networks_that_nothing_decides_between(read, net):
    raw = net.state_dict()
    with pytest.raises(InputError, match="several networks that fit: `a` and `b`"):
        read({"a": raw, "b": others(raw)})
    with pytest.raises(InputError, match="several networks that fit: `module` and the outermost names"):
        read({**raw, **prefixed("module.", others(raw))})


def test_the_network_that_fits_is_taken_out_of_a_larger_whole(read, net):
    state = net.state_dict()
    whole = {**prefixed("model.", state), "criterion.weight": torch.ones(3), "discriminator.fc.weight": torch.ones(1)}
    found, (told,) = read({"state_dict": whole, "optimizer": {"x": torch.ones(1)}})
    assert holds(found, state)
    assert "is used, not criterion.weight; discriminator.fc.weight" in told and "`state_dict.model`" in told


def test_parts_that_were_saved_each_by_itself(read, net):
    assert holds(read({n: m.state_dict() for n, m in net.named_children()})[0], net.state_dict())


def test_weights_beside_numbers_and_as_arrays(read, net):
    state = net.state_dict()
    assert holds(read({**state, "acc": 91.0, "name": "x"})[0], state)
    assert holds(read({"model": {name: tensor.numpy() for name, tensor in state.items()}})[0], state)


def test_old_names_of_torchvisions_networks_fit(read):
    layer = nn.Sequential(OrderedDict(norm1=nn.BatchNorm2d(3), conv1=nn.Conv2d(3, 4, 1)))
    model = nn.Sequential(OrderedDict(denselayer1=layer))
    raw = model.state_dict()
    for now in layer._modules:
        raw = OrderedDict((name.replace(now, f"{now[:-1]}.1"), tensor) for name, tensor in raw.items())
    average = others(raw)
    assert holds(read({"state_dict": prefixed("module.", raw), "epoch": 1}, model)[0], raw)
    state, (told,) = read({"model": raw, "model_ema": average}, model)
    assert holds(state, average) and "averaged weights go first" in told


def test_safetensors_with_a_prefix(tmp_path, net):
    save_file(prefixed("module.", net.state_dict()), tmp_path / "w.safetensors")
    assert holds(read_weights(tmp_path / "w.safetensors", net).state, net.state_dict())


def test_what_does_not_fit_is_told_with_what_there_is(read, net):
    state = net.state_dict()
    del state["fc.weight"]
    with pytest.raises(InputError) as failure:
        read({"epoch": 3, "state_dict": prefixed("module.", {**state, "head.weight": torch.ones(1)}), "args": None})
    text = failure.value.message
    assert "missing (1):\n    fc.weight" in text and "unexpected (1):\n    head.weight" in text
    assert "7 of the network's 8 names are there; outermost the file holds `epoch`; `state_dict`; `args`" in text
    assert "most names fit under `state_dict" in text


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, {"state_dict": {"a": 1}}, {5: torch.ones(1)}])
def test_no_state_dict_at_all(read, content):
    with pytest.raises(InputError, match=r"holds no state dict; (outermost|it is empty)"):
        read(content)


def test_a_dict_inside_of_itself(read, net):
    content = {"model": net.state_dict()}
    content["again"] = content
    assert holds(read(content)[0], net.state_dict())


def test_real_checkpoint_as_it_is(real_data):
    model = build_model("resnet20", 10)
    load_weights(model, read_weights(real_data / "resnet20-12fca82f.th", model).state, source="it")


ODD = {
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "sparse": torch.Tensor.to_sparse,
    "meta": lambda t: t.to("meta"),
    "complex": lambda t: t.to(torch.complex64),
    "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "NoneType": lambda t: None,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_without_plain_values_are_refused_by_name(tmp_path, net, kind):
    torch.save({**net.state_dict(), "fc.weight": ODD[kind](net.fc.weight.detach())}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=f"`fc.weight` in .* {kind}"):
        read_weights(tmp_path / "odd.pt", net)


@pytest.mark.parametrize("name", [5, ("a", 1), None])
def test_names_that_are_no_text(tmp_path, net, name):
    torch.save({**net.state_dict(), name: torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match="names of parameters are text"):
        read_weights(tmp_path / "odd.pt", net)
