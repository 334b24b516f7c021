import argparse
import datetime
import pathlib
import pickle
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict, deque

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from asqcli.errors import InputError
from asqcli.models.registry import build_model
from asqcli.models.stored.file import read_file
from asqcli.models.stored.stand_ins import Array
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
    torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b.pt", "c.pt"):
        assert_same(read_file(tmp_path / name), state)


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
            read_file(tmp_path / name)
        assert "weights_only" not in refusal.value.message
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [b"hello, this is text\n", b"", b"\x08\0\0\0\0\0\0\0{broken}", b"PK\x03\x04 not a zip", b"\x80\x02"]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(InputError, match=r"weights"):
        read_file(tmp_path / "weights")


def test_weights_without_permission(tmp_path, monkeypatch, state):
    save_file(state, tmp_path / "weights")
    refused = pytest.raises(InputError, match="`weights` cannot be read: Permission denied")
    with unreadable(tmp_path / "weights", monkeypatch) as weights, refused:
        read_file(weights)


BESIDE = {
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("x")),
    "simple": types.SimpleNamespace(a=1),
    "scalar": np.float64(91.5),
    "flag": np.bool_(1),
    "text": np.str_("a"),
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "generator": np.random.get_state(),
    "path": pathlib.PosixPath("a/b"),
    "windows": pathlib.PureWindowsPath("a"),
    "date": datetime.date(2024, 1, 2),
    "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "duration": datetime.timedelta(3),
    "lists": defaultdict(list, a=[1]),
    "recent": deque([1.0]),
    "torch": torch.__version__,
    "set": {frozenset([1])},
    "type": int,
    "range": range(3),
    "ordered": OrderedDict(a=1),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_what_programs_save_beside_weights_is_no_obstacle(tmp_path, legacy):
    for name, value in BESIDE.items():
        path = tmp_path / f"{name}.pt"
        torch.save({"weights": torch.ones(2), name: value}, path, _use_new_zipfile_serialization=not legacy)
        content = read_file(path)
        assert torch.equal(content["weights"], torch.ones(2)) and name in content
    torch.save(BESIDE, tmp_path / "all.pt")
    content = read_file(tmp_path / "all.pt")
    assert content["lists"] == {"a": [1]} and content["ordered"] == {"a": 1}
    assert type(content["path"]).__module__ == "asqcli.models.stored.stand_ins"  # nothing of pathlib was made


@pytest.mark.parametrize(
    "array",
    [np.float32([[1, 2, 3], [4, 5, 6]]), np.asfortranarray(np.eye(2, 3)), np.array(3), np.array([1.5], ">f8"),
     np.array([True]), np.float16([1])],
)  # fmt: skip
def test_arrays_keep_their_numbers(tmp_path, array):
    torch.save({"a": array}, tmp_path / "a.pt")
    tensor = read_file(tmp_path / "a.pt")["a"].tensor()
    native = array.astype(array.dtype.newbyteorder("="))
    assert tensor.shape == array.shape and torch.equal(tensor, torch.from_numpy(native.copy()))


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"]), np.array([1j]), np.zeros(1, "f4,i4")])
def test_arrays_of_other_things_are_no_tensors(tmp_path, array):
    torch.save({"a": array}, tmp_path / "a.pt")
    assert read_file(tmp_path / "a.pt")["a"].tensor() is None


@pytest.mark.parametrize("state", [None, (1,), (1, (2,), None, False, b"xxxx"), ([],) * 5])
def test_arrays_that_are_broken_are_no_tensors(state):
    array = Array()
    array.__setstate__(state)
    assert array.tensor() is None


def test_a_whole_network_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(build_model("resnet20", 10), tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"wants to run `asqcli.models.cifar_resnet.CifarResNet`") as refusal:
        read_file(tmp_path / "net.pt")
    assert "`state_dict()`" in refusal.value.hint


def _script(path):
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), path)


def _archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
        archive.writestr("net/weights.pth", "x")


def _of_the_future(path):
    """A ZIP archive that wants a reader of version 9.9, in its list of contents."""
    _archive(path)
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02") + 6
    path.write_bytes(content[:at] + bytes([99]) + content[at + 1 :])


def _cut(path):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:3000])


def _tar(path):
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a.py")


OTHER_FILES = {
    "is empty": b"",
    "is a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
    "is a web page": b"\n<!DOCTYPE html>",
    'begins with `{"error": "no such file"}`': b'{"error": "no such file"}\n',
    "begins with `Ung\u00fcltig": "Ung\u00fcltig, ".encode() * 99,
    "is compressed (gzip)": b"\x1f\x8b\x08\0\0",
    "is an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "is an ONNX graph": b"\x08\x07\x12\x07pytorch\x1a\x03",
    "is a tar archive": _tar,
    "is a TorchScript archive": _script,
    "not of weights: it holds readme.txt, net/weights.pth": _archive,
    "is cut short": _cut,
    "of a kind that Python cannot read": _of_the_future,
    "a plain pickle": pickle.dumps({"a": 1}),
    "another protocol": lambda path: torch.save({"a": torch.ones(1)}, path, pickle_protocol=4),
    "no state dict but a list": lambda path: torch.save([torch.ones(1)], path),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", OTHER_FILES)
def test_files_that_lie_where_weights_should_be(tmp_path, text):
    content = OTHER_FILES[text]
    if isinstance(content, bytes):
        (tmp_path / "w.pt").write_bytes(content)
    else:
        content(tmp_path / "w.pt")
    with pytest.raises(InputError) as refusal:
        read_file(tmp_path / "w.pt")
    assert text in refusal.value.message and refusal.value.hint
