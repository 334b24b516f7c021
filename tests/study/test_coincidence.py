import pytest

from asqcli.study.coincidence import coincidences
from tests.study.parts import study_of


@pytest.mark.parametrize(
    ("rows", "bits", "told"),
    [
        ("PoT: {scheme: pot}, APoT: {scheme: apot}", 2, "at 2 bits are the same quantizers"),
        ("PoT: {scheme: pot}, APoT: {scheme: apot}", 3, "at 3 bits are the same quantizers"),
        ("PoT: {scheme: pot}, APoT: {scheme: apot}", 4, None),
        (
            "PoT: {scheme: pot}, POST: {scheme: post}",
            2,
            "the weights of `PoT` and `POST` at 2 bits have the same levels",
        ),
        ("PoT: {scheme: pot}, POST: {scheme: post}", 3, None),
        ("LSQ: {scheme: lsq}, APoT: {scheme: apot}", 2, None),  # four levels beside three
        ("A: {scheme: apot, set: {weights.normalize: true}}, B: {scheme: pot}", 3, None),
        ("A: {scheme: apot, set: {weights.per: tensor}}, B: {scheme: pot}", 3, None),
        ("A: {scheme: pot, set: {weights.levels: printed}}, B: {scheme: apot}", 2, None),
        ("A: {scheme: apot}, B: {scheme: pot, set: {layers: {conv1: {weights: {bits: 4}}}}}", 3, None),
        ("A: {scheme: lsq}, B: {scheme: asq, set: {activations.quantizer: lsq}}", 3, "at 3 bits are the same recipe"),
    ],
)
def test_rows_that_are_the_same_are_known_by_their_levels(tmp_path, rows, bits, told):
    study = study_of(tmp_path, f"model: resnet20\nrows: {{{rows}}}\ngrid: {{bits: [{bits}]}}\n")
    found = list(coincidences(study.rows))
    assert len(found) == (told is not None) and (told is None or told in found[0])
