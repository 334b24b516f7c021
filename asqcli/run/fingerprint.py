"""A network's own answers to a few fixed images, kept with it: whoever opens it again can tell that it is the same one.

A state dict does not hold a network: its code does, and what its constructor read, drew or computed. Where that has
changed, everything loads without a word and answers otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from asqcli.errors import InputError, UnsupportedError
from asqcli.models.names import is_factory
from asqcli.nn.forward import forward_in_evaluation
from asqcli.nn.modes import evaluating
from asqcli.nn.record import tensors_in
from asqcli.probes import probe_inputs
from asqcli.recipe.schema import Data

# How far answers may be apart, as a share of their range. Evaluation of quantized layers is exact on every processor;
# float products depend on the order of their sums, and behind them a code may flip.
TOLERANCES = {"exact": 0.0, "float": 1e-4, "mixed": 2e-2}

PREFIX = "fingerprint/"  # start of its name among the tensors of a file

# Functions that are exact, by the last part of their names. Those that evaluation has in fixed arithmetic are not seen.
_EXACT = frozenset(
    "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ mul mul_ __mul__ __rmul__ __imul__ div "
    "div_ __truediv__ __itruediv__ neg __neg__ relu relu_ relu6 hardtanh hardtanh_ clamp clamp_ clip leaky_relu "
    "leaky_relu_ prelu threshold max_pool2d _max_pool2d boolean_dispatch flatten reshape view squeeze unsqueeze "
    "unflatten transpose permute contiguous cat concat stack chunk split __getitem__ pad dropout dropout_ dropout2d "
    "feature_dropout alpha_dropout clone detach float to __get__ __set__ flip roll quantized_layer abs maximum "
    "minimum amax max min expand expand_as unbind narrow select index_select repeat tile repeat_interleave "
    "split_with_sizes tensor_split pixel_shuffle pixel_unshuffle channel_shuffle clamp_min clamp_max square "
    "rsub".split()
)


@dataclass(frozen=True)
class Fingerprint:
    """Logits of the fixed images.

    Attributes:
        logits: (images, classes) float32, on the CPU.
        kind: a key of TOLERANCES.
    """

    logits: Tensor
    kind: str


def take_fingerprint(model: nn.Module, data: Data) -> Fingerprint | None:
    """Return the network's answers on the CPU, or None where they are not finite.

    Args:
        model: on any device; there again afterwards.
        data: a recipe's, for the size and the normalisation of its input.
    """
    images = torch.from_numpy(probe_inputs(data.image_size, data.mean, data.std))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    functions = _Functions()
    try:
        with torch.no_grad(), evaluating(model.to("cpu")), functions:
            logits = forward_in_evaluation(model, images)
    finally:
        model.to(device)
    if not logits.isfinite().all():
        return None
    return Fingerprint(logits.float().clone(), _kind(model, functions.inexact))


def require_same_network(model: nn.Module, expected: Fingerprint | None, data: Data, *, name: str, source: str) -> None:
    """Compare a network that was opened with what it answered when it was saved.

    Args:
        model: as it was opened.
        expected: from its file; None where that has none, and then there is nothing to compare.
        data: the recipe's.
        name: of the model, which tells whether its code is the user's own.
        source: the run or file, for errors.
    Raises:
        UnsupportedError: it is another network, and a factory of the user's built it.
        InputError: it is another network.
    """
    if expected is None:
        return
    seen = take_fingerprint(model, data)
    if seen is not None and seen.logits.shape == expected.logits.shape:
        difference = (seen.logits - expected.logits).abs().max().item()
        spread = (expected.logits.max() - expected.logits.min()).item()
        if difference <= TOLERANCES[expected.kind] * spread:
            return
        found = f"for fixed images their logits differ by up to {difference:.3g}, in a range of {spread:.3g}"
    else:
        found = "it has no finite logits" if seen is None else f"its logits have the shape {tuple(seen.logits.shape)}"
    if is_factory(name):
        raise UnsupportedError(
            f"`{name}` now builds another network than the one that was trained into `{source}`: {found}",
            "its code may have changed, draw at random, or read something that changed; asq seeds PyTorch, NumPy and "
            "Python's generators alike before each build",
        )
    raise InputError(
        f"the network `{name}` is not the one that was trained into `{source}`: {found}",
        "other versions of PyTorch, torchvision, timm may build it otherwise; environment.json tells which the run had",
    )


def fingerprint_tensors(fingerprint: Fingerprint | None) -> dict[str, Tensor]:
    """Return a fingerprint as tensors to store beside others."""
    return {} if fingerprint is None else {PREFIX + fingerprint.kind: fingerprint.logits}


def fingerprint_among(tensors: dict[str, Tensor], path: Path) -> Fingerprint | None:
    """Return what `fingerprint_tensors` put among the tensors of a file, or None.

    Raises:
        InputError: it is broken.
    """
    kinds = with_prefix(tensors, PREFIX)
    if not kinds:
        return None
    (kind, logits), *others = kinds.items()
    if others or kind not in TOLERANCES or logits.dtype != torch.float32 or logits.dim() != 2:
        raise InputError(f"`{path}` is corrupt: its fingerprint is none")
    return Fingerprint(logits, kind)


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _kind(model: nn.Module, inexact: bool) -> str:
    layers = [
        m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "_quantizer." not in n + "."
    ]
    quantized = [bool(_quantizer(m, "weight") and _quantizer(m, "activation")) for m in layers]
    if not any(_quantizer(m, "weight") or _quantizer(m, "activation") for m in layers):
        return "float"
    return "mixed" if inexact or not all(quantized) else "exact"


def _quantizer(layer: nn.Module, operand: str) -> nn.Module | None:
    return getattr(layer, f"{operand}_quantizer", None)


class _Functions(TorchFunctionMode):
    """Notes whether a function runs that processors may round differently."""

    inexact = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = (resolve_name(func) or getattr(func, "__name__", "")).rpartition(".")[2]
        self.inexact = self.inexact or (name not in _EXACT and next(tensors_in(result), None) is not None)
        return result
