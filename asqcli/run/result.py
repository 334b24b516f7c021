"""The document of a finished run: `result.json`, and what `asq quantize --json` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from asqcli.accuracy import Accuracy
from asqcli.recipe.schema import Recipe, scheme_of
from asqcli.train.adapter_range import Ranges, span
from asqcli.train.progress import Progress

SCHEMA = 1


def result_document(
    recipe: Recipe, progress: Progress, accuracy: Accuracy, *, run: str, measured_on: str, betas: Ranges, seconds: float
) -> dict[str, Any]:
    """Return what a run came to.

    Args:
        accuracy: of its last weights, never of the best epoch.
        measured_on: the images, in words.
        betas: of its adapters over these images.
        seconds: that the command took.
    """
    facts = progress.facts
    return {
        "schema": SCHEMA,
        "run": run,
        "model": recipe.model,
        "scheme": scheme_of(recipe.weights.quantizer, recipe.activations.quantizer),
        "weight_bits": getattr(recipe.weights, "bits", "float"),
        "activation_bits": getattr(recipe.activations, "bits", "float"),
        "layer_rules": len(recipe.layers),
        "weights": facts["weights"],
        "warmup_epochs": facts.get("warmup_epochs", 0),
        "finetune_epochs": facts.get("finetune_epochs", 0),
        "data": recipe.data.name,
        "measures": recipe.data.measure.title,
        "measured_on": measured_on,
        "float_top1": facts.get("float_top1", accuracy.top1),
        "float_trained": facts.get("float_trained", True),
        "calibrated_top1": facts.get("calibrated_top1"),
        **{key: facts[key] for key in ("float_of_quantized", "teacher", "teacher_top1") if key in facts},
        **asdict(accuracy),
        **({"beta": list(span(betas))} if betas else {}),
        "warnings": facts.get("warnings", []),
        "epochs": progress.epoch,
        "precision": recipe.train.precision,
        "seed": recipe.train.seed,
        "seconds": round(seconds, 1),
    }
