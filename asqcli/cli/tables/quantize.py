"""What `asq quantize` prints: the recipe and layers of a dry run, the profile of a step, the result of a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import yaml

from asqcli.cli.console import percent, print_facts, print_json, print_layers, stdout
from asqcli.cli.streams import results
from asqcli.measures import AGREEMENT, measure_called
from asqcli.recipe.schema import Recipe

if TYPE_CHECKING:
    from asqcli.quant.spec import LayerSpec
    from asqcli.train.profile import StepProfile


def print_dry_run(recipe: Recipe, specs: list[LayerSpec], json_: bool) -> None:
    """Print a recipe as it is resolved, and what would become of each layer."""
    resolved = recipe.model_dump(mode="json")
    if json_:
        print_json({"schema": 1, "recipe": resolved, "layers": [spec.model_dump(mode="json") for spec in specs]})
        return
    results().write(yaml.safe_dump(resolved, sort_keys=False))
    if specs:
        print_layers(stdout(), specs)


def print_profile(profile: StepProfile, json_: bool) -> None:
    """Print where a training step goes."""
    if json_:
        print_json({"schema": 1, **asdict(profile), "ratio": round(profile.ratio, 3)})
        return
    facts = {"float step": f"{profile.float_ms:.1f} ms", "float step in bfloat16": "not native here"}
    if (in_bfloat16 := profile.float_bf16_ms) is not None:
        facts["float step in bfloat16"] = (
            f"{in_bfloat16:.1f} ms, {in_bfloat16 / profile.float_ms:.2f} of the float step"
        )
    quantized = "quantized step" if profile.precision == "float32" else f"quantized step in {profile.precision}"
    facts[quantized] = (
        f"{profile.quantized_ms:.1f} ms, {profile.ratio:.2f} of the float step, "
        f"{profile.images_per_second:,.0f} images a second" + (", taught" if profile.teacher_ms is not None else "")
    )
    facts |= {f"  {name}": f"{ms:.1f} ms" for name, ms in profile.sections_ms.items()}
    facts |= {name: f"{share:.1f}% of the quantized step" for name, share in profile.parts.items()}
    if profile.teacher_ms is not None:
        facts["the teacher's answers"] = f"{profile.teacher_ms:.1f} ms, beside each quantized step"
    seconds = profile.whole_ms * profile.steps_per_epoch / 1000
    facts["an epoch"] = f"{profile.steps_per_epoch:,} steps, {seconds:.0f} s without evaluation"
    more = f", {profile.peak_mib / profile.float_peak_mib:.2f} of the float step's" if profile.float_peak_mib else ""
    facts["memory of a quantized step"] = f"{profile.peak_mib:.1f} MiB{more}"
    print_facts("Where a training step goes (medians, taking turns)", facts)


def _accuracy(result: dict[str, Any], quantized: bool) -> dict[str, str]:
    doubt = "" if result.get("float_trained", True) else ", untrained"
    if result.get("float_of_quantized", False):
        doubt = ", of weights that were trained quantized"
    facts = {"float top-1": percent(result["float_top1"]) + doubt}
    if quantized:  # a difference to a doubtful figure says nothing
        points = "" if doubt else f" ({result['top1'] - result['float_top1']:+.2f} points)"
        facts["quantized top-1"] = percent(result["top1"]) + points
        facts["before training"] = percent(result["calibrated_top1"])
    return facts | {"top-5": percent(result["top5"])}


def _agreement(result: dict[str, Any]) -> dict[str, str]:
    return {
        AGREEMENT.share: f"{percent(result['top1'])} of the top answers are the float network's",
        "before training": percent(result["calibrated_top1"]),
        AGREEMENT.top5: f"{percent(result['top5'])} of the float network's top answers",
    }


def print_result(result: dict[str, Any], json_: bool) -> None:
    """Print what a run came to."""
    if json_:
        print_json(result)
        return
    quantized = result["scheme"] != "float"
    network = f"{result['model']}, scheme {result['scheme']}"
    if quantized:
        network += f", weights {result['weight_bits']} bits, activations {result['activation_bits']} bits"
    if rules := result.get("layer_rules"):
        network += f", and {rules} layer rule{'s' if rules > 1 else ''}"
    facts = {"network": network, "measured on": result["measured_on"]}
    if measure_called(result.get("measures")) is AGREEMENT:
        facts |= _agreement(result)
    else:
        facts |= _accuracy(result, quantized)
    if "teacher" in result:
        facts["teacher"] = f"{result['teacher']}, {percent(result['teacher_top1'])}"
    if "beta" in result:
        facts["beta"] = "{:.2f} to {:.2f}".format(*result["beta"])
    if (precision := result.get("precision", "float32")) != "float32":
        facts["multiplied in"] = f"{precision}, in training alone"
    facts |= {"seed": str(result["seed"]), "run": result["run"]}
    print_facts("Result", facts)
