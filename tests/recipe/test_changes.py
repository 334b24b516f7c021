from asqcli.recipe.changes import changes_in_words
from asqcli.recipe.resolve import Request, resolve


def recipe(*overrides):
    return resolve(Request("resnet20", None, "lsq", 3, {}, list(overrides))).recipe


def test_changes_name_their_keys_and_both_values():
    assert changes_in_words(recipe(), recipe()) is None
    assert changes_in_words(recipe(), recipe("train.lr=0.5")) == "`train.lr` 0.02 -> 0.5"
    assert '`weights.quantizer` "post" -> "lsq"' in changes_in_words(recipe("weights.quantizer=post"), recipe())


def test_of_many_changes_the_first_are_named():
    nine = "epochs=7 lr=0.5 momentum=0.5 weight_decay=0.5 batch_size=7 seed=7 max_steps=7 label_smoothing=0.5 "
    nine += "average_decay=0.5"
    assert changes_in_words(recipe(), recipe(*(f"train.{key}" for key in nine.split()))).endswith(", and 1 more")
