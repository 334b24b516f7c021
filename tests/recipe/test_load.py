import pytest
import yaml

from asqcli.errors import InputError, RecipeError, UsageError
from asqcli.recipe.load import read_recipe
from asqcli.recipe.resolve import Request, resolve, resolve_again
from asqcli.recipe.schema import Distillation, Recipe, scheme_of
from asqcli.recipe.shipped import find_recipe, header, shipped_recipes


def ask(model="resnet20", recipe=None, scheme=None, bits=None, overrides=(), **flags):
    return Request(
        model, recipe, scheme, bits, {k.replace("__", "."): (v, "--flag") for k, v in flags.items()}, overrides
    )


def resolved(*args, **kwargs) -> Recipe:
    return resolve(ask(*args, **kwargs)).recipe


def mistakes(*args, **kwargs) -> list[tuple[str, str | None]]:
    with pytest.raises(RecipeError) as failure:
        resolved(*args, **kwargs)
    return failure.value.mistakes


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_nothing_but_a_model_is_a_whole_recipe():
    recipe = resolved()
    assert (recipe.weights.quantizer, recipe.activations.quantizer) == ("post", "asq")
    assert recipe.weights.bits == recipe.activations.bits == 4
    assert recipe.data.name == "digits" and recipe.first_last == 8
    assert resolved("resnet18").data.image_size == 32


@pytest.mark.parametrize(
    ("scheme", "weights", "activations"),
    [("post", "post", "asq"), ("asq", "lsq", "asq"), ("pot", "pot", "lsq"), ("apot", "apot", "lsq"),
     ("lsq", "lsq", "lsq"), ("float", "float", "float")],
)  # fmt: skip
def test_schemes_are_pairs_of_quantizers(scheme, weights, activations):
    recipe = resolved(scheme=scheme)
    assert (recipe.weights.quantizer, recipe.activations.quantizer) == (weights, activations)
    assert scheme_of(weights, activations) == scheme and recipe.quantized == (scheme != "float")


def test_set_beats_flags_beat_the_recipe_beats_defaults(tmp_path):
    path = write(tmp_path, "model: resnet20\ntrain: {epochs: 7, lr: 0.5, batch_size: 32}\n")
    recipe = resolved(None, path, train__epochs=8, train__lr=0.25, overrides=["train.lr=0.125"])
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.batch_size) == (8, 0.125, 32)
    assert recipe.train.momentum == 0.9 and recipe.train.warmup.epochs == 15


def test_eight_bits_are_trained_more_gently():
    def schedule(**asked):
        train = resolved(**asked).train
        return train.epochs, train.lr

    assert schedule() == schedule(scheme="lsq", bits=7) == (5, 0.02)
    eight = {"scheme": "lsq", "bits": 8}
    assert schedule(**eight) == (2, 0.0002)
    assert schedule(**eight, overrides=["weights.bits=3"]) == (5, 0.02)  # the fewer count
    assert schedule(**eight, overrides=["activations.quantizer=float"]) == (2, 0.0002)
    assert schedule(**eight, train__lr=0.1) == (2, 0.1)
    assert schedule(**eight, data__name="cifar10") == schedule(data__name="cifar10") == (300, 0.04)  # the paper's
    assert resolved(**eight).train.warmup == resolved().train.warmup


def test_networks_that_need_large_images_are_warmed_up_longer_on_the_digits():
    assert [resolved(model).train.warmup.epochs for model in ("resnet20", "resnet18", "inception_v3")] == [15, 15, 20]


def rates(recipe):
    return [(p.optimizer, p.lr, p.lr_ramp_steps) for p in (recipe.train, recipe.train.warmup)]


@pytest.mark.parametrize(
    ("model", "quantized", "warmup"),
    [
        ("resnet20", ("sgd", 0.02, 0), ("sgd", 0.05, 0)),
        ("my_models:net", ("sgd", 0.02, 0), ("sgd", 0.05, 0)),
        ("resnet18", ("sgd", 0.005, 25), ("sgd", 0.01, 25)),
        ("squeezenet1_1", ("adamw", 5e-4, 25), ("adamw", 5e-4, 25)),
    ],
)
def test_what_a_network_has_decides_how_it_is_trained(model, quantized, warmup):
    assert rates(resolved(model)) == [quantized, warmup]
    assert rates(resolved(model, scheme="float")) == [warmup, warmup]


def test_a_stated_rate_is_of_sgd_and_a_stated_optimizer_brings_its_rate():
    plain = rates(resolved("squeezenet1_1", train__lr=0.25, overrides=["train.warmup.lr=0.125"]))
    assert plain == [("sgd", 0.25, 0), ("sgd", 0.125, 0)]
    asked = ["train.optimizer=adamw", "train.lr_ramp_steps=7", "train.warmup.optimizer=sgd"]
    assert rates(resolved("resnet20", overrides=asked)) == [("adamw", 5e-4, 7), ("sgd", 0.05, 0)]
    assert rates(resolved("alexnet", overrides=asked)) == [("adamw", 5e-4, 7), ("sgd", 0.05, 0)]
    own = ["train.optimizer=adamw", "train.lr=0.1"]
    assert rates(resolved("resnet20", overrides=own))[0] == ("adamw", 0.1, 0)
    assert any("train.optimizer" in text for text, _ in mistakes(overrides=["train.optimizer=adam"]))


def test_a_warm_up_that_is_no_section_hides_no_other_mistake():
    told = [text for text, _ in mistakes("resnet18", overrides=["train.warmup=3", "train.epochs=x"])]
    assert len(told) == 2 and any("train.warmup" in t for t in told) and any("train.epochs" in t for t in told)


def test_digits_are_as_large_as_a_network_needs_them():
    assert [resolved(m).data.image_size for m in ("resnet20", "resnet18", "squeezenet1_0")] == [16, 32, 64]
    assert resolved("squeezenet1_0", overrides=["data.image_size=32"]).data.image_size == 32


def test_a_flag_that_changes_the_quantizer_drops_keys_it_does_not_know(tmp_path):
    path = write(tmp_path, "model: resnet20\nweights: {quantizer: post, bits: 3, grid: 7/5}\n")
    assert resolved(None, path).weights.grid == "7/5"
    assert resolved(None, path, scheme="lsq").weights.model_dump() == {"quantizer": "lsq", "bits": 3, "per": "channel"}


def test_the_resolved_recipe_resolves_to_itself(tmp_path):
    recipe = resolved(scheme="post", overrides=["layers={conv1: {weights: {bits: 6}}}"])
    path = write(tmp_path, yaml.safe_dump(recipe.model_dump(mode="json")))
    assert resolved(None, path) == recipe
    assert resolve_again(recipe, ask("resnet20")) == recipe
    assert resolve_again(recipe, ask("resnet20", train__lr=9.0)) != recipe


def test_scientific_notation_is_a_number(tmp_path):
    path = write(tmp_path, "model: resnet20\ntrain: {weight_decay: 1e-4, lr: 5E-2}\n")
    assert resolved(None, path).train.weight_decay == 1e-4


@pytest.mark.parametrize("bits", [0, 1, 9, 32])
def test_bits_out_of_range(bits):
    told = mistakes(scheme="lsq", bits=bits)
    assert told[0][0] == f"`weights.bits` is {bits} (from --bits), choose 2 to 8" and len(told) == 2


def test_post_above_four_bits_says_why_and_what_to_use():
    [(message, hint)] = mistakes(scheme="post", bits=8)
    assert "choose 2 to 4 with POST levels" in message and "--scheme asq" in hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("wieghts: {bits: 3}", "unknown key `wieghts` in", "`weights`"),
        ("weights: {quantizer: post, bit: 3}", "unknown key `weights.bit` in", "did you mean `bits`?"),
        ("weights: {quantizer: lsq, grid: 7/5}", "unknown key `weights.grid` in", "quantizer, bits, per"),
        ("weights: {quantizer: psot}", "`weights.quantizer` is `psot` in", "`post`"),
        ("train: {epochs: many}", "`train.epochs` is `many` in", None),
        ("train: {epochs: true}", "`train.epochs` is `true` in", None),
        ("train: {lr: }", "`train.lr` is `null` in", None),
        ("train: {momentum: 1.0}", "it must be below 1", None),
        ("train: {distillation: {weigth: 1}}", "unknown key `train.distillation.weigth` in", "did you mean `weight`?"),
        ("train: {seed: 9223372036854775808}", "it must be below 9223372036854775808", None),
        ("weights: {bits: 4, grid: 17/12, levels: printed}", "`weights` in", None),
        ("train: {lr: 1.0e+300}", "it must be at most 1e+30", None),
        ("data: {padding: 1000000}", "it must be at most 256", None),
        (
            "activations: {quantizer: asq, adapter: {hidden: 1000000}}",
            "choose quarter or a number of units from 1",
            None,
        ),
        ("first_last: 4", "`first_last` is `4` in", None),
        ("data: {augment: flop}", "choose none, shift, shift_flip, resized_crop", None),
        ("data: {mean: [1, 2]}", "a list of three numbers", None),
        ("activations: {quantizer: asq, adapter: {hiden: 3}}", "unknown key `activations.adapter.hiden`", "`hidden`"),
        ("layers: {conv1: {weights: {bits: 77}}}", "`layers.conv1.weights.bits` is 77", None),
        ("layers: {conv1: {weight: {bits: 7}}}", "unknown key `layers.conv1.weight`", "`weights`"),
        ("layers: {conv1: {weights: {quantizer: lsq, grid: 7/5}}}", "`layers.conv1.weights.grid`", None),
    ],
)
def test_each_mistake_names_key_file_and_remedy(tmp_path, text, message, hint):
    [(told, remedy)] = mistakes(None, write(tmp_path, f"model: resnet20\n{text}\n"))
    assert message in told
    assert (hint is None) or hint in remedy


def test_all_mistakes_are_told_at_once(tmp_path):
    path = write(tmp_path, "model: resnet20\nmodle: x\nweights: {quantizer: post, bits: 8}\ntrain: {lr: -1}\n")
    with pytest.raises(RecipeError) as failure:
        resolved(None, path, overrides=["train.epochs=x"])
    assert len(failure.value.mistakes) == 4
    assert failure.value.message.startswith(f"4 mistakes in `{path}`")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1,", "is not YAML at line"),
        ("model: a\nmodel: b\n", "at line 2, column 1: key `model` stands twice"),
        ("- a\n- b\n", "not a mapping"),
        ("", "not a mapping"),
        ("model: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("seed: 2001-99-99", "at line 1, column 7: '2001-99-99' cannot be read as `timestamp`"),
        ("seed: !!int abc", "'abc' cannot be read as `int`"),
        ("seed: !!float ''", "'' cannot be read as `float`"),
        ("seed: !!bool maybe", "'maybe' cannot be read as `bool`"),
        ("seed: !!timestamp x", "'x' cannot be read as `timestamp`"),
        ("seed: !!map [a]", "expected a mapping node"),
        ("seed: " + 5000 * "9", "'999999999999...9999999999999' cannot be read as `int`"),
        ("seed: 0x" + 5000 * "f", "cannot be read as `int`"),
        ("seed: 1" + 3000 * ":1", "cannot be read as `int`"),
        ("seed: !!float 1" + 3000 * ":1", "cannot be read as `float`"),
        ("train: &t {warmup: *t}", r"at line 1, column 20: the alias `\*t` is not allowed, write out"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", r"at line 2, column 8: the alias `\*a`"),
        ("a: " + 100_000 * "[", "nested too deeply"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_recipe(type(tmp_path)(write(tmp_path, text)))


@pytest.mark.parametrize("section", ["weights: post", "train: 3", "data: digits", "layers: [a]"])
def test_a_value_where_a_section_belongs(tmp_path, section):
    [(told, _)] = mistakes(None, write(tmp_path, f"model: resnet20\n{section}\n"))
    assert "it must be a section of keys" in told


def test_model_and_recipe_must_agree(tmp_path):
    with pytest.raises(UsageError, match="is for the model `resnet20`, not `resnet18`"):
        resolved("resnet18", write(tmp_path, "model: resnet20\n"))
    with pytest.raises(UsageError, match="no model"):
        resolved(None)
    told = mistakes(None, write(tmp_path, "modle: resnet20\nwieghts: {bits: 3}\n"))
    assert [message.split(" in ")[0] for message, _ in told] == [
        "`model` is missing", "unknown key `modle`", "unknown key `wieghts`"
    ]  # fmt: skip


def test_overrides_that_are_none():
    with pytest.raises(UsageError, match="KEY=VALUE"):
        resolved(overrides=["train.epochs"])
    with pytest.raises(UsageError, match="not YAML"):
        resolved(overrides=["train.epochs=[1"])
    with pytest.raises(UsageError, match="2001-99-99` is not YAML at line 1, column 1: '2001-99-99' cannot be read as"):
        resolved(overrides=["train.seed=2001-99-99"])
    with pytest.raises(UsageError, match="nested too deeply"):
        resolved(overrides=["train.seed=" + 100_000 * "["])


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_say_what_they_are(name):
    assert resolved(None, name).model
    lines = header(find_recipe(name))
    assert lines[0] and any(line.startswith("Run: asq quantize") for line in lines)
    assert any(line.startswith("Expected") for line in lines) and any(line.startswith("Takes") for line in lines)


def test_an_unknown_recipe_gets_the_nearest_name():
    with pytest.raises(UsageError) as failure:
        find_recipe("resnet20_digits_w4a4")
    assert "resnet20_digits_w4a4_asq_post" in failure.value.hint
    with pytest.raises(InputError, match="no recipe or file"):
        find_recipe("absent/mine.yaml")


def test_set_reaches_layers_with_dotted_names_and_keeps_the_recipes_rules(tmp_path):
    path = write(
        tmp_path, "model: resnet20\nlayers: {'*.conv2': {weights: {bits: 3}}, conv1: {weights: {per: tensor}}}\n"
    )
    recipe = resolved(None, path, overrides=[
        "layers.layer1.0.conv1.weights.bits=2", "layers.conv1.weights.bits=6", "layers.layer2.*={weights: {bits: 3}}",
    ])  # fmt: skip
    assert list(recipe.layers) == ["*.conv2", "conv1", "layer1.0.conv1", "layer2.*"]
    assert recipe.layers["conv1"].weights == {"per": "tensor", "bits": 6}
    assert recipe.layers["layer1.0.conv1"].weights == {"bits": 2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("weights={quantizer: {a: 1}}", "`weights"),
        ("weights.bits={a: 1}", "`weights.bits` is `{'a': 1}`"),
        ("train.lr=.inf", "a finite number"),
        ("data.std=[0, 1, 1]", "`data.std.0` is 0 (from --set), it must be at least 1e-06"),
        ("data.mean=[1e7, 0, 0]", "it must be at most 1e+06"),
        ("data.resize=8", "`resize` must be at least `image_size`"),
        ("weights={levels: printed, grid: 17/12}", "do not fit in int8 on the grid 17/12"),
    ],
)
def test_odd_overrides(override, message):
    assert message in mistakes(overrides=[override])[0][0]


def test_bits_of_a_float_run():
    with pytest.raises(UsageError, match="makes no sense"):
        resolved(scheme="float", bits=4)


@pytest.mark.parametrize("key", ["distillation={}", "freeze_oscillations=0.02", "step_lr=0.1", "adapter_lr=2"])
def test_what_concerns_quantizers_only_is_no_key_of_a_float_run(key):
    [(message, _)] = mistakes(scheme="float", overrides=[f"train.{key}"])
    assert message == f"`train.{key.partition('=')[0]}` makes no sense where nothing is quantized"


def test_data_that_are_missing_do_not_hide_mistakes():
    [(told, _)] = mistakes(data__name="nowhere", overrides=["train.epochs=x"])
    assert "train.epochs" in told


def test_without_labels_the_float_network_teaches_alone():
    recipe = resolved("resnet18", data__labels=False, overrides=["train.distillation.temperature=2"])
    train = recipe.train
    assert train.distillation == Distillation(weight=1.0, temperature=2.0)
    assert (train.batch_norm, train.optimizer, train.batch_size) == ("frozen", "adamw", 32)
    assert resolved("resnet18").train.distillation is None and resolved("resnet18").train.batch_norm == "batch"


def test_on_own_images_the_float_network_teaches_below_8_bits(image_folder):
    def teaching(*overrides, **kwargs):
        return resolved(
            "resnet18", data__name=str(image_folder), overrides=list(overrides), **kwargs
        ).train.distillation

    assert teaching() == teaching(bits=2, scheme="lsq") == Distillation(weight=0.5)
    assert teaching("train.distillation.temperature=2") == Distillation(weight=0.5, temperature=2)
    assert teaching("train.distillation=null") is teaching("train.lr=0.01") is teaching(scheme="float") is None
    assert teaching(bits=8, scheme="lsq") is None and resolved("resnet18").train.distillation is None


@pytest.mark.parametrize(
    ("overrides", "scheme", "message"),
    [
        (["train.distillation.weight=0.5"], None, "`train.distillation.weight` is 1 then"),
        (["train.distillation=null"], None, "the teacher is all there is to learn from"),
        (["train.label_smoothing=0.1"], None, "`train.label_smoothing` makes no sense without labels"),
        (["train.batch_norm_batches=4"], None, "makes no sense beside `train.batch_norm: frozen`"),
        (["pretrained=none"], None, "only a trained float network can teach"),
        ([], "float", "without labels nothing can be trained in float"),
    ],
)
def test_what_makes_no_sense_without_labels(overrides, scheme, message):
    [(told, _)] = mistakes(scheme=scheme, data__labels=False, overrides=overrides)
    assert message in told


def test_batch_norms_cannot_be_frozen_where_nothing_is_quantized():
    [(told, _)] = mistakes(scheme="float", overrides=["train.batch_norm=frozen"])
    assert told == "`train.batch_norm` makes no sense where nothing is quantized"
