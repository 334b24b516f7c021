"""An exported file beside the network that it was made from: it answers alike, or it is not written."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from asqcli.artifact import document as doc
from asqcli.engine import load
from asqcli.errors import AsqError, UnsupportedError
from asqcli.nn.forward import logits_before_log_softmax
from asqcli.nn.modes import evaluating
from asqcli.probes import probe_inputs

# ONNX leaves the order of sums and the last bits of Exp to the runtime. About one number in 10^8 is then rounded
# otherwise, and can move a code of 2 to 8 bits: a few steps in one of very many values.
ONNX_TOLERANCE = 2e-2  # share of the range of the logits


@dataclass(frozen=True)
class Proof:
    """What was compared.

    Attributes:
        images: how many.
        max_abs_logit_difference: 0.0 where all logits are equal to the bit.
    """

    images: int
    max_abs_logit_difference: float


class Prover:
    """Holds a network's answers, and compares a file's with them.

    Args:
        model: prepared, on the CPU.
        preprocessing: of its input, for fixed images.
        real: real inputs to compare on, too, (N, 3, size, size) float32.
    Raises:
        UnsupportedError: its answer to an image depends on the others in the batch.
    """

    def __init__(self, model: nn.Module, preprocessing: doc.Input, real: np.ndarray | None = None) -> None:
        fixed = probe_inputs(preprocessing.image_size, preprocessing.mean, preprocessing.std)
        self.inputs = fixed if real is None else np.concatenate([fixed, np.asarray(real, np.float32)])
        with torch.no_grad(), evaluating(model):
            self.logits = logits_before_log_softmax(model, torch.from_numpy(self.inputs)).numpy().copy()
            alone = logits_before_log_softmax(model, torch.from_numpy(self.inputs[:1])).numpy()
        if not np.array_equal(alone, self.logits[:1], equal_nan=True):
            raise UnsupportedError(
                "the network answers an image otherwise alone than among others: it cannot be exported",
                "a forward must not compute over the batch",
            )

    def prove_artifact(self, file: Path) -> Proof:
        """Run an `.asq` file in the engine.

        Raises:
            UnsupportedError: any logit differs.
        """
        try:
            logits = load(file).run(self.inputs)
        except AsqError as error:
            raise UnsupportedError(f"the exported file does not run: {error.message}", error.hint) from error
        return self._compare(logits, tolerance=0.0)

    def prove_onnx(self, file: Path) -> Proof | None:
        """Run an ONNX file in onnxruntime as it stands, without optimizations; None where that is not installed.

        Raises:
            UnsupportedError: the logits differ by more than a runtime may choose.
        """
        if find_spec("onnxruntime") is None:
            return None
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: self.inputs})
        return self._compare(np.asarray(logits), tolerance=ONNX_TOLERANCE)

    def _compare(self, logits: np.ndarray, *, tolerance: float) -> Proof:
        equal = logits.shape == self.logits.shape and bool((logits == self.logits).all())
        if equal:
            return Proof(len(self.inputs), 0.0)
        if logits.shape != self.logits.shape:
            found = f"its logits have the shape {logits.shape}, the network's {self.logits.shape}"
        else:
            differences = np.abs(logits.astype(np.float64) - self.logits)
            largest = float(differences.max())
            if largest <= tolerance * float(self.logits.max() - self.logits.min()):
                return Proof(len(self.inputs), largest)
            wrong = int((differences.max(axis=1) > 0).sum())
            found = f"the logits of {wrong} of {len(self.inputs)} images differ by up to {largest:.3g}"
        raise UnsupportedError(
            f"the exported file does not answer as the network does, and was not kept: {found}",
            "something that the network computes did not reach the file, such as a hook, a value that its code keeps "
            "from one call to the next, or an operation on tensors outside of PyTorch",
        )
