import pytest

from asqcli.errors import RecipeError, UsageError
from asqcli.nn.survey import SurveyedLayer
from asqcli.quant.spec import AdapterSpec, LsqActivations, UniformWeights
from asqcli.recipe.layers import resolve_layers
from asqcli.recipe.resolve import Request, resolve

NAMES = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "linear"]
LAYERS = [SurveyedLayer(name, "conv", 64) for name in NAMES]


def settings(*overrides, scheme="post", layers=LAYERS):
    recipe = resolve(Request("resnet20", None, scheme, None, {}, overrides)).recipe
    return {spec.name: spec for spec in resolve_layers(recipe, layers, source="the command line")}


def test_first_and_last_layers_are_8_bit_uniform_without_an_adapter():
    resolved = settings()
    for name in ("conv1", "linear"):
        assert resolved[name].weights == UniformWeights(bits=8)
        assert resolved[name].activations == LsqActivations(bits=8)
    assert resolved["layer1.0.conv1"].weights.quantizer == "post"
    assert resolved["layer1.0.conv1"].adapter == AdapterSpec()


def test_other_policies_for_the_ends():
    same, in_float = settings("first_last=same"), settings("first_last=float")
    assert same["conv1"].weights.quantizer == "post" and same["conv1"].activations == LsqActivations(bits=4)
    assert in_float["linear"].weights is None and in_float["linear"].activations is None
    assert in_float["layer2.0.conv1"].weights is not None


def test_later_rules_lie_over_earlier_ones_and_over_the_ends():
    resolved = settings(
        "layers={layer1.*: {weights: {bits: 3}}, '*.conv2': {weights: {quantizer: lsq, bits: 6}}, "
        "conv1: {activations: {quantizer: float}}}"
    )
    assert resolved["layer1.0.conv1"].weights.bits == 3
    assert resolved["layer1.0.conv2"].weights == UniformWeights(bits=6)
    assert resolved["layer2.0.conv1"].weights.bits == 4
    assert resolved["conv1"].activations is None and resolved["conv1"].weights.bits == 8


def test_part_of_the_adapter_section_can_be_ruled():
    resolved = settings("layers={layer2.*: {activations: {adapter: {hidden: 5}}}}")
    assert resolved["layer2.0.conv1"].adapter == AdapterSpec(hidden=5)


def test_the_default_adapter_of_a_wide_linear_layer_is_smaller_than_the_layer():
    names = ("first", "pixels", "wide", "conv", "last")
    kinds = ("conv", "linear", "linear", "conv", "linear")
    layers = [SurveyedLayer(*layer) for layer in zip(names, kinds, (3, 25_088, 2_048, 4_096, 4_096), strict=True)]
    hidden = {name: spec.adapter and spec.adapter.hidden for name, spec in settings(layers=layers).items()}
    assert hidden == {"first": None, "pixels": 512, "wide": "quarter", "conv": "quarter", "last": None}
    asked = settings("activations.adapter.hidden=900", layers=layers)
    assert asked["pixels"].adapter == AdapterSpec(hidden=900)


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"layers.layer1.0.cnv1` in the command line matches no layer") as failure:
        settings("layers={layer1.0.cnv1: {weights: {bits: 3}}}")
    assert "`layer1.0.conv1`" in failure.value.hint


def test_a_rule_that_does_not_fit_what_lies_under_it():
    with pytest.raises(RecipeError, match=r"layers.\*.weights.grid"):
        settings("layers={'*': {weights: {grid: 7/5}}}")  # the first and last layers are lsq


def test_rules_that_match_nothing_do_not_hide_others():
    with pytest.raises(RecipeError) as failure:
        settings("layers={'nope.*': {weights: {bits: 3}}, '*': {weights: {grid: 7/5}}}")
    assert [message.split("`")[1] for message, _ in failure.value.mistakes] == [
        "layers.nope.*",
        "layers.*.weights.grid",
    ]


def test_float_scheme_with_one_quantized_layer():
    resolved = settings("layers={layer1.0.conv1: {weights: {quantizer: lsq, bits: 4}}}", scheme="float")
    assert resolved["layer1.0.conv1"].weights.bits == 4
    assert resolved["conv1"].weights is None and resolved["layer1.0.conv1"].activations is None
