"""Specs: what they tell, and that they come back from JSON as they were."""

import pytest
from pydantic import ValidationError

from asqcli.quant.spec import (
    AdapterSpec,
    ApotWeights,
    AsqActivations,
    LayerSpec,
    LsqActivations,
    OffsetActivations,
    PactActivations,
    PostWeights,
    PotWeights,
    UniformWeights,
)

WEIGHTS = {
    "lsq 8 bits": UniformWeights(bits=8),
    "post 4 bits (17/12, per tensor)": PostWeights(bits=4, grid="17/12", per="tensor"),
    "post 3 bits (7/5, printed levels)": PostWeights(bits=3, levels="printed"),
    "pot 2 bits (per tensor, printed levels)": PotWeights(bits=2, per="tensor", levels="printed"),
    "apot 4 bits (normalized)": ApotWeights(bits=4, normalize=True),
}
ACTIVATIONS = {
    "lsq 8 bits": LsqActivations(bits=8),
    "asq 2 bits": AsqActivations(bits=2, adapter=AdapterSpec(hidden=3)),
    "asq 4 bits (Eq. 6)": AsqActivations(bits=4, dequantize_by="step_size"),
    "pact 3 bits": PactActivations(bits=3),
    "lsq+ 5 bits": OffsetActivations(bits=5),
}


@pytest.mark.parametrize(("text", "spec"), [*WEIGHTS.items(), *ACTIVATIONS.items()])
def test_in_words(text, spec):
    assert str(spec) == text


def test_an_adapter_in_words():
    assert str(AdapterSpec()) == "hidden quarter"
    assert str(AdapterSpec(hidden=8, bits="float", output="relu")) == "hidden 8, float, relu"


@pytest.mark.parametrize("spec", WEIGHTS.values(), ids=str)
def test_every_code_has_a_level(spec):
    assert len(spec.level_table) == 2**spec.code_bits
    assert spec.code_bits == spec.bits + (getattr(spec, "levels", "codes") == "printed")
    assert spec.scale_count(7) == (1 if spec.per == "tensor" else 7)


@pytest.mark.parametrize("weights", [None, *WEIGHTS.values()], ids=str)
def test_a_layer_comes_back_from_json(weights):
    for activations in (None, *ACTIVATIONS.values()):
        spec = LayerSpec(name="a", kind="conv", weights=weights, activations=activations)
        assert LayerSpec.model_validate_json(spec.model_dump_json()) == spec
        assert spec.adapter == getattr(activations, "adapter", None)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"quantizer": "x", "bits": 4}},
        {"weights": {"quantizer": "asq", "bits": 4}},
        {"activations": {"quantizer": "post", "bits": 4}},
        {"activations": {"quantizer": "lsq", "bits": 4.0}},
        {"kind": "x"},
        {"more": 1},
    ],
)
def test_a_layer_with_something_else_is_refused(change):
    with pytest.raises(ValidationError):
        LayerSpec(**{"name": "a", "kind": "conv", "weights": None, "activations": None} | change)
