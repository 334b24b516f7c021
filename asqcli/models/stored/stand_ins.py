"""Stand-ins for objects that programs save beside weights: settings, metrics, paths, dates.

torch's loader without code takes tensors and plain values, and refuses all else by name. These names are let through
to it, each as a class of ours that keeps nothing: no code of the named classes runs, nor need they be installed. Only
arrays of plain numbers keep their content.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor


class ForeignObject:
    """Stands for any object; keeps nothing of it."""

    def __new__(cls, *_: object, **__: object) -> ForeignObject:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class ForeignDict:
    """Makes a plain dict in the place of a kind of dict: torch's loader fills no other."""

    def __new__(cls, *_: object, **__: object) -> OrderedDict[Any, Any]:
        return OrderedDict()


class ForeignList:
    """Makes a plain list in the place of a kind of list."""

    def __new__(cls, *_: object, **__: object) -> list[Any]:
        return []


class ArrayType:
    """A `numpy.dtype`: what was said of it."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


class Array:
    """A `numpy.ndarray`: its parts, as they stand in the file."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """Return the array, None where it is not one of plain numbers."""
        try:
            _, shape, kind, by_columns, raw = self.state
            if not isinstance(raw, bytes) or not re.fullmatch(r"[fiu][1248]|b1", kind.code):
                return None
            numbers = np.frombuffer(raw, np.dtype(kind.order + kind.code))
            array = numbers.reshape(shape, order="F" if by_columns else "C")
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        except (TypeError, ValueError, AttributeError):  # the file may say anything
            return None


_PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_OBJECTS = (
    *(f"builtins.{name}" for name in ("bool", "bytes", "float", "frozenset", "int", "range", "slice", "str", "tuple")),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"{module}.multiarray.scalar" for module in ("numpy.core", "numpy._core")),
    "argparse.Namespace", "types.SimpleNamespace", "decimal.Decimal", "uuid.UUID", "torch.torch_version.TorchVersion",
    "mmengine.logging.history_buffer.HistoryBuffer",
)  # fmt: skip
_DICTS = (
    "builtins.dict", "collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode",
    "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)  # fmt: skip
_ARRAYS = (
    "numpy.ndarray",
    *(f"{module}.multiarray._reconstruct" for module in ("numpy.core", "numpy._core")),
)
STAND_INS = {
    **dict.fromkeys(_OBJECTS, ForeignObject),
    **dict.fromkeys(_DICTS, ForeignDict),
    **dict.fromkeys(("builtins.list", "collections.deque"), ForeignList),
    **dict.fromkeys(_ARRAYS, Array),
    "numpy.dtype": ArrayType,
}
