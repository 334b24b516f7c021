"""Artifacts made wrong by a seed, at four levels: bytes, the safetensors header, the document, the tensors' content.

The edits know the format, so that a good share passes each check and reaches the next.
"""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

METADATA = "__metadata__"
DTYPES = ("F32", "I8", "U8", "F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "I16", "U16", "I64", "U64",
          "BOOL", "C64", "f32", "", 3)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, -1e-20, 1e20, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan)
INTEGERS = (0, 1, 2, 3, 4, 7, 8, 16, 31, 64, 255, 256, 1000, 4096, 4097, 2**16, 2**24, 2**24 + 1, 2**31, 2**32, 2**63,
            2**64, 10**30, -1, -2, -255, -256, -(2**31), -(2**63))  # fmt: skip
STRANGE = (None, True, False, "", "1", "conv", [], [0], [1, 1], {}, {"op": "conv"}, 0.5, 1.0, 1e308, math.nan, math.inf)
LABELS = ("", "[/]", "[red", "\x1b[2J", "\0", "a\nb", "\u202e", "\ud800", "é" * 4096, "x" * 4097, "{0}", "%s")
OPERATIONS = ("conv", "linear", "batch_norm", "clamp", "sigmoid", "silu", "hardsigmoid", "hardswish", "add", "mul",
              "max_pool", "avg_pool", "adaptive_avg_pool", "reshape", "transpose", "concat", "slice", "pad", "exec",
              "__class__")  # fmt: skip
GATES = ("sigmoid", "silu", "hardsigmoid", "hardswish")
SIDES = (1, 1, 2, 3, 4, 5, 7, 8, 16, 33, 64, 100, 256, 512, 1000, 2048, 4096)


@dataclass
class Parts:
    """A file taken apart.

    Attributes:
        header: entries of the tensors, without the metadata.
        metadata: what stands beside the document; `document` is put in under its key.
        data: the tensors' bytes.
        texts: edits of the document's text, and of the header's, which no JSON writer would make.
    """

    header: dict
    document: dict
    data: bytearray
    metadata: dict = field(default_factory=dict)
    document_texts: list[Callable[[str], str]] = field(default_factory=list)
    header_texts: list[Callable[[str], str]] = field(default_factory=list)

    @classmethod
    def of(cls, content: bytes) -> Parts:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        document = json.loads(header.pop(METADATA)["asq"])
        return cls(header, document, bytearray(content[8 + length :]))

    def join(self) -> bytes:
        text = json.dumps(self.document)
        for edit in self.document_texts:
            text = edit(text)
        header = json.dumps({METADATA: {"asq": text} | self.metadata} | self.header)
        for edit in self.header_texts:
            header = edit(header)
        encoded = header.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(encoded)) + encoded + self.data

    def tensor(self, name: str) -> memoryview:
        """Return the bytes of a tensor, to be changed in place."""
        return memoryview(self.data)[slice(*self.header[name]["data_offsets"])]


def mutate(content: bytes, seed: int) -> tuple[bytes, str]:
    """Return a mutant of a file and the names of its edits; the same for the same seed."""
    rng = random.Random(seed)
    if rng.random() < 0.15:
        edit = rng.choice(BYTE_EDITS)
        return edit(bytearray(content), rng), edit.__name__
    parts, names = Parts.of(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        edits = rng.choices((HEADER_EDITS, DOCUMENT_EDITS, GRAPH_EDITS, TENSOR_EDITS), (2, 3, 4, 3))[0]
        edit = rng.choice(edits)
        try:
            edit(parts, rng)
            names.append(edit.__name__)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            names.append(f"({edit.__name__})")  # an earlier edit left nothing for this one
    return parts.join(), " ".join(names)


# Bytes


def flip_bits(content: bytearray, rng) -> bytes:
    end = rng.choice((8, 64, 4096, len(content), len(content)))
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        content[rng.randrange(min(end, len(content)))] ^= 1 << rng.randrange(8)
    return bytes(content)


def truncate(content: bytearray, rng) -> bytes:
    return bytes(content[: rng.choice((0, 1, 7, 8, 9, rng.randrange(len(content)), len(content) - 1))])


def insert_bytes(content: bytearray, rng) -> bytes:
    at = rng.choice((0, 8, rng.randrange(len(content)), len(content)))
    content[at:at] = rng.randbytes(rng.choice((1, 4, 8, 1000)))
    return bytes(content)


def drop_bytes(content: bytearray, rng) -> bytes:
    at = rng.randrange(len(content))
    del content[at : at + rng.choice((1, 4, 1000))]
    return bytes(content)


def set_header_length(content: bytearray, rng) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    other = rng.choice((0, 1, length - 1, length + 1, len(content), 10**8, 2**31, 2**32 + length, 2**63, 2**64 - 1))
    return struct.pack("<Q", other) + bytes(content[8:])


def set_bytes(content: bytearray, rng) -> bytes:
    at, size = rng.randrange(len(content)), rng.choice((1, 8, 100))
    content[at : at + size] = bytes([rng.choice((0, 0xFF, 0x7F, 0x80, 0x22, 0x5B))]) * size
    return bytes(content)


# The safetensors header


def any_tensor(parts: Parts, rng) -> dict:
    return parts.header[rng.choice(sorted(parts.header))]


def set_dtype(parts: Parts, rng) -> None:
    any_tensor(parts, rng)["dtype"] = rng.choice(DTYPES)


def swap_dtype(parts: Parts, rng) -> None:
    """As many bytes, read as something else."""
    entry = any_tensor(parts, rng)
    first, end = entry["data_offsets"]
    dtype, size = rng.choice((("I8", 1), ("U8", 1), ("BOOL", 1), ("F8_E5M2", 1), ("BF16", 2), ("F16", 2), ("I32", 4)))
    entry |= {"dtype": dtype, "shape": [(end - first) // size]}


def set_shape(parts: Parts, rng) -> None:
    shape = any_tensor(parts, rng)["shape"]
    shape[rng.randrange(len(shape))] = rng.choice(INTEGERS + STRANGE)


def regroup_shape(parts: Parts, rng) -> None:
    """The same numbers in another shape."""
    entry = any_tensor(parts, rng)
    count = math.prod(entry["shape"])
    shapes = ([count, 1], [1, count], [1] * 20 + [count], [1] * 70 + [count], entry["shape"][::-1], [2, count // 2])
    entry["shape"] = rng.choice(shapes)


def set_offsets(parts: Parts, rng) -> None:
    offsets = any_tensor(parts, rng)["data_offsets"]
    at = rng.randrange(2)
    offsets[at] = rng.choice((offsets[at] + rng.choice((-4, -1, 1, 4)), offsets[1 - at], *INTEGERS, *STRANGE))


def swap_places(parts: Parts, rng) -> None:
    first, second = any_tensor(parts, rng), any_tensor(parts, rng)
    key = rng.choice(("data_offsets", "dtype", "shape"))
    first[key], second[key] = second[key], first[key]


def drop_tensor(parts: Parts, rng) -> None:
    del parts.header[rng.choice(sorted(parts.header))]


def rename_tensor(parts: Parts, rng) -> None:
    name = rng.choice(sorted(parts.header))
    parts.header[rng.choice((*LABELS, name + "x", METADATA))] = parts.header.pop(name)


def append_tensor(parts: Parts, rng) -> None:
    size, end = rng.choice((0, 4, 400)), len(parts.data)
    shape = [size // 4] if size else rng.choice(([0], [0, 2**40], [2**63, 0], [0] * 70))
    parts.header["extra"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
    parts.data += bytes(size)


def empty_tensor(parts: Parts, rng) -> None:
    """A tensor of no numbers, and the rest moved up."""
    name = rng.choice(sorted(parts.header))
    first, end = parts.header[name]["data_offsets"]
    del parts.data[first:end]
    for entry in parts.header.values():
        entry["data_offsets"] = [o - (end - first) if o >= end else o for o in entry["data_offsets"]]
    parts.header[name] |= {"shape": [0], "data_offsets": [first, first]}


def set_metadata(parts: Parts, rng) -> None:
    parts.metadata = rng.choice(({"format": "pt"}, {"asq": 3}, {"asq": ""}, {"asq": None}, {"asq": "[" * 10**5}))


def repeat_key(parts: Parts, rng) -> None:
    name = json.dumps(rng.choice(sorted(parts.header)))
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    parts.header_texts.append(lambda text: f"{text[:-1]}, {name}: {entry}}}")


def break_header(parts: Parts, rng) -> None:
    edits = (lambda t: t[:-1], lambda t: t + " " * 1000, lambda t: t + "}", lambda t: " " + t, lambda t: "[" * 10**5)
    parts.header_texts.append(rng.choice(edits))


# The document: any field to anything


def any_place(content, rng) -> tuple:
    """Return (list or object, key) of a place in nested ones."""
    while True:
        key = rng.choice(sorted(content) if isinstance(content, dict) else range(len(content)))
        inside = content[key]
        if not isinstance(inside, dict | list) or not inside or rng.random() < 0.1:
            return content, key
        content = inside


def any_node(parts: Parts, rng, *operations: str) -> dict:
    return rng.choice([n for n in parts.document["nodes"] if not operations or n["op"] in operations])


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


# The graph: edits that may well be right, and cost


def insert_node(parts: Parts, value: int, node: dict) -> None:
    """Put a node behind a value; what read the value reads the new one."""
    for other in parts.document["nodes"][value:]:
        other["inputs"] = [i + (i >= value) for i in other["inputs"]]
    parts.document["nodes"].insert(value, {"name": "", "inputs": [value]} | node)


def any_value(parts: Parts, rng) -> int:
    return rng.randrange(len(parts.document["nodes"]))


def new_node(parts: Parts, rng) -> dict:
    side, other, axis = rng.choice(SIDES), rng.choice(SIDES), rng.randrange(4)
    kernel = [side, rng.choice((side, other))]
    return rng.choice((
        {"op": rng.choice(GATES)},
        {"op": "clamp", "low": rng.choice((None, *FLOATS)), "high": rng.choice((None, *FLOATS))},
        {"op": "max_pool", "kernel_size": kernel, "stride": [rng.choice((1, side)), 1],
         "padding": [rng.choice((0, side // 2, side)) for _ in range(4)], "dilation": [rng.choice((1, 2, 4096)), 1]},
        {"op": "avg_pool", "kernel_size": kernel, "stride": [1, rng.choice((1, other))],
         "padding": [side // 2, side // 2], "count_include_pad": rng.random() < 0.5},
        {"op": "adaptive_avg_pool", "output_size": kernel},
        {"op": "pad", "before": [rng.choice((0, 0, 1, side)) for _ in range(3)],
         "after": [rng.choice((0, 0, 1, other)) for _ in range(3)]},
        {"op": "slice", "axis": axis, "start": rng.choice((0, 0, 1, other)), "stop": side, "step": rng.choice(SIDES)},
        {"op": "transpose", "axes": [rng.choice((axis, 2)), axis]},
        {"op": "reshape", "shape": [rng.choice((1, side)) for _ in range(rng.randrange(1, 8))]},
        {"op": "concat", "axis": axis, "inputs": [0] * rng.choice((1, 2, 16, 256, 257))},
        {"op": rng.choice(("add", "mul")), "inputs": [0, 0]},
    ))  # fmt: skip


def add_node(parts: Parts, rng) -> None:
    value, node = any_value(parts, rng), new_node(parts, rng)
    insert_node(parts, value, node | ({"inputs": [value] * len(node["inputs"])} if "inputs" in node else {}))


def add_detour(parts: Parts, rng) -> None:
    """Up to many pixels, some work there, and back: shapes behind it stay."""
    value = rng.choice((0, 0, any_value(parts, rng)))
    size, side = (
        parts.document["input"]["image_size"],
        rng.choice((64, 200, 512, 1000, 1180, 2048, 2364) if value == 0 else (64, 200, 700)),
    )
    insert_node(parts, value, {"op": "adaptive_avg_pool", "output_size": [side, side]})
    for step in range(rng.choice((0, 1, 1, 2, 50))):
        pool = {"kernel_size": [3, 3], "stride": [1, 1]}
        node = rng.choice((
            {"op": rng.choice(GATES)},
            {"op": "avg_pool", "padding": [1, 1], "count_include_pad": False} | pool,
            {"op": "max_pool", "padding": [1] * 4, "dilation": [1, 1]} | pool,
            {"op": "transpose", "axes": [1, 2]},
            {"op": "add", "inputs": [value + 1 + step] * 2},
        ))  # fmt: skip
        insert_node(parts, value + 1 + step, {"inputs": [value + 1 + step]} | node)
    insert_node(parts, value + 1, {"op": "adaptive_avg_pool", "output_size": [size, size]})


def add_many_nodes(parts: Parts, rng) -> None:
    value, count = any_value(parts, rng), rng.choice((10, 1000, 8000, 9000))
    node = {"name": "", "op": rng.choice(GATES)}
    for other in parts.document["nodes"][value:]:
        other["inputs"] = [i + count * (i >= value) for i in other["inputs"]]
    parts.document["nodes"][value:value] = [node | {"inputs": [value + n]} for n in range(count)]


def repeat_layer(parts: Parts, rng) -> None:
    """A layer that keeps its shape, many times over, on the same tensors."""
    nodes = parts.document["nodes"]
    keeps = [n["op"] in ("batch_norm", "clamp", *GATES) or (n["op"] == "conv" and _is_square(n)) for n in nodes]
    place = rng.choice([place for place, kept in enumerate(keeps) if kept])
    for step in range(rng.choice((1, 10, 300))):
        insert_node(parts, place + 1 + step, {**copy.deepcopy(nodes[place]), "inputs": [place + 1 + step]})


def _is_square(conv: dict) -> bool:
    outputs, per_group, *_ = conv["weights"]["shape"]
    return outputs == per_group * conv["groups"]


def set_input(parts: Parts, rng) -> None:
    settings = parts.document["input"]
    key = rng.choice(("image_size", "image_size", "resize", "mean", "std"))
    if key in ("mean", "std"):
        settings[key] = [rng.choice((*FLOATS[2:10], 0.5, 1e-6, 1e6)) for _ in range(rng.choice((3, 3, 3, 2, 4)))]
    else:
        settings[key] = rng.choice((*SIDES, 2364, 5000, settings[key] - 1))


def set_geometry(parts: Parts, rng) -> None:
    node = any_node(parts, rng, "conv", "max_pool", "avg_pool", "adaptive_avg_pool", "pad", "slice")
    keys = [k for k, v in node.items() if isinstance(v, list) and k != "inputs"] + ["groups", "step", "start", "stop"]
    key = rng.choice([k for k in keys if k in node])
    if isinstance(node[key], list):
        node[key][rng.randrange(len(node[key]))] = rng.choice(SIDES)
    else:
        node[key] = rng.choice(SIDES)


def set_weights_shape(parts: Parts, rng) -> None:
    weights = any_node(parts, rng, "conv", "linear")["weights"]
    shape = weights["shape"]
    match rng.randrange(4):
        case 0:
            weights["code_bits"] = rng.choice((0, 1, 2, 8, 9))
        case 1:
            shape[rng.randrange(len(shape))] = rng.choice(INTEGERS)
        case 2:
            rng.shuffle(shape)
        case _:
            weights["shape"] = rng.choice((shape[:2], [math.prod(shape), 1], [*shape, 1], [2**24] * 4, []))


def set_bounds(parts: Parts, rng) -> None:
    activations = any_node(parts, rng, "conv", "linear")["activations"]
    activations |= {"qmin": rng.choice((0, -1, -128, -255)), "qmax": rng.choice((0, 1, 15, 127, 255))}


def set_adapter(parts: Parts, rng) -> None:
    activations = rng.choice([n["activations"] for n in parts.document["nodes"] if n.get("activations")])
    other = any_node(parts, rng, "conv", "linear")["activations"]["adapter"]
    match rng.randrange(4):
        case 0:
            activations["adapter"] = copy.deepcopy(other)
        case 1:
            activations["adapter"]["layers"] = activations["adapter"]["layers"][: rng.randrange(2)]
        case 2:
            rng.choice(activations["adapter"]["layers"])["outputs"] = rng.choice(INTEGERS)
        case _:
            activations["adapter"]["output"] = rng.choice(("relu", "reciprocal", "exp"))


def widen_adapter(parts: Parts, rng) -> None:
    """A last layer of several rows, with tensors to match."""
    node = any_node(parts, rng, "conv", "linear")
    layer = node["activations"]["adapter"]["layers"][-1]
    inputs, rows = parts.header[layer["weight"]]["shape"][1], rng.choice((2, node["weights"]["shape"][0]))
    layer["outputs"] = rows
    tensors = (("weight", "I8", [rows, inputs], 1), ("row_scale", "F32", [rows], 4), ("bias", "F32", [rows], 4))
    for key, dtype, shape, size in tensors:
        resize_tensor(parts, layer[key], dtype, shape, size)


def resize_tensor(parts: Parts, name: str, dtype: str, shape: list[int], size: int) -> None:
    """Make a tensor anew, of zeros; what stood there goes."""
    if name in parts.header:
        first, end = parts.header[name]["data_offsets"]
        del parts.data[first:end]
        for entry in parts.header.values():
            entry["data_offsets"] = [o - (end - first) if o >= end else o for o in entry["data_offsets"]]
    first, count = len(parts.data), math.prod(shape) * size
    parts.header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, first + count]}
    parts.data += bytes(count)


def add_layers(parts: Parts, rng) -> None:
    """Convolutions of the image with many weights, channels or groups, and back to its shape."""
    size, channels = parts.document["input"]["image_size"], rng.choice((2, 16, 512, 4096, 2**16, 2**20))
    per_group = rng.choice((1, 1, 2, channels))
    kernel = [rng.choice((1, 3, size, 64)), rng.choice((1, 3, size))]
    shapes = [[channels, 3, *rng.choice(([1, 1], kernel))], [channels, per_group, *rng.choice(([1, 1], kernel))]]
    if max(map(math.prod, shapes)) > 2**24:
        return
    side = rng.choice((1, 16, 64, 256, 1024))
    insert_node(parts, 0, {"op": "adaptive_avg_pool", "output_size": [side, side]})
    for place, shape in enumerate(shapes):
        names = {key: f"new.{place}.{key}" for key in ("codes", "levels", "scale", "step_size")}
        resize_tensor(parts, names["codes"], "U8", [-(-math.prod(shape) // 8)], 1)
        resize_tensor(parts, names["levels"], "I8", [2], 1)
        resize_tensor(parts, names["scale"], "F32", [1], 4)
        resize_tensor(parts, names["step_size"], "F32", [1], 4)
        parts.tensor(names["levels"])[:] = bytes(rng.choice(((1, 255), (127, 128), (0, 0))))
        parts.tensor(names["step_size"])[:] = struct.pack("<f", 0.1)
        weights = {"shape": shape, "code_bits": 1, "scale_per": "tensor", "bias": None}
        weights |= {key: names[key] for key in ("codes", "levels", "scale")}
        activations = {"qmin": 0, "qmax": rng.choice((1, 255)), "step_size": names["step_size"]}
        activations |= {"dequantize_by": "step_size", "adapter": None}
        insert_node(parts, 1 + place, {
            "op": "conv", "weights": weights, "activations": activations, "stride": [1, 1],
            "padding": [rng.choice((0, shape[2] // 2)), 0, 0, shape[3]], "dilation": [1, 1],
            "groups": 3 // shape[1] if place == 0 else channels // per_group,
        })  # fmt: skip
    insert_node(parts, 3, {"op": "adaptive_avg_pool", "output_size": [size, size]})
    concat = {"op": "concat", "axis": 0, "inputs": [4, 4]}
    if channels < 3:
        insert_node(parts, 4, concat)
    insert_node(parts, 4 + (channels < 3), {"op": "slice", "axis": 0, "start": 0, "stop": 3, "step": 1})


def set_operation(parts: Parts, rng) -> None:
    any_node(parts, rng)["op"] = rng.choice(OPERATIONS)


def set_inputs(parts: Parts, rng) -> None:
    node = any_node(parts, rng)
    count = len(parts.document["nodes"])
    others = (rng.randrange(count), count, count + 1, node["inputs"][0] + 1, 0, -1, 2**63)
    node["inputs"][rng.randrange(len(node["inputs"]))] = rng.choice(others)


def drop_node(parts: Parts, rng) -> None:
    """A node is skipped: what read it reads its input."""
    value = any_value(parts, rng) + 1
    node = parts.document["nodes"].pop(value - 1)
    for other in parts.document["nodes"][value - 1 :]:
        other["inputs"] = [node["inputs"][0] if i == value else i - (i > value) for i in other["inputs"]]


def swap_nodes(parts: Parts, rng) -> None:
    nodes = parts.document["nodes"]
    first, second = any_value(parts, rng), any_value(parts, rng)
    nodes[first], nodes[second] = nodes[second], nodes[first]


def copy_node(parts: Parts, rng) -> None:
    parts.document["nodes"].insert(any_value(parts, rng), copy.deepcopy(any_node(parts, rng)))


# What the tensors hold


def fill_tensor(parts: Parts, rng) -> None:
    name = rng.choice(sorted(parts.header))
    content = parts.tensor(name)
    floats = parts.header[name]["dtype"] == "F32"
    unit = struct.pack("<f", rng.choice(FLOATS)) if floats else bytes([rng.choice((0, 1, 127, 128, 255))])
    content[:] = unit * (len(content) // len(unit))


def set_number(parts: Parts, rng) -> None:
    names = [name for name, entry in parts.header.items() if entry["dtype"] == "F32"]
    name = rng.choice([n for n in sorted(names) if rng.random() < 0.3 or "step_size" in n or "adapter" in n])
    content = parts.tensor(name)
    at = 4 * rng.randrange(len(content) // 4)
    content[at : at + 4] = struct.pack("<f", rng.choice(FLOATS))


def scale_tensors(parts: Parts, rng) -> None:
    """Every float of one kind, times a large or small number."""
    ending = rng.choice((".step_size", ".scale", ".g", ".b", ".bias", ".row_scale", "levels.0"))
    factor = rng.choice((1e-30, 1e-10, 1e10, 1e30, -1.0, 0.0))
    for name, entry in parts.header.items():
        if name.endswith(ending) and entry["dtype"] == "F32":
            content = parts.tensor(name)
            numbers = struct.unpack(f"<{len(content) // 4}f", content)
            content[:] = struct.pack(f"<{len(numbers)}f", *(max(-3e38, min(3e38, n * factor)) for n in numbers))


def randomize_tensor(parts: Parts, rng) -> None:
    content = parts.tensor(rng.choice(sorted(parts.header)))
    content[:] = rng.randbytes(len(content))


def randomize_integers(parts: Parts, rng) -> None:
    """Codes, level tables or the adapters' weights."""
    name = rng.choice([n for n, entry in sorted(parts.header.items()) if entry["dtype"] != "F32"])
    content = parts.tensor(name)
    content[:] = rng.randbytes(len(content))


BYTE_EDITS = (flip_bits, flip_bits, flip_bits, truncate, insert_bytes, drop_bytes, set_header_length, set_bytes)
HEADER_EDITS = (set_dtype, swap_dtype, set_shape, regroup_shape, set_offsets, swap_places, drop_tensor, rename_tensor,
                append_tensor, empty_tensor, set_metadata, repeat_key, break_header)  # fmt: skip
DOCUMENT_EDITS = (set_field, set_field, set_field, set_field, drop_field, add_field, name_another_tensor, nest,
                  break_document, set_version, set_classes)  # fmt: skip
GRAPH_EDITS = (add_node, add_node, add_node, add_detour, add_detour, add_many_nodes, repeat_layer, repeat_layer,
               add_layers, add_layers, set_input, set_geometry, set_weights_shape, set_bounds, set_adapter,
               widen_adapter, set_operation, set_inputs, drop_node, swap_nodes, copy_node)  # fmt: skip
TENSOR_EDITS = (fill_tensor, set_number, set_number, scale_tensors, randomize_tensor, randomize_integers)
