import numpy as np
import pytest

from asqcli.data.folders import Folder, walk
from asqcli.data.paths import Paths

NAMES = ["a.png", "caf\u00e9 \U0001f41c.jpg", "\udce9\n.pgm", "z"]


def paths():
    return Paths.joined([Paths.in_folder("d/ant", NAMES), Paths.in_folder("d/bee/", []), Paths.in_folder("/", ["b"])])


def test_paths_are_read_like_a_tuple_of_text():
    expected = [*(f"d/ant/{name}" for name in NAMES), "/b"]
    assert list(paths()) == expected and len(paths()) == 5
    assert [paths()[i] for i in range(5)] == expected and paths()[-1] == "/b" and paths()[np.int64(1)] == expected[1]
    assert list(paths()[1:4:2]) == expected[1:4:2] and "d/ant/z" in paths()
    with pytest.raises(IndexError):
        paths()[5]
    assert not Paths.joined([]) and not paths()[:0] and list(Paths.in_folder("d", [])) == []


def test_some_are_taken_by_their_places_or_by_a_mask():
    assert list(paths().take(np.array([4, 0, 0]))) == ["/b", "d/ant/a.png", "d/ant/a.png"]
    some = paths().take(np.array([True, False, False, True, True]))
    assert list(some) == ["d/ant/a.png", "d/ant/z", "/b"] and list(Paths.joined([some, some])) == [*some, *some]


def test_many_are_read_in_order():
    """More than are read at a time."""
    names = [f"{number}.png" for number in range(10_000)]
    assert list(Paths.in_folder("d", names)) == [f"d/{name}" for name in names]


def test_files_of_a_folder_come_in_the_order_of_their_names(tmp_path):
    """By characters, not by bytes: the byte that is no text has the smaller number, and is the larger byte."""
    names = ["B.png", "a.PNG", "\uff21.png", "\udcff.png", "10.png", "9.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert list(walk(Folder.at(str(tmp_path))).paths) == [f"{tmp_path}/{name}" for name in sorted(names)]
