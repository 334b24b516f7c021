"""The C interface as Python declares it: the constants and structs of csrc/kernel.h, name by name."""

from __future__ import annotations

import ctypes
import re

import pytest

from asqcli.engine.native import bindings

pytestmark = pytest.mark.native

HEADER = re.sub(r"/\*.*?\*/", "", (bindings.LIBRARY.parent / "kernel.h").read_text(), flags=re.DOTALL)
TYPES = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "float": ctypes.c_float,
    "Pool": bindings.Pool,
    "AdapterLayer": bindings.AdapterLayer,
}


def declared(struct: str) -> list[tuple[str, type]]:
    """Return (name, type) of the fields of a struct in C."""
    body = re.search(rf"typedef struct(?: {struct})? {{([^}}]*)}} {struct};", HEADER)[1]
    fields = []
    for declaration in filter(None, map(str.strip, body.split(";"))):
        kind, names = re.fullmatch(r"(?:const )?(?:struct )?(\w+) (.*)", declaration, re.DOTALL).groups()
        for name in re.split(r",\s*", names):
            pointer, name, count = re.fullmatch(r"(\*?)(\w+)(?:\[(\d+)\])?", name).groups()
            type_ = ctypes.c_void_p if pointer else TYPES[kind]
            fields.append((name, type_ * int(count) if count else type_))
    return fields


@pytest.mark.parametrize("struct", [bindings.Op, bindings.Pool, bindings.AdapterLayer])
def test_a_struct_has_the_fields_of_the_header(struct):
    assert list(struct._fields_) == declared(struct.__name__)


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
