"""Edits of the document: any field to anything, and its text."""

from __future__ import annotations

import copy

from parts import FLOATS, INTEGERS, LABELS, STRANGE, Parts, any_node


def any_place(content, rng) -> tuple:
    """Return (list or object, key) of a place in nested ones."""
    while True:
        key = rng.choice(sorted(content) if isinstance(content, dict) else range(len(content)))
        inside = content[key]
        if not isinstance(inside, dict | list) or not inside or rng.random() < 0.1:
            return content, key
        content = inside


def set_field(parts: Parts, rng) -> None:
    content, key = any_place(rng.choice((parts.document, any_node(parts, rng))), rng)
    before = content[key]
    near = [before + d for d in (-1, 1)] + [-before, before * 2] if isinstance(before, int | float) else []
    content[key] = rng.choice((*near, *rng.choice((INTEGERS, STRANGE, LABELS, FLOATS))))


def drop_field(parts: Parts, rng) -> None:
    content, key = any_place(parts.document, rng)
    del content[key]


def add_field(parts: Parts, rng) -> None:
    content, _ = any_place(parts.document, rng)
    if isinstance(content, dict):
        content[rng.choice(("extra", "op", "__proto__", "stride", "name"))] = rng.choice(STRANGE)
    else:
        content.append(copy.deepcopy(rng.choice(content)))


def name_another_tensor(parts: Parts, rng) -> None:
    places = [
        (part, key)
        for node in parts.document["nodes"]
        for part in (node, node.get("weights") or {}, node.get("activations") or {})
        for key in ("codes", "levels", "scale", "bias", "step_size", "g", "b")
        if part.get(key) is not None
    ]
    part, key = rng.choice(places)
    part[key] = rng.choice(sorted(parts.header))


def nest(parts: Parts, rng) -> None:
    depth = rng.choice((50, 150, 250, 900, 5000, 100_000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    place = rng.choice(('"classes": [', '"nodes": [', '"format": ', '"seed": '))
    parts.document_texts.append(lambda text: text.replace(place, place + opening * depth + "1" + closing * depth, 1))


def break_document(parts: Parts, rng) -> None:
    literal = rng.choice(("NaN", "-Infinity", "1e999", "9" * 5000, "0x10", "01", '"\\ud800"', "nul", "1e", "-0"))
    edits = (
        lambda text: text[:-1],
        lambda text: text + "x",
        lambda text: text.replace("1", literal, 1),
        lambda text: text.replace("0.0", literal, 1),
        lambda text: text.replace("{", '{"format": 1, "format": 1, ', 1),
        lambda text: text.replace('"format": 1', f'"format": {literal}', 1),
        lambda text: rng.choice(("", "null", "[]", "{}", "1", '"asq"', literal, "[" + "0," * 10**6 + "0]")),
    )
    parts.document_texts.append(rng.choice(edits))


def set_version(parts: Parts, rng) -> None:
    parts.document["format"] = rng.choice((0, 2, 99, -1, 1.0, True, "1", None, [1], 10**400, "v" * 10**6, 1.5))


def set_classes(parts: Parts, rng) -> None:
    classes = parts.document["classes"]
    edit = rng.randrange(5)
    if edit == 0:
        classes.pop()
    elif edit == 1:
        classes += ["more"] * rng.choice((1, 10**5, 2**17))
    elif edit == 2:
        parts.document["classes"] = rng.choice(([], {}, "abc", [None] * 10**5, [[]] * len(classes)))
    else:
        parts.document["classes"] = [rng.choice(LABELS)] * len(classes)


DOCUMENT_EDITS = (set_field, set_field, set_field, set_field, drop_field, add_field, name_another_tensor, nest,
                  break_document, set_version, set_classes)  # fmt: skip
