import pytest

from asqcli.data.class_names import renamed
from asqcli.errors import InputError, UsageError

NUMBERS = ("0", "1", "2")


def test_numbers_may_be_named_and_names_may_not(tmp_path):
    file = tmp_path / "names"
    file.write_text("ant\nbee\ncow\n")
    assert renamed(NUMBERS, str(file), "run") == ("ant", "bee", "cow")
    assert renamed(NUMBERS, None, "run") == NUMBERS
    with pytest.raises(UsageError, match="`run` names its classes itself"):
        renamed(("ant", "bee", "cow"), str(file), "run")
    with pytest.raises(InputError, match="names 3 classes, and `run` has 2"):
        renamed(NUMBERS[:2], str(file), "run")
