"""The base of all models whose content comes from a file: recipes, artifacts, checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pydantic import Field
    from pydantic._internal._model_construction import ModelMetaclass
    from typing_extensions import dataclass_transform

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
    class Fixed(ModelMetaclass):
        """What pydantic's does not tell a checker of types: that no field can be set, so one may be narrowed."""

    class Model(BaseModel, metaclass=Fixed): ...
else:
    Model = BaseModel


class Strict(Model):
    """A model that is fixed once read, and has no unknown key, no guessed type, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
