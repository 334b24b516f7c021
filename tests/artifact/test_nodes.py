"""Each kind of node says what is known of it; one that forgets a piece is no class at all."""

from typing import Literal, get_args

import pytest
from pydantic import ValidationError

from asqcli.artifact import nodes
from asqcli.artifact.nodes.base import Node, WithoutTensors, Work
from asqcli.artifact.nodes.elementwise import Elementwise

PIECES = {
    "tensors": lambda *_: (),
    "problem": lambda *_: None,
    "output_shape": lambda *_: (1,),
    "work": lambda *_: Work(),
}
TAG = {"op": "new", "__annotations__": {"op": Literal["new"]}}


@pytest.mark.parametrize("forgotten", PIECES)
def test_a_kind_that_forgets_a_piece_fails_where_it_is_written(forgotten):
    pieces = {name: piece for name, piece in PIECES.items() if name != forgotten}
    with pytest.raises(TypeError, match=f"the kind of node New does not say its {forgotten}"):
        type("New", (Node,), {"__module__": __name__, **TAG, **pieces})


def test_a_kind_without_a_tag_fails_where_it_is_written():
    with pytest.raises(TypeError, match="does not say its op"):

        class New(WithoutTensors, Elementwise, Node):
            strength: int


def test_a_table_without_a_kind_fails():
    table = dict.fromkeys(nodes.KINDS, 0)
    assert nodes.for_every_kind(table) is table
    del table[nodes.Pad], table[nodes.Gate]
    with pytest.raises(TypeError, match="lacks the kind of node Gate, Pad"):
        nodes.for_every_kind(table)


def test_tags_are_defaults_and_each_stands_for_one_kind():
    tags = [get_args(kind.model_fields["op"].annotation) for kind in nodes.KINDS]
    assert len({tag for of_kind in tags for tag in of_kind}) == sum(map(len, tags))
    for kind, of_kind in zip(nodes.KINDS, tags, strict=True):
        assert kind is nodes.Gate or (kind.model_fields["op"].default,) == of_kind
    with pytest.raises(ValidationError):
        nodes.Gate(name="", inputs=(0,))


def node(kind, *, inputs=(0,), **settings):
    return kind(name="", inputs=inputs, **settings)


POOL = {"kernel_size": (3, 3), "stride": (2, 1)}
MOVED = {
    "max pool": (node(nodes.MaxPool, **POOL, padding=(1, 0, 0, 0), dilation=(1, 2)), [(8, 6, 9)], (8, 3, 5)),
    "average pool": (node(nodes.AvgPool, **POOL, padding=(1, 0), count_include_pad=True), [(8, 6, 9)], (8, 3, 7)),
    "adaptive pool": (node(nodes.AdaptiveAvgPool, output_size=(2, 3)), [(8, 6, 9)], (8, 2, 3)),
    "gate": (node(nodes.Mul, inputs=(0, 1)), [(8, 6, 9), (8, 1, 1)], (8, 6, 9)),
    "reshape": (node(nodes.Reshape, shape=(2, 4, 6)), [(8, 6)], (2, 4, 6)),
    "transpose": (node(nodes.Transpose, axes=(0, 2)), [(8, 6, 9)], (9, 6, 8)),
    "concat": (node(nodes.Concat, inputs=(0, 1), axis=1), [(8, 6), (8, 3)], (8, 9)),
    "slice": (node(nodes.Slice, axis=1, start=1, stop=6, step=2), [(8, 6)], (8, 3)),
    "pad": (node(nodes.Pad, before=(0, 1), after=(2, 0)), [(8, 6)], (10, 7)),
}
REFUSED = {
    "image too small": (node(nodes.MaxPool, **POOL, padding=(0,) * 4, dilation=(1, 2)), [(8, 6, 4)], "the window is"),
    "no image": (node(nodes.AdaptiveAvgPool, output_size=(1, 1)), [(8,)], "it needs (channels, height, width)"),
    "batch norm": (node(nodes.BatchNorm, g="g", b="b"), [(8, 6)], "it needs (channels, height, width) or"),
    "add": (node(nodes.Add, inputs=(0, 1)), [(8, 6, 9), (8, 1, 1)], "the shapes differ"),
    "mul": (node(nodes.Mul, inputs=(0, 1)), [(8, 1, 1), (8, 6, 9)], "the second factor is neither"),
    "reshape": (node(nodes.Reshape, shape=(7,)), [(8,)], "new shape (7,)"),
    "transpose": (node(nodes.Transpose, axes=(0, 2)), [(8, 6)], "axes (0, 2)"),
    "concat": (node(nodes.Concat, inputs=(0, 1), axis=1), [(8, 6), (7, 6)], "axis 1"),
    "concat of ranks": (node(nodes.Concat, inputs=(0, 1), axis=0), [(8, 6), (8,)], "axis 0"),
    "slice": (node(nodes.Slice, axis=0, start=2, stop=2, step=1), [(8,)], "2 to 2 along axis 0"),
    "slice beyond": (node(nodes.Slice, axis=0, start=2, stop=9, step=1), [(8,)], "2 to 9 along axis 0"),
    "pad": (node(nodes.Pad, before=(0,), after=(2, 0)), [(8, 6)], "1 and 2 borders"),
}  # fmt: skip


@pytest.mark.parametrize("chosen", MOVED)
def test_shapes(chosen):
    of_kind, inputs, output = MOVED[chosen]
    assert of_kind.problem(inputs) is None and of_kind.output_shape(inputs) == output
    assert of_kind.work(inputs, output).elementwise > 0 and not list(of_kind.tensors(inputs))


@pytest.mark.parametrize("chosen", REFUSED)
def test_inputs_that_do_not_fit(chosen):
    of_kind, inputs, text = REFUSED[chosen]
    assert of_kind.problem(inputs).startswith(text)
