"""The Python API: quantize a module, train it with a loop of one's own, export it, run it.

quantize_module, parameter_groups, bounded_steps     here
project_steps                                        here
export_module                                        here
load                                                 in `asqcli.engine`, which needs no torch
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from asqcli import __version__
from asqcli.artifact import document as doc
from asqcli.artifact import write_artifact
from asqcli.errors import AsqWarning, UsageError
from asqcli.export.network import export_network
from asqcli.export.proof import Prover
from asqcli.files import write_atomically
from asqcli.nn.calibration import calibrate
from asqcli.nn.step_sizes import bounded_steps, project_steps
from asqcli.nn.survey import require_quantizable, survey
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.load import Draft, check, overlay_scheme
from asqcli.recipe.schema import IMAGENET_MEAN, IMAGENET_STD, Quantization
from asqcli.run.trial_export import findings
from asqcli.train.optimizer import parameter_groups

__all__ = ["bounded_steps", "export_module", "parameter_groups", "project_steps", "quantize_module"]


def quantize_module(
    model: nn.Module,
    batches: Sequence[Tensor],
    *,
    scheme: str = "post",
    bits: int = 4,
    weights: dict[str, Any] | None = None,
    activations: dict[str, Any] | None = None,
    first_last: int | str = 8,
    layers: dict[str, Any] | None = None,
    start: str = "mse",
) -> nn.Module:
    """Put fake quantizers into `model`, in place, with starting values from `batches`, and return it.

    Args:
        model: a float network of Conv2d and Linear layers, on the device of `batches`.
        batches: a few shuffled training inputs, (N, 3, H, W) each.
        scheme, bits: as on the command line.
        weights, activations, first_last, layers: as in a recipe; laid over scheme and bits.
        start: "mse" or "lsq", as a recipe's `calibration.start`.
    Raises:
        RecipeError: settings that do not exist, all told together.
        UsageError: no batches, another start, or a pattern of `layers` that matches no layer.
        UnsupportedError: the network has a layer that cannot be quantized.
    Warns:
        AsqWarning: what stays in float, cannot be exported, or takes much of the exported file.
    """
    if not batches:
        raise UsageError("`batches` is empty", "the starting values are read off a few training inputs")
    if start not in ("mse", "lsq"):
        raise UsageError(f"`start` is `{start}`, choose mse or lsq")
    draft = Draft({"first_last": first_last, "layers": layers or {}})
    overlay_scheme(draft, scheme, bits)
    draft.overlay({"weights": weights or {}, "activations": activations or {}}, "")
    quantization = check(draft, "the arguments", Quantization)
    example = batches[0][:1]
    seen = survey(model, example)
    require_quantizable(model, seen)
    specs = resolve_layers(quantization, seen.layers, source="the arguments")
    classes = tuple(map(str, range(seen.output.shape[-1]))) if isinstance(seen.output, Tensor) else ()
    for text in findings(model, specs, example, classes):
        warnings.warn(text, AsqWarning, stacklevel=2)
    calibrate(model, specs, batches, start=start)
    return model


def export_module(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: int,
    classes: Sequence[str],
    resize: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> None:
    """Write a quantized module as integers, an `.asq` file for `asqcli.engine.load` and `asq infer`.

    A log_softmax that the module ends in is left out: the file answers with the logits before it.

    Args:
        model: from `quantize_module`.
        image_size: height and width of its input, pixels.
        classes: names, in the order of its logits.
        resize: length of an image's shorter side before the centre crop, pixels; `image_size` without it.
        mean, std: that its input was normalised with, of pixels scaled to 0 .. 1.
    Raises:
        UnsupportedError: an operation that the engine does not have; names it and its place in the source. Or the file
            does not answer as the network does.
        MachineError: the file cannot be written.
    """
    colours = {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}
    preprocessing = doc.Input.model_validate({"image_size": image_size, "resize": resize or image_size, **colours})
    provenance = doc.Provenance(asqcli=__version__, model=type(model).__name__)
    artifact = export_network(model, classes=tuple(classes), preprocessing=preprocessing, provenance=provenance)
    write_atomically(Path(path), write_artifact(artifact), check=Prover(model, preprocessing).prove_artifact)
