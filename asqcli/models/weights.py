"""Pretrained parameters: matched strictly, the head replaced only for another class count."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asqcli.errors import InputError, printable, ran_out_of_memory
from asqcli.models.renames import as_named_now, without_auxiliary_heads
from asqcli.models.state import adopt_versions, is_extra, load_state, may_be_missing, versions_in, with_versions
from asqcli.user_code import reason_of

Head = Callable[[], str | None]

SHOWN_KEYS = 6


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        replaced_head: names of parameters that kept their random start because the class count differs.
        left_out: names of auxiliary heads, which the network was built without.
        head_classes: that the state is for, where it differs.
    """

    replaced_head: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    head_classes: int | None = None


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
        InputError: as `fit_weights`; or a tensor is of another kind of numbers, or holds some that are none.
    """
    state, report = fit_weights(model, state, source=source, head=head, about=about)
    own = model.state_dict()
    for name in sorted(n for n in own.keys() & state.keys() if not is_extra(n)):
        tensor = state[name]
        if tensor.is_floating_point() != own[name].is_floating_point() and not _counts(name, tensor):
            raise InputError(f"`{name}` in `{source}` is of type {tensor.dtype}, the network's of {own[name].dtype}")
        if not (tensor.isfinite() & tensor.to(own[name].dtype).isfinite()).all():
            raise InputError(f"`{name}` in `{source}` holds NaN or infinity", "its training diverged, or it is broken")
    with _loading_errors(source):
        load_state(model, state, strict=False)
    return report


def fit_weights(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, head: Head | None = None, about: str = ""
) -> tuple[Mapping[str, Tensor], LoadReport]:
    """Return (what of `state` goes into `model`, by its names; the report on it), from names and shapes alone.

    Args:
        state, source, head, about: as of `load_weights`.
    Raises:
        InputError: names or shapes differ in any way but torchvision's own and the head's; the message tables them.
    """
    state, left_out = without_auxiliary_heads(model, as_named_now(model.state_dict(), state))
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
    rest = {n: t for n, t in state.items() if n not in replaced}
    head_classes = state[replaced[0]].shape[0] if replaced else None
    return with_versions(rest, versions_in(state)), LoadReport(tuple(replaced), left_out, head_classes)


@contextlib.contextmanager
def _loading_errors(source: str) -> Generator[None]:
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
