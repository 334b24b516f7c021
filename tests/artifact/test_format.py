"""FORMAT.md is enough: a reader of nothing but its text, in plain Python, gives the engine's logits to the bit."""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from asqcli.api import quantize_module
from asqcli.artifact import Artifact, document, nodes, read_artifact, write_artifact
from asqcli.artifact.file import part_bytes
from asqcli.artifact.shapes import LARGEST_COST, LARGEST_LIVE, LARGEST_VALUE
from asqcli.engine import Session
from asqcli.errors import InputError
from asqcli.export.network import export_network

FORMAT = (Path(document.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
f32 = np.float32


class Reader:
    """Section by section; the pixels of a value are a dict from (channel, row, column)."""

    def __init__(self, content: bytes) -> None:
        length = struct.unpack("<Q", content[:8])[0]
        self.header, self.data = json.loads(content[8 : 8 + length]), content[8 + length :]
        self.document = json.loads(self.header["__metadata__"]["asq"])

    def tensor(self, name):
        entry = self.header[name]
        first, end = entry["data_offsets"]
        letter = {"F32": "f", "I8": "b", "U8": "B"}[entry["dtype"]]
        size = struct.calcsize(letter)
        return [v[0] for v in struct.iter_unpack("<" + letter, self.data[first:end])] if size else []

    def weights(self, weights):
        number, bits = int.from_bytes(bytes(self.tensor(weights["codes"])), "little"), weights["code_bits"]
        levels = self.tensor(weights["levels"])
        count = math.prod(weights["shape"])
        return [levels[number >> (bits * k) & (2**bits - 1)] for k in range(count)]

    def beta(self, adapter, means):
        h = means
        for place, layer in enumerate(adapter["layers"]):
            if place:
                h = [max(v, 0.0) for v in h]
            weight, bias, scale = (self.tensor(layer[key]) for key in ("weight", "bias", "row_scale"))
            rows = []
            for o in range(layer["outputs"]):
                lane = [0.0] * 8
                for i, v in enumerate(h):
                    lane[i % 8] = lane[i % 8] + v * weight[o * len(h) + i]
                lane = [lane[j] + lane[j + 4] for j in range(4)]
                lane = [lane[j] + lane[j + 2] for j in range(2)]
                rows.append((lane[0] + lane[1]) * scale[o] + bias[o])
            h = rows
        return f32(1 + h[0] if h[0] >= 0 else 1 / (1 - h[0]))

    def product(self, node, x, shape):
        activations, weights = node["activations"], node["weights"]
        linear = node["op"] == "linear"
        _, height, width = (*shape, 1, 1) if linear else shape
        step = f32(self.tensor(activations["step_size"])[0])
        if activations["adapter"] is not None:
            means = [float(v) for v in (x.values() if linear else self.average(x, shape).values())]
            step = step * self.beta(activations["adapter"], means)
        reciprocal = f32(1) / step
        code = {
            k: int(min(max(np.rint(v * reciprocal), activations["qmin"]), activations["qmax"])) for k, v in x.items()
        }
        w, scale = self.weights(weights), [f32(s) for s in self.tensor(weights["scale"])]
        bias = None if weights["bias"] is None else self.tensor(weights["bias"])
        outputs, per_group, kernel_h, kernel_w = (*weights["shape"], 1, 1)[:4]
        geometry = {"stride": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1} | (
            {} if linear else {k: node[k] for k in ("stride", "padding", "dilation", "groups")}
        )
        (sy, sx), (top, left, bottom, right) = geometry["stride"], geometry["padding"]
        (dy, dx), groups = geometry["dilation"], geometry["groups"]
        rows, columns = (
            (height + top + bottom - dy * (kernel_h - 1) - 1) // sy + 1,
            (width + left + right - dx * (kernel_w - 1) - 1) // sx + 1,
        )
        out = {}
        for o in range(outputs):
            first = o // (outputs // groups) * per_group
            for y in range(rows):
                for c in range(columns):
                    acc = 0
                    for k in range(per_group):
                        for i in range(kernel_h):
                            for j in range(kernel_w):
                                at = (first + k, y * sy + i * dy - top, c * sx + j * dx - left)
                                acc += code.get(at, 0) * w[((o * per_group + k) * kernel_h + i) * kernel_w + j]
                    v = f32(acc) * (step * scale[o if weights["scale_per"] == "channel" else 0])
                    out[o, y, c] = v if bias is None else v + f32(bias[o])
        return out, (outputs,) if linear else (outputs, rows, columns)

    def average(self, x, shape):
        out = {}
        for c in range(shape[0]):
            total = 0.0
            for i in range(shape[1]):
                row = 0.0
                for j in range(shape[2]):
                    row = row + float(x[c, i, j])
                total = total + row
            out[c, 0, 0] = f32(total / (shape[1] * shape[2]))
        return out

    def run(self, image):
        values = [({k: f32(v) for k, v in np.ndenumerate(image)}, image.shape)]
        for node in self.document["nodes"]:
            (x, shape), others = values[node["inputs"][0]], [values[i][0] for i in node["inputs"][1:]]
            if node["op"] in ("conv", "linear"):
                values.append(self.product(node, x, shape))
            elif node["op"] == "batch_norm":
                g, b = self.tensor(node["g"]), self.tensor(node["b"])
                values.append(({k: v * f32(g[k[0]]) + f32(b[k[0]]) for k, v in x.items()}, shape))
            elif node["op"] == "clamp":
                values.append(({k: max(v, f32(node["low"])) for k, v in x.items()}, shape))
            elif node["op"] == "add":
                values.append(({k: v + others[0][k] for k, v in x.items()}, shape))
            elif node["op"] == "adaptive_avg_pool":
                values.append((self.average(x, shape), (shape[0], 1, 1)))
            elif node["op"] == "reshape":
                values.append((x, tuple(node["shape"])))
            else:
                raise NotImplementedError(node["op"])
        return np.array(list(values[-1][0].values()), np.float32)


@pytest.fixture
def artifact(tiny_net) -> Artifact:
    torch.manual_seed(0)
    quantize_module(tiny_net, [torch.randn(4, 3, 7, 7)], scheme="post", bits=4)
    for name, parameter in tiny_net.named_parameters():
        if "adapter" in name:
            nn.init.normal_(parameter, std=0.5)
    preprocessing = document.Input(image_size=7, resize=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    provenance = document.Provenance(asqcli="test", model="tiny")
    return export_network(tiny_net, classes=tuple("abcdefghij"), preprocessing=preprocessing, provenance=provenance)


def test_a_reader_of_the_text_alone_gives_the_same_logits(artifact):
    image = np.random.default_rng(0).standard_normal((3, 7, 7)).astype(np.float32)
    logits = Reader(write_artifact(artifact)).run(image)
    assert np.array_equal(logits.view(np.int32), Session(artifact).run(image[None])[0].view(np.int32))


def test_the_text_names_every_operation_key_and_limit():
    for kind in nodes.KINDS:
        for op in kind.model_fields["op"].annotation.__args__:
            assert f"`{op}`" in FORMAT, op
        for key in set(kind.model_fields) - {"op"}:
            assert f"`{key}`" in FORMAT, key
    for part in (nodes.Activations, nodes.Weights, nodes.Adapter, nodes.AdapterLayer, document.Input, document.Document,
                 document.Provenance):  # fmt: skip
        for key in part.model_fields:
            assert f"`{key}`" in FORMAT, key
    assert [int(n) for n in re.findall(r"2\^(\d+)", FORMAT.rpartition("A reader may")[2])] == [
        n.bit_length() - 1 for n in (LARGEST_VALUE, LARGEST_LIVE, LARGEST_COST)
    ]


def test_the_parts_add_up_to_the_file(artifact, tmp_path):
    content = write_artifact(artifact)
    parts = part_bytes(artifact)
    assert sum(parts.values()) == len(content)
    assert parts["codes"] == sum(len(t) for name, t in artifact.tensors.items() if name.endswith(".codes"))
    assert parts["batch_norms"] == 4 * 2 * (8 + 8) and parts["step_sizes"] == 4 * 5


def test_another_version_is_named(artifact, tmp_path):
    content = write_artifact(artifact).replace(b'{\\"format\\":1,', b'{\\"format\\":7,')
    (tmp_path / "new.asq").write_bytes(content)
    with pytest.raises(InputError, match="has the format 7, and this asq knows 1"):
        read_artifact(tmp_path / "new.asq")
