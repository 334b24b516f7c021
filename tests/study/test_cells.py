import shlex

import pytest
import typer

from asqcli.cli.app import app
from asqcli.recipe.resolve import Request, resolve
from asqcli.recipe.shipped import find_study, header, shipped_recipes, shipped_studies
from asqcli.study.command import start_arguments
from asqcli.study.expand import expand
from asqcli.study.load import read_study
from tests.study.parts import study_of

TABLE = """\
recipe: resnet20_cifar10
seeds: [0, 1]
rows:
  LSQ: {scheme: lsq}
  ASQ+POST: {scheme: post, bits: 3}
  float: {scheme: float}
grid: {bits: [2, 3], train.epochs: [5, 1]}
"""


def test_names_and_order(tmp_path):
    """Fewer epochs first, then the first seed of all rows, then the file's order."""
    names = [cell.name for cell in study_of(tmp_path, TABLE, weights="w.th").cells]
    rows = ["lsq-w2a2-e{}", "lsq-w3a3-e{}", "asq+post-w3a3-e{}", "float-e{}"]
    assert names == [f"{row.format(epochs)}-seed{seed}" for epochs in (1, 5) for seed in (0, 1) for row in rows]


def test_a_grid_alone_makes_rows(tmp_path):
    study = study_of(tmp_path, "model: resnet20\ngrid: {scheme: [lsq, float], bits: [2, 4], train.lr: [0.1, 1e-3]}\n")
    assert [(row.name, row.bits, row.recipe.train.lr) for row in study.rows] == [
        ("lsq lr=0.1", 2, 0.1), ("lsq lr=0.001", 2, 0.001), ("lsq lr=0.1", 4, 0.1), ("lsq lr=0.001", 4, 0.001),
        ("float lr=0.1", "float", 0.1), ("float lr=0.001", "float", 0.001),
    ]  # fmt: skip
    assert study.cells[1].name == "lsq-lr=0.001-w2a2-seed0"
    bits_alone = study_of(tmp_path, "model: resnet20\ngrid: {bits: [2, 4]}\n")
    assert [cell.name for cell in bits_alone.cells] == ["mine-w2a2-seed0", "mine-w4a4-seed0"]
    networks = study_of(tmp_path, "grid: {model: [resnet20, resnet32]}\n")
    assert [(cell.name, cell.recipe.model) for cell in networks.cells] == [
        ("resnet20-w4a4-seed0", "resnet20"),
        ("resnet32-w4a4-seed0", "resnet32"),
    ]


def test_what_a_row_says_goes_over_the_grid_flags_over_the_file_and_set_over_all(tmp_path):
    text = (
        "model: resnet20\nset: {data.name: cifar10, train: {lr: 0.5, momentum: 0.5}}\n"
        "rows:\n  A: {set: {train: {lr: 0.25}}}\n  B: {set: {data.name: digits}}\ngrid: {train.lr: [0.125]}\n"
    )
    a, b = study_of(tmp_path, text, data="cifar100", overrides=["train.momentum=0.75"]).rows
    assert (a.name, a.recipe.train.lr, a.recipe.data.name, a.recipe.train.momentum) == ("A", 0.25, "cifar100", 0.75)
    assert (b.name, b.recipe.train.lr, b.recipe.data.name) == ("B lr=0.125", 0.125, "digits")


def test_a_float_row_trains_as_long_as_the_quantized_ones(tmp_path):
    text = "model: resnet20\nset: {train: {epochs: 4, warmup: {epochs: 6}}}\nrows: {Q: {}, F: {scheme: float}}\n"
    assert [row.recipe.train.epochs for row in study_of(tmp_path, text, weights="none").rows] == [4, 10]
    assert [row.recipe.train.epochs for row in study_of(tmp_path, text, weights="w.th").rows] == [4, 4]
    own = text.replace("scheme: float", "scheme: float, set: {train.epochs: 2}")
    assert [row.recipe.train.epochs for row in study_of(tmp_path, own, weights="none").rows] == [4, 2]


def test_rows_are_compared_at_the_same_bits_and_epochs(tmp_path):
    def partners(text):
        study = study_of(tmp_path, text, weights="w.th")
        return {
            (row.name, row.bits, row.recipe.train.epochs): other and (other.name, other.bits, other.recipe.train.epochs)
            for row in study.rows
            for other in [study.partner(row)]
        }

    first = partners(TABLE)
    assert first[("ASQ+POST", 3, 5)] == ("LSQ", 3, 5) and first[("ASQ+POST", 3, 1)] == ("LSQ", 3, 1)
    assert first[("LSQ", 3, 5)] is None and first[("float", "float", 5)] is None
    beside_float = partners(TABLE + "against: float\n")
    assert beside_float[("LSQ", 2, 1)] == ("float", "float", 1)


def parsed(words: list[str]) -> Request:
    """What `asq quantize` makes of a command line."""
    command = typer.main.get_command(app).commands["quantize"]
    p = command.make_context("quantize", list(words)).params
    keys = {"data.name": "data", "pretrained": "weights", "train.epochs": "epochs", "train.batch_size": "batch_size",
            "train.lr": "lr", "train.seed": "seed", "train.max_steps": "max_steps"}  # fmt: skip
    flags = {key: (p[name], "--flag") for key, name in keys.items()}
    return Request(p["model"], p["recipe"], p["scheme"], p["bits"], flags, p["overrides"] or [])


def test_a_command_line_comes_to_the_recipe_of_its_cell(tmp_path):
    text = """\
model: resnet20
set: {data: {name: digits, mean: [0.5, 0.25, 0.125]}, train: {max_steps: 7, distillation: {}}}
seeds: [3, 4]
rows:
  odd name, 'quoted': {scheme: lsq, set: {weights: {quantizer: post, grid: 17/12}}}
  rules:
    set:
      layers: {"layer1.*": {weights: {bits: 2}}, linear: {activations: {quantizer: float}}}
      train: {lr: 1e-5, distillation: null, batch_norm_batches: auto}
  float: {scheme: float, set: {train.distillation: null}}
grid: {bits: [3], train.batch_size: [16]}
"""
    cells = study_of(tmp_path, text, overrides=["calibration.batches=2"]).cells
    assert len(cells) == 6
    for cell in cells:
        line = shlex.join(start_arguments(cell.request, out="some folder", threads=2))
        assert resolve(parsed(shlex.split(line)[1:])).recipe == cell.recipe, line


def test_a_recipe_is_looked_for_beside_the_study(tmp_path):
    (tmp_path / "own.yaml").write_text("model: resnet20\ntrain: {lr: 0.375}\n")
    (row,) = study_of(tmp_path, "recipe: own.yaml\ngrid: {bits: [3]}\n").rows
    assert row.recipe.train.lr == 0.375


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_valid_and_say_what_they_are(name):
    path = find_study(name)
    lines = header(path)
    assert lines[0] and any(line.startswith(f"Run: asq study {name}") for line in lines)
    assert any(line.startswith("Expected") for line in lines) and any(line.startswith("Takes") for line in lines)
    assert name not in shipped_recipes()
    study = expand(read_study(path), path, data=None, weights="none", overrides=[])
    takes = next(line for line in lines if line.startswith("Takes: "))
    assert takes.startswith(f"Takes: {len(study.cells)} runs ")


def test_the_papers_tables():
    def cells_of(name):
        path = find_study(name)
        study = expand(read_study(path), path, data=None, weights=None, overrides=[])
        assert {cell.seed for cell in study.cells} == {0, 1, 2} and {c.recipe.train.epochs for c in study.cells} == {
            300
        }
        return [(r.recipe.weights.quantizer, r.recipe.activations.quantizer, r.bits) for r in study.rows]

    table4 = cells_of("study_table4_resnet20")
    assert table4 == [
        *[("lsq", "lsq", bits) for bits in (2, 3, 4)],
        *[("apot", "lsq", bits) for bits in (2, 3, 4)],
        *[("lsq", "asq", bits) for bits in (2, 3, 4)],
        *[("post", "asq", bits) for bits in (3, 4)],
    ]
    assert cells_of("study_table5_ablation") == [
        ("lsq", "lsq", 4), ("pot", "lsq", 4), ("post", "lsq", 4), ("lsq", "asq", 4), ("post", "asq", 4)
    ]  # fmt: skip
