"""Artifacts made node by node, without training, and what every kernel is held to on them."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

from asqcli.artifact import Artifact, nodes
from asqcli.artifact import document as doc
from asqcli.artifact.packing import pack
from asqcli.engine import Session
from asqcli.engine.dispatch import NATIVE_KERNELS, usable_kernels
from asqcli.engine.native.network import NativeNetwork
from asqcli.engine.verify import verify

USABLE = [name for name in NATIVE_KERNELS if name in usable_kernels()]


class Maker:
    """Builds an artifact node by node, without training."""

    def __init__(self, rng, size: int) -> None:
        self.rng, self.size = rng, size
        self.nodes: list = []
        self.tensors: dict[str, np.ndarray] = {}

    def tensor(self, array, dtype=np.float32) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = np.asarray(array, dtype)
        return name

    def layer(
        self, value, shape, *, qmin, qmax, bits=4, extreme=False, channels=None, adapter=False, bias=True, **geometry
    ):
        """Add a convolution or linear layer; extreme: weights at the ends of int8, steps that saturate codes."""
        rng, outputs = self.rng, shape[0]
        codes = rng.integers(0, 2**bits, shape).astype(np.uint8)
        table = rng.integers(-128, 128, 2**bits)
        if extreme:
            table = np.where(table < 0, -128, 127)
        channels = channels or shape[1]
        if adapter:
            hidden = max(1, channels // 4)
            adapter = nodes.Adapter(output="reciprocal", layers=tuple(
                nodes.AdapterLayer(
                    outputs=o, weight=self.tensor(rng.integers(-127, 128, (o, i)), np.int8),
                    row_scale=self.tensor(rng.random(o) / 100), bias=self.tensor(rng.standard_normal(o)),
                ) for i, o in ((channels, hidden), (hidden, 1))))  # fmt: skip
        self.nodes.append(
            (nodes.Conv if len(shape) == 4 else nodes.Linear)(
                name=f"layer{len(self.nodes)}", inputs=(value,),
                activations=nodes.Activations(
                    qmin=qmin, qmax=qmax, step_size=self.tensor([1e-3 if extreme else 0.1]),
                    dequantize_by="adapted_step_size", adapter=adapter or None),
                weights=nodes.Weights(
                    shape=shape, code_bits=bits, codes=self.tensor(pack(codes, bits), np.uint8),
                    levels=self.tensor(table, np.int8), scale=self.tensor(rng.random(outputs) / 300),
                    scale_per="channel", bias=self.tensor(rng.standard_normal(outputs)) if bias else None),
                **geometry))  # fmt: skip
        return len(self.nodes)

    def add(self, kind, *inputs, **settings):
        self.nodes.append(kind(name=f"{kind.__name__.lower()}{len(self.nodes)}", inputs=inputs, **settings))
        return len(self.nodes)

    def batch_norm(self, value, channels):
        g, b = (self.tensor(self.rng.standard_normal(channels)) for _ in range(2))  # gammas of both signs
        return self.add(nodes.BatchNorm, value, g=g, b=b)

    def artifact(self, classes: int) -> Artifact:
        document = doc.Document(
            format=1, nodes=tuple(self.nodes), classes=tuple(map(str, range(classes))),
            input=doc.Input(image_size=self.size, resize=self.size, mean=(0.0,) * 3, std=(1.0,) * 3),
            provenance=doc.Provenance(asqcli="test", model="test"),
        )  # fmt: skip
        return Artifact.checked(document, self.tensors)


def assert_equal(artifact: Artifact, images: np.ndarray, teams: tuple[int, ...] = ()) -> None:
    """Compare every usable kernel with the specification, and with itself in teams of several threads."""
    specification = Session(artifact, kernel="shift-lut")
    for name in USABLE:
        ours = Session(artifact, kernel=name)
        assert ours.kernel == name and isinstance(ours.network, NativeNetwork), "the forced kernel must run"
        result = verify(
            lambda x, o, s=ours: s.run(x, observe=o), lambda x, o: specification.run(x, observe=o), [images]
        )
        assert result.exact and result.layers, (name, result)
        whole = ours.run(images)
        for threads in teams:
            several = Session(artifact, kernel=name, threads=threads)
            assert np.array_equal(several.run(images), whole), name
            assert several.network.team is not None  # on one image together
            assert np.array_equal(several.run(images[:1]), whole[:1]), name
            several.network.team.alone = 1  # the caller does all of it
            assert np.array_equal(several.run(images[:1]), whole[:1]), name
        assert np.array_equal(ours.run(images), whole), "nothing of one run is left in the next"


def keep_before_a_guard(self, array: np.ndarray) -> np.ndarray:
    """`Memory.keep`, but every array ends at a page that may not be touched: one byte beyond is a crash."""
    pages = -(-array.nbytes // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(address + pages * mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    start = pages * mmap.PAGESIZE - array.nbytes
    guarded = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    guarded[...] = array
    self.kept.append(guarded)
    return guarded
