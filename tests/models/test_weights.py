import pickle

import pytest
import torch
from safetensors.torch import save_file

from asqcli.errors import InputError
from asqcli.models.registry import build_model
from asqcli.models.weights import load_weights, read_weights
from tests.permissions import unreadable


@pytest.fixture
def state():
    torch.manual_seed(0)
    return build_model("resnet20", 10).state_dict()


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_all_formats_give_the_same_tensors(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": {"module." + n: t for n, t in state.items()}, "epoch": 3}, tmp_path / "c.th")
    torch.save(state, tmp_path / "d.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt", "c.th", "d.pt"):
        assert_same(read_weights(tmp_path / name), state)


def test_real_checkpoint_as_it_is(real_data):
    state = read_weights(real_data / "resnet20-12fca82f.th")
    load_weights(build_model("resnet20", 10), state, source="it", replace_head=False)


class Malice:
    def __reduce__(self):
        return (open, (Malice.path, "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, legacy):
    Malice.path = str(tmp_path / "harm")
    torch.save({"state_dict": Malice()}, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Malice()))
    for name in ("evil.pt", "plain.pkl"):
        wants = r"wants to run `(_io|io|builtins)\.open`" if name == "evil.pt" else "is not a weights file"
        with pytest.raises(InputError, match=wants) as refusal:
            read_weights(tmp_path / name)
        assert "weights_only" not in refusal.value.message
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n", b"", b"\x08\0\0\0\0\0\0\0{broken}", b"PK\x03\x04 not a zip", b"\x80\x02"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(InputError, match=r"weights"):
        read_weights(tmp_path / "weights")


def test_weights_without_permission(tmp_path, monkeypatch, state):
    save_file(state, tmp_path / "weights")
    refused = pytest.raises(InputError, match="`weights` cannot be read: Permission denied")
    with unreadable(tmp_path / "weights", monkeypatch) as weights, refused:
        read_weights(weights)


def test_missing_unexpected_and_misshapen_keys_stand_in_one_table(state):
    state["layer9.weight"] = torch.ones(1)
    del state["bn1.bias"]
    state["conv1.weight"] = torch.ones(16, 1, 3, 3)
    with pytest.raises(InputError) as failure:
        load_weights(build_model("resnet20", 10), state, source="x.pt", replace_head=True)
    text = failure.value.message
    assert "missing (1):\n    bn1.bias" in text and "unexpected (1):\n    layer9.weight" in text
    assert "another shape (1):\n    conv1.weight (16, 1, 3, 3), the network has (16, 3, 3, 3)" in text


def test_weights_that_are_no_numbers(state):
    state["conv1.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"`conv1.weight` in `x.pt`"):
        load_weights(build_model("resnet20", 10), state, source="x.pt", replace_head=True)


def test_a_head_for_other_classes_is_replaced_and_said(state):
    model = build_model("resnet20", 7)
    report = load_weights(model, state, source="x", replace_head=True)
    assert report.replaced_head == ("linear.bias", "linear.weight")
    assert torch.equal(model.conv1.weight, state["conv1.weight"]) and model.linear.weight.shape == (7, 64)
    with pytest.raises(InputError, match="another shape"):
        load_weights(build_model("resnet20", 7), state, source="x", replace_head=False)


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
def test_tensors_without_plain_values_are_refused_by_name(tmp_path, state, kind):
    torch.save({**state, "linear.weight": ODD[kind](state["linear.weight"])}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=f"`linear.weight` in .* {kind}"):
        read_weights(tmp_path / "odd.pt")


@pytest.mark.parametrize("name", [5, ("a", 1), None])
def test_names_that_are_no_text(tmp_path, state, name):
    torch.save({**state, name: torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match="names of parameters are text"):
        read_weights(tmp_path / "odd.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1", "Git LFS"), (b"\n<!DOCTYPE html>", "web page")],
)
def test_files_that_lie_where_weights_should_be(tmp_path, content, reason):
    (tmp_path / "odd.pt").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_weights(tmp_path / "odd.pt")
