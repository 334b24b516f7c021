"""What a run tells of the precision that it multiplies in."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from asqcli.errors import some_of
from asqcli.nn.precision import FLOAT32, multiplies_bfloat16
from asqcli.quant.spec import LayerSpec, LevelWeights
from asqcli.recipe.schema import Recipe


def precision_in_words(recipe: Recipe, specs: list[LayerSpec], device: torch.device) -> Iterator[str]:
    """Yield what is worth telling before training: nothing of float32."""
    precision = recipe.train.precision
    if precision == FLOAT32:
        return
    yield f"convolutions and linear layers multiply in {precision} while they train"
    if not multiplies_bfloat16(device):
        yield (
            f"warning: no {precision} instructions were found here: float32 numbers are rounded to {precision} and "
            "multiplied, to the same effect, but slower than plain float32"
        )
    broken = [s.name for s in specs if isinstance(s.weights, LevelWeights) and not s.weights.level_set.integer]
    if broken:
        yield f"in float32 all the same, for their levels are no whole numbers: {some_of(broken)}"
