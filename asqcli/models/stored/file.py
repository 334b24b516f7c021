"""A weights file, opened whole without running its code; what often lies in its place is refused by name."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from asqcli.errors import InputError, first_line, printable, ran_out_of_memory
from asqcli.files import check_readable
from asqcli.models.stored.stand_ins import STAND_INS

FORMATS = "weights are a safetensors file, or a `torch.save` file with a state dict"
_AGAIN = "fetch it again"
_UNPACK = "unpack it and name the weights inside"
LOOKED_AT = 512  # bytes from the beginning of a file, by which its kind is known
SHOWN_CHARACTERS = 40

_MAGIC_NUMBER = bytes.fromhex("6cfc9c46f9206aa85019")  # near the beginning of what `torch.save` wrote before 1.6

# How other kinds of files begin, what they are, and what to do.
_OTHER_FILES = (
    (b"\x1f\x8b", "is compressed (gzip)", _UNPACK),
    (b"\xfd7zXZ", "is compressed (xz)", _UNPACK),
    (b"BZh", "is compressed (bzip2)", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd)", _UNPACK),
    (b"7z\xbc\xaf", "is a 7z archive", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them", FORMATS),
    (b"\x93NUMPY", "is a single array of NumPy's", FORMATS),
    (b"GGUF", "is a GGUF file", FORMATS),
)


def read_file(path: Path) -> dict[Any, Any]:
    """Return what is in a file, tensors on the CPU: safetensors, or `torch.save` read without running its code.

    Raises:
        InputError: missing, unreadable, or no weights; says what it is instead.
    """
    if not path.is_file():
        raise InputError(f"no weights file `{path}`")
    check_readable(path)
    with path.open("rb") as file:
        start = file.read(LOOKED_AT)
    _refuse_other_files(start, path)
    # A safetensors file begins with the length of its JSON header, 8 bytes, then the header.
    return _read_safetensors(path) if start[8:9] == b"{" else _read_torch(path)


def _refuse_other_files(start: bytes, path: Path) -> None:
    """Refuse by name what often lies where weights should be; `start` is how the file begins."""
    if not start:
        raise InputError(f"weights file `{path}` is empty", _AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(f"`{path}` is a pointer of Git LFS, not the weights themselves", "fetch them: `git lfs pull`")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(f"`{path}` is a web page, not weights: its download failed", _AGAIN)
    if (text := _as_text(start)) is not None:
        raise InputError(f"`{path}` is a text, not weights; it begins with `{text}`", FORMATS)
    for beginning, what, hint in _OTHER_FILES:
        if start.startswith(beginning):
            raise InputError(f"`{path}` {what}, not weights", hint)
    if start[257:262] == b"ustar":
        raise InputError(f"`{path}` is a tar archive, not weights", _UNPACK)
    if start[:1] == b"\x08" and start[2:3] == b"\x12":  # a graph's version, then who made it
        raise InputError(f"`{path}` is an ONNX graph, not weights", "name the weights that it was made from")
    if start.startswith(b"\x80") and _MAGIC_NUMBER not in start:
        raise InputError(f"`{path}` is not a weights file but a plain pickle, which could run any code", FORMATS)
    if start.startswith(b"PK"):
        _refuse_other_archives(path)


def _as_text(start: bytes) -> str | None:
    """Return how a text begins, None where it is none."""
    text = start.decode("utf-8", errors="replace").rstrip("\ufffd")  # the last character may be cut
    if not text or "\ufffd" in text or not all(c.isprintable() or c in "\t\r\n" for c in text):
        return None
    return " ".join(text.split())[:SHOWN_CHARACTERS]


def _refuse_other_archives(path: Path) -> None:
    """Refuse a ZIP archive that `torch.save` did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except NotImplementedError as error:
        raise InputError(f"`{path}` is a ZIP archive of a kind that Python cannot read", _UNPACK) from error
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"weights file `{path}` is cut short: it is a ZIP archive without its end", _AGAIN) from error
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise InputError(
            f"`{path}` is a TorchScript archive, which is a program, not weights",
            "in Python: `torch.save(torch.jit.load(FILE, map_location='cpu').state_dict(), 'weights.pth')`",
        )
    if "data.pkl" not in inside:
        some = ", ".join(names[:3]) + (", .." if len(names) > 3 else "")
        raise InputError(f"`{path}` is a ZIP archive, but not of weights: it holds {printable(some)}", _UNPACK)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # a header's claims can fail in safetensors, in torch or in the allocator
        raise InputError(f"weights file `{path}` is corrupt: {printable(first_line(error))}") from error


def _read_torch(path: Path) -> dict[Any, Any]:
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (stand_in, name) for name, stand_in in STAND_INS.items()
    ]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            warnings.simplefilter("ignore")  # torch's advice on old formats is none for our user
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common type for what a corrupt or hostile file can cause
        raise _refusal(error, path) from error
    if not isinstance(content, dict):
        raise InputError(f"`{path}` holds no state dict but a {type(content).__name__}", FORMATS)
    return content


def _refusal(error: Exception, path: Path) -> InputError:
    """Return what to say of a file that torch did not load.

    What torch goes on to say is how to run the code in the file; that is not passed on.
    """
    text = str(error)
    if wanted := re.search(r"GLOBAL (\S+)|`?(\S+?)`? was not an allowed global", text):
        return InputError(
            f"weights file `{path}` was not opened: it wants to run `{printable(wanted[1] or wanted[2])}`",
            "nothing in it was run; where you trust it, open it in Python and save only its `state_dict()`, best as "
            "safetensors",
        )
    if ran_out_of_memory(error):
        return InputError(f"`{path}` asks for more memory than there is", FORMATS)
    if "Unsupported operand" in text:
        return InputError(
            f"weights file `{path}` was not opened: it is pickled in another protocol than torch's own",
            "save it with `torch.save` as it is, without `pickle_protocol`",
        )
    return InputError(f"`{path}` is not a weights file", FORMATS)
