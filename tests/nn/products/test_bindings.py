"""The structs of the compiled passes, as Python and C see them, and libraries that do not fit."""

import ctypes
import re
from pathlib import Path

import pytest

from asqcli.nn.products import bindings

CSRC = Path(bindings.__file__).with_name("csrc")
TYPES = {"int64_t": bindings.int64, "float": bindings.float32}


def declared(header, struct):
    """Return (name, type) of each field of a struct in a header, in order."""
    body = re.search(rf"typedef struct {{([^}}]*)}} {struct};", re.sub(r"/\*.*?\*/", "", header, flags=re.S))[1]
    for line in filter(None, (part.strip() for part in body.split(";"))):
        kind, names = line.removeprefix("const ").split(" ", 1)
        for name in names.split(","):
            pointer = name.strip().startswith("*")
            yield name.strip().removeprefix("*"), bindings.pointer if pointer else TYPES[kind]


@pytest.mark.parametrize("struct", [bindings.Winograd, bindings.Depthwise])
def test_a_struct_has_the_fields_of_the_header(struct):
    header = (CSRC / f"{struct.__name__.lower()}.h").read_text()
    assert list(struct._fields_) == list(declared(header, struct.__name__))


@pytest.mark.skipif(bindings.loaded() is None, reason="not compiled")
def test_a_library_of_another_source_is_none(monkeypatch, tmp_path):
    class Other(ctypes.Structure):
        _fields_ = (*bindings.Depthwise._fields_, ("more", bindings.int64))

    find = bindings.loaded.__wrapped__
    assert find() is not None
    with monkeypatch.context() as patch:
        patch.setattr(bindings, "Depthwise", Other)
        assert find() is None
    with monkeypatch.context() as patch:
        patch.setattr(bindings, "LIBRARY", Path(bindings.__file__).parents[2] / "quant/kernels/csrc/fake_quant.so")
        assert find() is None
    monkeypatch.setattr(bindings, "LIBRARY", tmp_path / "none.so")
    assert find() is None
