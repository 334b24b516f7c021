"""Pretrained parameters: read safely, matched strictly, the head replaced only for another class count."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from asqcli.errors import InputError, first_line, printable, ran_out_of_memory
from asqcli.files import check_readable
from asqcli.models.renames import as_named_now, without_auxiliary_heads
from asqcli.models.state import adopt_versions, is_extra, load_state, versions_in, with_versions
from asqcli.user_code import reason_of

SHOWN_KEYS = 6


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        replaced_head: names of parameters that kept their random start because the class count differs.
        left_out: names of auxiliary heads, which the network was built without.
    """

    replaced_head: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file, on the CPU: safetensors, or `torch.save` read without running its code.

    A `state_dict` or `model` inside is unwrapped and `module.` prefixes are cut.

    Raises:
        InputError: missing, unreadable, not weights, or tensors without plain values.
    """
    if not path.is_file():
        raise InputError(f"no weights file `{path}`")
    check_readable(path)
    with path.open("rb") as file:
        start = file.read(256)
    _refuse_other_files(start, path)
    # A safetensors file begins with the length of its JSON header, 8 bytes, then the header.
    state = _read_safetensors(path) if start[8:9] == b"{" else _read_torch(path)
    for name, tensor in state.items():
        # In a file a name may be anything.
        if isinstance(name, str) and is_extra(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            continue
        if (wrong := _what_is_wrong(name, tensor)) is not None:
            raise InputError(f"`{printable(str(name))}` in `{path}` {wrong}", _FORMATS)
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        raise InputError(f"`{path}` holds names both with and without `module.` in front", _FORMATS)
    versions = {f"{name}.".removeprefix("module.")[:-1]: v for name, v in versions_in(state).items()}
    return with_versions(plain, versions)


_FORMATS = "weights are a safetensors file, or a `torch.save` file with a state dict"


def _refuse_other_files(start: bytes, path: Path) -> None:
    """Refuse by name what often lies where weights should be; `start` is how the file begins."""
    if not start:
        raise InputError(f"weights file `{path}` is empty", "fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"`{path}` is a pointer of Git LFS, not the weights themselves", "fetch them: `git lfs pull`")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"`{path}` is a web page, not weights: its download failed", "fetch it again")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # what a header claims can fail in safetensors, in torch or in the allocator
        raise InputError(f"weights file `{path}` is corrupt: {printable(first_line(error))}") from error


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on old formats is none for our user
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common type for what a corrupt or hostile file can cause
        # What torch goes on to say is how to run the code in the file; that is not passed on.
        if wanted := re.search(r"GLOBAL (\S+)|`?(\S+?)`? was not an allowed global", str(error)):
            raise InputError(
                f"weights file `{path}` was not opened: it wants to run `{wanted[1] or wanted[2]}`",
                "nothing in it was run; save only the `state_dict()`, best as safetensors",
            ) from error
        if ran_out_of_memory(error):
            raise InputError(f"`{path}` asks for more memory than there is", _FORMATS) from error
        raise InputError(f"`{path}` is not a weights file", _FORMATS) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"`{path}` holds no state dict", _FORMATS)
    return content


def _what_is_wrong(name: object, tensor: object) -> str | None:
    """Return why an entry is no parameter, None where it is one; other types of plain numbers are converted later."""
    if not isinstance(name, str):
        return f"is a name of type {type(name).__name__}; names of parameters are text"
    if not isinstance(tensor, Tensor):
        return f"is of type {type(tensor).__name__}, not a tensor"
    if tensor.is_meta:
        return "is a meta tensor, which has no values"
    if tensor.is_nested or tensor.layout != torch.strided:
        return f"is a {'nested' if tensor.is_nested else 'sparse'} tensor; save it with `to_dense()`"
    if tensor.is_quantized or tensor.dtype not in _DTYPES:
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}; save it as float32"
    return None


_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str, replace_head: bool) -> LoadReport:
    """Copy `state` into `model`.

    Args:
        state: names to tensors, with the versions of modules where its file has them. Extra state may be missing: a
            file of tensors alone has none.
        source: named in errors.
        replace_head: may a last layer for another number of classes keep its random start?
    Raises:
        InputError: as `fit_weights`; or a tensor is of another kind of numbers, or holds some that are none.
    """
    state, report = fit_weights(model, state, source=source, replace_head=replace_head)
    own = model.state_dict()
    for name in sorted(n for n in own.keys() & state.keys() if not is_extra(n)):
        tensor = state[name]
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise InputError(f"`{name}` in `{source}` is of type {tensor.dtype}, the network's of {own[name].dtype}")
        if not tensor.to(own[name].dtype).isfinite().all():
            raise InputError(f"`{name}` in `{source}` holds NaN or infinity", "its training diverged, or it is broken")
    with _loading_errors(source):
        load_state(model, state, strict=False)
    return report


def fit_weights(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, replace_head: bool
) -> tuple[Mapping[str, Tensor], LoadReport]:
    """Return (what of `state` goes into `model`, by its names; the report on it), from names and shapes alone.

    Args:
        state, source, replace_head: as of `load_weights`.
    Raises:
        InputError: names or shapes differ in any way but torchvision's own and the head's; the message tables them.
    """
    state, left_out = without_auxiliary_heads(model, as_named_now(model, state))
    with _loading_errors(source):
        adopt_versions(model, state)
    own = model.state_dict()
    # Old checkpoints lack the counters.
    optional = {name for name in own if name.endswith("num_batches_tracked") or is_extra(name)}
    missing = sorted(own.keys() - state.keys() - optional)
    unexpected = sorted(state.keys() - own.keys())
    common = [n for n in sorted(own.keys() & state.keys()) if not is_extra(n)]
    differing = [n for n in common if own[n].shape != state[n].shape]
    head = [
        n for n in differing if replace_head and own[n].shape[1:] == state[n].shape[1:] and _in_last_layer(model, n)
    ]
    wrong = [n for n in differing if n not in head]
    if missing or unexpected or wrong:
        shapes = [f"{n} {tuple(state[n].shape)}, the network has {tuple(own[n].shape)}" for n in wrong]
        raise InputError(
            f"the weights in `{source}` do not fit the network\n"
            + _table({"missing": missing, "unexpected": unexpected, "another shape": shapes}),
            "is this the right model for these weights?",
        )
    rest = {n: t for n, t in state.items() if n not in head}
    return with_versions(rest, versions_in(state)), LoadReport(tuple(head), left_out)


@contextlib.contextmanager
def _loading_errors(source: str) -> Generator[None]:
    """Turn what the network's own loading raises, about a version for example, into an InputError."""
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise InputError(f"the weights in `{source}` do not fit the network: {reason_of(error)}") from error


def _in_last_layer(model: nn.Module, parameter: str) -> bool:
    """Does `parameter` belong to the last convolution or linear layer, by order of definition?"""
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return parameter.rpartition(".")[0] == layers[-1]


def _table(columns: dict[str, list[str]]) -> str:
    lines = []
    for title, names in columns.items():
        if names:
            lines.append(f"  {title} ({len(names)}):")
            lines += [f"    {printable(name)}" for name in names[:SHOWN_KEYS]]
            if len(names) > SHOWN_KEYS:
                lines.append(f"    .. and {len(names) - SHOWN_KEYS} more")
    return "\n".join(lines)
