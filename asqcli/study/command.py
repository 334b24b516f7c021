"""A cell to the command line that trains it: `asq quantize` and its options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from asqcli.recipe.resolve import Request

# Keys that have an option of their own; what the command line says of the others is `--set KEY=VALUE`.
FLAGS = {
    "data.name": "--data",
    "pretrained": "--weights",
    "train.epochs": "--epochs",
    "train.batch_size": "--batch-size",
    "train.lr": "--lr",
    "train.seed": "--seed",
    "train.max_steps": "--max-steps",
}


def request_of(model: str | None, recipe: str | None, keys: dict[str, Any], overrides: list[str]) -> Request:
    """Return what a command line asks for that lays these keys over a recipe.

    Args:
        keys: dotted key to value; also `scheme` and `bits`.
        overrides: KEY=VALUE, laid over the keys.

    >>> request_of("resnet20", None, {"bits": 3, "train.lr": 0.02, "weights.per": "tensor"}, []).overrides
    ['weights.per=tensor']
    """
    keys = dict(keys)
    scheme, bits = keys.pop("scheme", None), keys.pop("bits", None)
    flags = {key: (keys.pop(key), flag) for key, flag in FLAGS.items() if _is_plain(keys.get(key))}
    return Request(model, recipe, scheme, bits, flags, [*(f"{k}={_as_yaml(v)}" for k, v in keys.items()), *overrides])


def start_arguments(request: Request, *, out: str | None, threads: int | None) -> list[str]:
    """Return the arguments of `asq` that start a run."""
    return ["quantize", *_arguments(request), *threads_option(threads), *([] if out is None else ["--out", out])]


def _arguments(request: Request) -> Iterator[str]:
    if request.model is not None:
        yield request.model
    options = {"--recipe": request.recipe, "--scheme": request.scheme, "--bits": request.bits}
    options |= {flag: value for value, flag in request.flags.values()}
    for flag, value in options.items():
        if value is not None:
            yield from (flag, str(value))
    for override in request.overrides:
        yield from ("--set", override)


def threads_option(count: int | None) -> list[str]:
    """Return the option for so many threads, none where that is not said."""
    return [] if count is None else ["--threads", str(count)]


def _is_plain(value: object) -> bool:
    """Can an option take a value?"""
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value != ""


def _as_yaml(value: object) -> str:
    """Return a value as `--set` takes it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
