"""Edits of the graph: many of them may well be right, and cost."""

from __future__ import annotations

import copy
import math
import struct

from parts import FLOATS, INTEGERS, Parts, any_node

OPERATIONS = ("conv", "linear", "batch_norm", "clamp", "sigmoid", "silu", "hardsigmoid", "hardswish", "gelu",
              "gelu_tanh", "leaky_relu", "prelu", "div", "add", "mul", "max_pool", "avg_pool", "adaptive_avg_pool",
              "reshape", "transpose", "concat", "slice", "pad", "exec", "__class__")  # fmt: skip
GATES = ("sigmoid", "silu", "hardsigmoid", "hardswish", "gelu", "gelu_tanh")
SIDES = (1, 1, 2, 3, 4, 5, 7, 8, 16, 33, 64, 100, 256, 512, 1000, 2048, 4096)


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
        {"op": "leaky_relu", "negative_slope": rng.choice((None, *FLOATS))},
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
        parts.resize(layer[key], dtype, shape, size)


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
        parts.resize(names["codes"], "U8", [-(-math.prod(shape) // 8)], 1)
        parts.resize(names["levels"], "I8", [2], 1)
        parts.resize(names["scale"], "F32", [1], 4)
        parts.resize(names["step_size"], "F32", [1], 4)
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


GRAPH_EDITS = (add_node, add_node, add_node, add_detour, add_detour, add_many_nodes, repeat_layer, repeat_layer,
               add_layers, add_layers, set_input, set_geometry, set_weights_shape, set_bounds, set_adapter,
               widen_adapter, set_operation, set_inputs, drop_node, swap_nodes, copy_node)  # fmt: skip
