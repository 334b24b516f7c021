"""How factories are asked for a number of classes, and found."""

import sys

import pytest

from asqcli.errors import UnsupportedError, UsageError
from asqcli.models.factories import takes_classes
from asqcli.models.registry import build_model

SOURCE = """
from torch import nn

def Net(classes, **others):
    assert not others
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def plain(num_classes=10): return Net(num_classes)
def told(n_classes): return Net(n_classes)
def labels(*, num_labels=10): return Net(num_labels)
def unset(classes=None): return Net(classes or 10)
def names(classes=("cat", "dog"), n_classes=10): return Net(n_classes)
def switch(classes=True): return Net(10)
def positions(n_classes, /): return Net(n_classes)
def keywords(pretrained=False, **kwargs): return plain(**kwargs)
def other_keywords(**kwargs): return labels(**kwargs)
def taken(**kwargs): return Net(kwargs.pop("num_classes", 10), **kwargs)
def ignored(**kwargs): return Net(10)
def strict(**kwargs):
    if kwargs: raise ValueError("no settings here")
    return Net(10)
def typed(**kwargs): raise TypeError("'num_classes' is not the matter")
def fixed(): return Net(10)
def circle():
    net = Net(10)
    net[0].parent = net
    return net
def twice():
    net = Net(10)
    return nn.Sequential(net[0], *net[1:], nn.Identity(), net[2])
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "factories_of_ours.py").write_text(SOURCE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("factories_of_ours", None)


def classes_of(name, asked):
    return build_model(f"factories_of_ours:{name}", asked, seed=(0,))[-1].out_features


@pytest.mark.parametrize("name", ["plain", "told", "labels", "unset", "names", "keywords", "other_keywords", "taken"])
def test_the_number_of_classes_reaches_the_network(name):
    assert classes_of(name, 3) == 3 and takes_classes(f"factories_of_ours:{name}")


@pytest.mark.parametrize(("name", "takes"), [("ignored", True), ("strict", True), ("fixed", False), ("switch", False)])
def test_factories_that_go_their_own_way(name, takes):
    assert classes_of(name, 3) == 10 and takes_classes(f"factories_of_ours:{name}") == takes


def test_without_a_number_a_factory_has_its_own_or_must_be_told():
    assert [classes_of(name, None) for name in ("plain", "told", "labels", "keywords")] == [10, 1000, 10, 10]


def test_what_a_factory_raises_by_itself_is_told():
    with pytest.raises(UnsupportedError, match="raised TypeError: 'num_classes' is not the matter"):
        classes_of("typed", 3)
    with pytest.raises(UnsupportedError, match=r"raised TypeError: .*positional"):
        classes_of("positions", 3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("factories_of_ours.py:plain", "name it by its module: `factories_of_ours:plain`"),
        ("./factories_of_ours.py:plain", "name it by its module: `factories_of_ours:plain`"),
        ("folder/inside.py:plain", "name it by its module: `folder.inside:plain`"),
        ("folder/inside:plain", "name it by its module: `folder.inside:plain`"),
        ("/some/folder/net.py:plain", "in the folder of the file: `cd /some/folder`, then `net:plain`"),
        ("../net.py:plain", "in the folder of the file: `cd ..`, then `net:plain`"),
        ("nowhere:plain", "it is looked for in the current folder"),
    ],
)
def test_a_factory_that_was_named_by_its_file(name, hint):
    with pytest.raises(UsageError) as failure:
        build_model(name, 3)
    assert hint in failure.value.hint


def test_a_network_that_is_part_of_itself_is_refused_and_shared_modules_are_not():
    with pytest.raises(UnsupportedError, match=r"a module holds one that it is part of, as `0\.parent`"):
        build_model("factories_of_ours:circle", 10)
    assert len(build_model("factories_of_ours:twice", 10)) == 6
