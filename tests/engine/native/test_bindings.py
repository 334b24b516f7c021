"""The C interface as Python declares it: the constants of csrc/kernel.h and the structs of a step, name by name."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

import pytest

from asqcli.engine.native import bindings
from asqcli.errors import MachineError

pytestmark = pytest.mark.native

CSRC = bindings.LIBRARY.parent
TEXT = "".join((CSRC / name).read_text() for name in ("kernel.h", "batch.h"))
HEADER = re.sub(r"/\*.*?\*/", "", TEXT, flags=re.DOTALL)
UNION = "of_kind"
NUMBERS = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "size_t": ctypes.c_size_t,
    "atomic_int": ctypes.c_int,
}


def declared(name: str) -> type:
    """Return a number's type, or a struct as the header's text declares it."""
    if name in NUMBERS:
        return NUMBERS[name]
    body = re.search(rf"typedef struct(?: {name})? {{((?:[^{{}}]|{{[^{{}}]*}})*)}} {name};", HEADER)[1]
    fields = fields_of(body)
    return type(name, (ctypes.Structure,), {"_anonymous_": [UNION] * (UNION in dict(fields)), "_fields_": fields})


def fields_of(body: str) -> list[tuple[str, type]]:
    """Return (name, type) of the fields that these declarations make; a union without a name is called UNION."""
    fields = []
    for choices, declaration in re.findall(r"union {([^}]*)};|([^;{}]*\S;)", body):
        if choices:
            fields.append((UNION, type(UNION, (ctypes.Union,), {"_fields_": fields_of(choices)})))
            continue
        kind, names = re.fullmatch(r"\s*(?:const )?(?:struct )?(\w+) (.*);", declaration, re.DOTALL).groups()
        for declarator in re.split(r",\s*", names):
            pointer, name, count = re.fullmatch(r"(\*?)(\w+)(?:\[(\d+)\])?", declarator).groups()
            type_ = ctypes.c_void_p if pointer else declared(kind)
            fields.append((name, type_ * int(count) if count else type_))
    return fields


def leaves(type_: type, at: int = 0, path: str = "") -> Iterator[tuple[str, int, type]]:
    """Yield (path, offset, type) of every number and pointer in a type, and in the structs and unions inside it."""
    if issubclass(type_, ctypes.Array):
        for k in range(type_._length_):
            yield from leaves(type_._type_, at + k * ctypes.sizeof(type_._type_), f"{path}[{k}]")
    elif issubclass(type_, ctypes.Structure | ctypes.Union):
        for name, field in type_._fields_:
            inside = path if name in getattr(type_, "_anonymous_", ()) else f"{path}.{name}"
            yield from leaves(field, at + getattr(type_, name).offset, inside)
    else:
        yield path, at, type_


@pytest.mark.parametrize("struct", [bindings.Op, bindings.Batch])
def test_a_struct_has_the_fields_of_the_header_at_the_same_offsets(struct):
    in_header = declared(struct.__name__)
    assert list(leaves(struct)) == list(leaves(in_header))
    assert ctypes.sizeof(struct) == ctypes.sizeof(in_header)


def test_the_header_is_read_to_the_last_struct():
    fields = list(leaves(declared("Op")))
    some = {".kind", ".conv.taps", ".conv.adapter.layers[1].outputs", ".elementwise.tail.high", ".copy.to_stride[2]"}
    assert some <= {path for path, _, _ in fields}


@pytest.mark.parametrize("name", ["taps", "low"])
def test_a_step_takes_no_field_that_it_does_not_have(name):
    with pytest.raises(AttributeError):
        setattr(bindings.Op(), name, 1)
    with pytest.raises(AttributeError):
        bindings.Op(**{name: 1})


def test_constants_have_the_values_of_the_header():
    checked = set()
    for body in re.findall(r"enum {([^}]*)};", HEADER):
        names = [part.strip().partition(" = ") for part in body.split(",")]
        for index, (name, _, value) in enumerate(names):
            if name.startswith("GATE_"):
                assert bindings.GATES[index] == name.removeprefix("GATE_").lower()
            else:
                assert getattr(bindings, name) == int(value or index)
            checked.add(name)
    assert {"BLOCK", "LAYOUT_PIXELS", "OP_CONV", "GATE_SILU"} <= checked


def test_kernels_of_another_source_are_an_error_that_says_what_to_do(monkeypatch):
    class Other(ctypes.Structure):
        _fields_ = (*bindings.Op._fields_, ("more", ctypes.c_int64))

    monkeypatch.setattr(bindings, "Op", Other)
    with pytest.raises(MachineError, match="of another version of asq: they have another Other") as told:
        bindings.find_library.__wrapped__()
    assert told.value.exit_code == 6 and told.value.hint == "install asq again"
