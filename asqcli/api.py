"""The Python API: quantize a module and train it with a loop of one's own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from asqcli.nn.prepare import project_steps
from asqcli.nn.survey import survey
from asqcli.recipe.load import Draft, check, lay_scheme
from asqcli.recipe.schema import Quantization
from asqcli.train.calibration import calibrate, plan_layers
from asqcli.train.optimizer import parameter_groups

__all__ = ["parameter_groups", "project_steps", "quantize_module"]


def quantize_module(
    model: nn.Module,
    batches: Sequence[Tensor],
    *,
    scheme: str = "post",
    bits: int = 4,
    weights: dict | None = None,
    activations: dict | None = None,
    first_last: int | str = 8,
    layers: dict | None = None,
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
        UsageError: a pattern of `layers` that matches no layer.
        UnsupportedError: the network has a layer that cannot be quantized.
    """
    draft = Draft({"first_last": first_last, "layers": layers or {}})
    lay_scheme(draft, scheme, bits)
    draft.lay({"weights": weights or {}, "activations": activations or {}}, "")
    quantization = check(draft, "the arguments", Quantization)
    plans = plan_layers(quantization, model, survey(model, batches[0][:1]), source="the arguments")
    calibrate(model, plans, batches, start=start)
    return model
