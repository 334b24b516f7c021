"""Pretrained parameters: matched strictly, the head replaced only for another class count; torchvision's own."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asqcli.errors import InputError, MachineError, UsageError, first_line, printable, ran_out_of_memory
from asqcli.models.names import is_factory
from asqcli.models.registry import official_weights
from asqcli.models.state import adopt_versions, is_extra, load_state, may_be_missing, versions_in, with_versions
from asqcli.user_code import reason_of

Head = Callable[[], str | None]

DOWNLOAD_TIMEOUT_S = 5
SHOWN_KEYS = 6


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        replaced_head: names of parameters that kept their random start because the class count differs.
    """

    replaced_head: tuple[str, ...]


def load_weights(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, head: Head | None = None, about: str = ""
) -> LoadReport:
    """Copy `state` into `model`.

    Args:
        state: names to tensors, with the versions of modules where its file has them. Extra state may be missing: a
            file of tensors alone has none.
        source: named in errors.
        head: finds the layer that may keep its random start where the state is for another number of classes.
        about: what else is known of the state, for errors.
    Raises:
        InputError: names or shapes differ in any other way; the message tables them.
    """
    with _loading_errors(source):
        adopt_versions(model, state)
    own = model.state_dict()
    missing = sorted(name for name in own.keys() - state.keys() if not may_be_missing(name))
    unexpected = sorted(state.keys() - own.keys())
    common = [n for n in sorted(own.keys() & state.keys()) if not is_extra(n)]
    differing = [n for n in common if own[n].shape != state[n].shape]
    layer = head() if head is not None and differing else None
    replaced = [n for n in differing if own[n].shape[1:] == state[n].shape[1:] and n.rpartition(".")[0] == layer]
    wrong = [n for n in differing if n not in replaced]
    if missing or unexpected or wrong:
        shapes = [f"{n} {tuple(state[n].shape)}, the network has {tuple(own[n].shape)}" for n in wrong]
        raise InputError(
            f"the weights in `{source}` do not fit the network\n"
            + _table({"missing": missing, "unexpected": unexpected, "another shape": shapes})
            + (f"\n  {about}" if about else ""),
            "is this the right model for these weights?",
        )
    for name in sorted(set(common) - set(replaced)):
        tensor = state[name]
        if tensor.is_floating_point() != own[name].is_floating_point() and not _counts(name, tensor):
            raise InputError(f"`{name}` in `{source}` is of type {tensor.dtype}, the network's of {own[name].dtype}")
        if not (tensor.isfinite() & tensor.to(own[name].dtype).isfinite()).all():
            raise InputError(f"`{name}` in `{source}` holds NaN or infinity", "its training diverged, or it is broken")
    rest = {n: t for n, t in state.items() if n not in replaced}
    with _loading_errors(source):
        load_state(model, with_versions(rest, versions_in(state)), strict=False)
    return LoadReport(tuple(replaced))


@contextlib.contextmanager
def _loading_errors(source: str) -> Iterator[None]:
    """Turn what the network's own loading raises, about a version for example, into an InputError."""
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise InputError(f"the weights in `{source}` do not fit the network: {reason_of(error)}") from error


def _counts(name: str, tensor: Tensor) -> bool:
    """Does a tensor of real numbers count? Some programs cast counters, or average them, with all that is there."""
    if not tensor.is_floating_point():
        return False
    return name.endswith("num_batches_tracked") or torch.equal(tensor, tensor.round())


def _table(columns: dict[str, list[str]]) -> str:
    lines = []
    for title, names in columns.items():
        if names:
            lines.append(f"  {title} ({len(names)}):")
            lines += [f"    {printable(name)}" for name in names[:SHOWN_KEYS]]
            if len(names) > SHOWN_KEYS:
                lines.append(f"    .. and {len(names) - SHOWN_KEYS} more")
    return "\n".join(lines)


def require_official(name: str) -> None:
    """Find out whether there are official weights for a known model.

    Raises:
        UsageError: there are none.
    """
    if official_weights(name) is None:
        own = ", or say `--weights factory` if the factory loads its own" if is_factory(name) else ""
        raise UsageError(f"`{name}` has no official weights", f"name a file or a run with --weights{own}")


def fetch_official(name: str) -> tuple[dict[str, Tensor], str]:
    """Return (state dict, its name) of torchvision's ImageNet weights, from its cache or the network.

    Raises:
        MachineError: there are none, downloads are forbidden (`ASQ_OFFLINE=1`), or the download failed.
    """
    weights = official_weights(name)
    if weights is None:
        raise MachineError(f"there are no official weights for `{name}`")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not cached.is_file() and os.environ.get("ASQ_OFFLINE") == "1":
        raise MachineError(f"the official weights of `{name}` are not in the cache and ASQ_OFFLINE forbids downloads")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        return weights.get_state_dict(check_hash=True, progress=False), f"torchvision {weights}"
    except Exception as error:  # urllib, ssl, socket and hash errors have no common type
        raise MachineError(f"the official weights of `{name}` cannot be had: {first_line(error)}") from error
    finally:
        socket.setdefaulttimeout(before)
