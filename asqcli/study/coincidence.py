"""Rows that are the same by construction: with few bits several sets of levels are one set.

A table that compares them compares a thing with itself, however its figures look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations

from asqcli.quant.spec import ApotWeights, LevelWeights
from asqcli.recipe.schema import Recipe
from asqcli.study.cells import Row


def coincidences(rows: Sequence[Row]) -> Iterator[str]:
    """Yield in words which rows cannot differ, or not by their weights."""
    for row, other in combinations(rows, 2):
        names = f"`{row.name}` and `{other.name}`" + ("" if row.bits == "float" else f" at {row.bits} bits")
        if row.recipe == other.recipe:
            yield f"{names} are the same recipe"
        elif same_weights(row.recipe, other.recipe):
            if _but_for_weights(row.recipe) == _but_for_weights(other.recipe):
                yield f"{names} are the same quantizers: their weights have the same levels"
            elif row.bits == other.bits and row.point == other.point:
                yield f"the weights of {names} have the same levels"


def same_weights(a: Recipe, b: Recipe) -> bool:
    """Are the weights of two recipes quantized alike, by quantizers of two names?

    >>> from asqcli.quant.spec import ApotWeights, PotWeights
    >>> [_levels(PotWeights(bits=bits)) == _levels(ApotWeights(bits=bits)) for bits in (2, 3, 4)]
    [True, True, False]
    """
    if a.weights.quantizer == b.weights.quantizer or a.layers or b.layers:  # rules may give other bits
        return False
    specs = [w for w in (a.weights, b.weights) if isinstance(w, LevelWeights)]
    normalized = any(isinstance(w, ApotWeights) and w.normalize for w in specs)
    return len(specs) == 2 and not normalized and _levels(specs[0]) == _levels(specs[1])


def _levels(spec: LevelWeights) -> tuple[object, ...]:
    """Return what makes the weights of a layer: the levels in units of the largest, and what shares a scale."""
    largest = Fraction(spec.level_set.largest)
    return spec.per, spec.code_bits, tuple(Fraction(m) / largest for m in spec.level_set.magnitudes)


def _but_for_weights(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"weights": None})
