"""Who called a function: the module that did, and the place in its author's source, read off the frames."""

from __future__ import annotations

import dis
import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

# Functions that layers which can have twins call, and these layers.
LAYER_FUNCTIONS = (F.conv2d, F.linear, F.batch_norm)
_LAYERS = (nn.Conv2d, nn.Linear, _BatchNorm)

_TORCH = str(Path(torch.__file__).parent)
_TORCH_MODULES = str(Path(nn.__file__).parent / "modules")
_NN = str(Path(__file__).parent)
_NO_AUTHORS = (_TORCH + "/", _TORCH + "\\", _NN, str(Path(__file__).parents[1] / "quant"))


def run(model: nn.Module, example: Tensor) -> Any:
    """Return `model(example)`: the frame at which the way back to an author's source ends."""
    return model(example)


def caller_of(frame: FrameType, function: Callable[..., Any] | None = None) -> tuple[nn.Module | None, str, bool]:
    """Return the module that called a function, the place in its author's source, and if it was by an operator.

    Args:
        frame: that called it.
        function: which. Layers of an author's own class are looked for where it is one of `LAYER_FUNCTIONS`.
    """
    while frame.f_code.co_name == "__torch_function__" and frame.f_code.co_filename.startswith(_NN) and frame.f_back:
        frame = frame.f_back  # a mode between a function and its caller
    operator, module, place = _opcode(frame).startswith(("BINARY", "INPLACE")), None, None
    at: FrameType | None = frame
    while at is not None and at.f_code is not run.__code__:
        file = at.f_code.co_filename
        if module is None and (kinds := _modules_in(file, function, place)):
            owner = at.f_locals.get("self")
            module = owner if isinstance(owner, kinds) else None
        if place is None and not file.startswith(_NO_AUTHORS):
            code = linecache.getline(file, at.f_lineno).strip()
            place = f", at {Path(file).name}:{at.f_lineno}: `{code}`"
        if place is not None and (module is not None or function not in LAYER_FUNCTIONS):
            break
        at = at.f_back
    return module, place or "", operator


def calling_place() -> str:
    """Return the place in its author's source that whoever asks was called from."""
    return caller_of(sys._getframe(1))[1]


def place_of_raise(error: BaseException) -> str:
    """Return the place in its author's source where an exception was raised."""
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__)]
    return caller_of(frames[-1])[1]


def _modules_in(file: str, function: Callable[..., Any] | None, place: str | None) -> tuple[type, ...]:
    """Return which modules are looked for in a frame: torch's own below its author's source, layers everywhere."""
    if place is None and file.startswith(_TORCH_MODULES):
        return (nn.Module,)
    return _LAYERS if function in LAYER_FUNCTIONS else ()


def _opcode(frame: FrameType) -> str:
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] if frame.f_lasti >= 0 else ""
