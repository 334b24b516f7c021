"""The numbers of C are those of Python: read out of csrc/constants.h, name by name."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import asqcli.engine
from asqcli.arithmetic import constants

HEADER = (Path(asqcli.engine.__file__).parent / "csrc" / "constants.h").read_text(encoding="utf-8").replace("\\\n", "")
DEFINED = dict(re.findall(r"^#define (\w+) (.+)$", HEADER, re.MULTILINE))
PYTHON_ONLY = {"EXACT_FLOAT32"}  # C computes in integers


def number(text: str):
    """Return a number as C has it: a quotient or a literal, in float32 where an f ends it."""
    return _value(ast.parse(re.sub(r"(\d)f\b", r"\1j", text.strip()), mode="eval").body)


def _value(node: ast.expr):
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        return _value(node.left) / _value(node.right)
    return np.float32(node.value.imag) if isinstance(node.value, complex) else node.value


def test_every_constant_is_in_the_header():
    assert DEFINED.keys() == {name for name in vars(constants) if name.isupper()} - PYTHON_ONLY


@pytest.mark.parametrize("name", DEFINED)
def test_a_constant_has_the_value_of_the_header(name):
    if name.endswith("COEFFICIENTS"):
        ours = [number(text) for text in DEFINED[name].strip(" {}").split(",")]
        assert tuple(ours) == getattr(constants, name)
    else:
        ours, expected = number(DEFINED[name]), getattr(constants, name)
        assert ours == type(ours)(expected)
