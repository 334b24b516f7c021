"""What `--set` may change of an evaluation; the other keys of a recipe are about training."""

from __future__ import annotations

from asqcli.errors import UsageError, did_you_mean
from asqcli.recipe.defaults import PREPROCESSING
from asqcli.recipe.load import Draft, overlay_overrides

EVALUATION_KEYS = tuple(f"data.{key}" for key in (*PREPROCESSING, "name", "workers"))


def require_evaluation_keys(overrides: list[str]) -> None:
    """Refuse to `--set` what an evaluation does not have.

    Raises:
        UsageError: names the key.
    """
    draft = Draft()
    overlay_overrides(draft, overrides)
    for section, values in draft.values.items():
        for key in [f"{section}.{k}" for k in values] if isinstance(values, dict) and values else [section]:
            if key not in EVALUATION_KEYS:
                choices = ", ".join(EVALUATION_KEYS)
                raise UsageError(
                    f"`--set` names `{key}`, which makes no sense for an evaluation, choose {choices}",
                    did_you_mean(key, EVALUATION_KEYS),
                )
