import pytest

from asqcli.errors import InputError, RecipeError, UsageError
from asqcli.study.load import read_study
from tests.study.parts import study_of


def mistakes(tmp_path, text):
    with pytest.raises(UsageError) as failure:
        study_of(tmp_path, text)
    return failure.value.message


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path):
    told = mistakes(
        tmp_path,
        "modle: resnet20\nseeds: [0, -1]\nrows:\n  A: {scheme: 4, bit: 3}\n  B: {bits: [3, many]}\ngrid: {bits: 3}\n",
    )
    assert "6 mistakes in `" in told
    for text in (
        "unknown key `modle` in `",
        "did you mean `model`?",
        "`seeds.1` is -1",
        "`rows.A.scheme` is `4`",
        "unknown key `rows.A.bit`",
        "did you mean `bits`?",
        "`rows.B.bits.1` is `many`",
        "`grid.bits` is `3`",
    ):
        assert text in told


def test_mistakes_of_the_whole_are_told_at_once(tmp_path):
    told = mistakes(
        tmp_path,
        "set: {train.seed: 3, bits: 4}\nseeds: [1, 1]\nrows: {A: {bits: []}, B: {scheme: lsq}}\nagainst: b\n",
    )
    for text in (
        "`set` has `train.seed`",
        "under `seeds`",
        "`set` has `bits`, which is no key of a recipe",
        "`seeds` lists 1 twice",
        "`rows.A.bits` lists nothing",
        "neither a `model` nor a `recipe`",
        "`against` is `b`, which is no row",
    ):
        assert text in told
    assert "neither `rows` nor a `grid`" in mistakes(tmp_path, "model: resnet20\n")


def test_mistakes_of_rows_in_their_recipes_are_told_with_the_rows(tmp_path):
    told = mistakes(
        tmp_path,
        "model: resnet20\nset: {train: {lr: 0}}\n"
        "rows:\n  A: {scheme: lsk}\n  B: {scheme: post, bits: 5}\n  C: {set: {train: {epoch: 3}}}\n",
    )
    assert "unknown scheme `lsk`" in told and "row A: " in told and "did you mean `lsq`" in told
    assert "row B: `weights.bits` is 5" in told and "row C: unknown key `train.epoch`" in told
    assert "row B; C: `train.lr` is 0" in told


def test_rows_that_would_share_a_folder_are_refused(tmp_path):
    told = mistakes(tmp_path, "model: resnet20\nrows: {a b: {scheme: lsq}, A-B: {scheme: asq}}\n")
    assert "rows `a b` and `A-B` would share the folder `a-b-w4a4-seed0`" in told


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match=r"study `.*absent.yaml` cannot be read"):
        read_study(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="is not a mapping"):
        study_of(tmp_path, "- LSQ\n")
    with pytest.raises(RecipeError, match=r"`rows.A` is `lsq` in .*, it must be a section of keys"):
        study_of(tmp_path, "model: resnet20\nrows: {A: lsq}\n")
