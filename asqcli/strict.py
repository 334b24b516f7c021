"""The base of all models whose content comes from a file: recipes, artifacts, checkpoints."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A model that is fixed once read, and has no unknown key, no guessed type, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
