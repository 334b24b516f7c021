"""What a quantizer is, in settings: a recipe says it, a module is built from it, a checkpoint keeps it. No torch.

A description is read without the code around it: `asq recipe keys` and KEYS.md table them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from asqcli.quant.levels import DEFAULT_GRID
from asqcli.strict import Strict

MOST_HIDDEN = 2**14

Scale = Annotated[Literal["channel", "tensor"], Field(description="one scale per output `channel` or per `tensor`")]
Levels = Annotated[
    Literal["codes", "printed"],
    Field(
        description="`codes`: what b bits can name; `printed`: the 2^b + 1 levels of Eqs. 3 and 17, in b + 1 bits "
        "(4-bit `post`: not on the grid 17/12; 4-bit `pot`: not for integers, its levels go up to 128)"
    ),
]
EightBits = Annotated[int, Field(ge=2, le=8, description="bits per value, sign included")]
FourBits = Annotated[int, Field(ge=2, le=4, description="bits per value, sign included")]


class UniformWeights(Strict):
    """Whole numbers of a learned step size (LSQ)."""

    quantizer: Literal["lsq"] = "lsq"
    bits: EightBits
    per: Scale = "channel"


class LevelWeights(Strict):
    bits: FourBits
    per: Scale = "channel"


class PostWeights(LevelWeights):
    """Powers of the square root of two: the paper's Eq. 17, on a grid of integers."""

    quantizer: Literal["post"] = "post"
    grid: Literal["7/5", "17/12", "exact"] = Field(
        DEFAULT_GRID,
        description="the fraction that stands for √2: `7/5` (1% off, small integers, faster), `17/12` (0.2% off), "
        "`exact` (not for integers)",
    )
    levels: Levels = "codes"

    @model_validator(mode="after")
    def _fits_int8(self):
        if (self.bits, self.grid, self.levels) == (4, "17/12", "printed"):
            raise ValueError("the printed 4-bit levels do not fit in int8 on the grid 17/12: choose 7/5 or exact")
        return self


class PotWeights(LevelWeights):
    """Powers of two: Eq. 3."""

    quantizer: Literal["pot"] = "pot"
    levels: Levels = "codes"


class ApotWeights(LevelWeights):
    """Additive powers of two (Li et al. 2020)."""

    quantizer: Literal["apot"] = "apot"
    normalize: bool = Field(False, description="its weight normalisation")


class AdapterSpec(Strict):
    """The module that adapts the step size to each input: Eq. 4."""

    hidden: int | str = Field(
        "quarter",
        description="hidden units: a quarter of the channels, or a number",
        json_schema_extra={
            "anyOf": [{"const": "quarter"}, {"type": "integer", "minimum": 1, "maximum": MOST_HIDDEN}],
        },
    )
    bits: Literal[8, "float"] = Field(8, description="bits of the adapter's weights")
    output: Literal["reciprocal", "relu"] = Field(
        "reciprocal",
        description="`reciprocal`: beta = 1 + t, for t below zero 1 / (1 - t); `relu`: the paper's form, which can die",
    )

    @field_validator("hidden")
    @classmethod
    def _quarter_or_units(cls, value):
        if value != "quarter" and not (isinstance(value, int) and 1 <= value <= MOST_HIDDEN):
            raise ValueError(f"choose quarter or a number of units from 1 to {MOST_HIDDEN}")
        return value


class LsqActivations(Strict):
    """One learned step size for all inputs."""

    quantizer: Literal["lsq"] = "lsq"
    bits: EightBits


class AsqActivations(Strict):
    """A learned step size times a factor that an adapter computes from each input."""

    quantizer: Literal["asq"] = "asq"
    bits: EightBits
    adapter: AdapterSpec = AdapterSpec()
    dequantize_by: Literal["adapted_step_size", "step_size"] = Field(
        "adapted_step_size",
        description="the step size that turns codes into values; `step_size`: Eq. 6 as printed",
    )


class PactActivations(Strict):
    """One learned clipping threshold (Choi et al. 2018)."""

    quantizer: Literal["pact"] = "pact"
    bits: EightBits


class OffsetActivations(Strict):
    """A learned step size and a learned offset, a whole number of steps (Bhalgat et al. 2020)."""

    quantizer: Literal["lsq+"] = "lsq+"
    bits: EightBits


AnyWeightSpec = UniformWeights | PostWeights | PotWeights | ApotWeights
AnyActivationSpec = LsqActivations | AsqActivations | PactActivations | OffsetActivations
