"""Edits of the bytes, of the safetensors header, and of what the tensors hold."""

from __future__ import annotations

import json
import math
import struct

from parts import FLOATS, INTEGERS, LABELS, METADATA, STRANGE, Parts, any_tensor

DTYPES = ("F32", "I8", "U8", "F64", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "I16", "U16", "I64", "U64",
          "BOOL", "C64", "f32", "", 3)  # fmt: skip


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


# Numbers in the tensors


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
TENSOR_EDITS = (fill_tensor, set_number, set_number, scale_tensors, randomize_tensor, randomize_integers)
