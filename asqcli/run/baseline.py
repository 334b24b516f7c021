"""Float training before quantization: of a network without weights, or of one whose head alone is new."""

from __future__ import annotations

from asqcli.recipe.schema import Recipe
from asqcli.run.start import Start


def baseline_phase(start: Start, recipe: Recipe) -> str:
    """Return the phase in which a start is trained in float, where it needs that."""
    new_head_alone = start.pretrained and start.new_head is not None
    return "finetune" if new_head_alone and recipe.train.finetune is not None else "warmup"


def baseline_in_words(recipe: Recipe, phase: str) -> str:
    """Return what a phase of float training before quantization is going to do."""
    if phase == "warmup":
        return f"training a float baseline first, epochs: {recipe.train.warmup.epochs}"
    tuned = recipe.train.finetune
    assert tuned is not None
    head = f", the new head {tuned.head_rate:g} times as fast" if tuned.head_rate != 1 else ""
    return f"fine-tuning the float network first, epochs: {tuned.epochs}, rate {tuned.lr:g}{head}"
