"""`asq export`: write a trained network as integers, for `asq infer` and for other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asqcli.cli.options import DataOption, DebugOption, FactoryOption, JsonOption
from asqcli.errors import InputError, UsageError
from asqcli.machine import usable_processors

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from asqcli.artifact import Artifact
    from asqcli.data.samples import DataSet, Samples
    from asqcli.data.splits import Split
    from asqcli.run.checkpoint import Checkpoint

REAL_IMAGES = 12  # that a file is proven on, beside the fixed ones


class Format(str, Enum):
    """What the file is written for."""

    asq = "asq"
    onnx = "onnx"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or a checkpoint.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: in the run folder, with its name.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="The engine's own file, or ONNX.")] = Format.asq,
    data: DataOption = None,
    model: FactoryOption = None,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Write a trained network as integer codes, level tables and scales.

    With --data, measure the network as it was trained and the integer engine on the test images, too.
    """
    path = _find(run)
    file = out or _default_file(path, format_)
    if format_ is Format.onnx:
        from asqcli.export.onnx import require_onnx

        require_onnx()  # before anything else: it takes the package to know an earlier export, too
    _refuse_to_overwrite(file, format_)
    from asqcli.cli.console import print_json
    from asqcli.nn.held_weights import weights_held

    with weights_held():
        document = _write(file, format_, path, run, data, model)
    print_json(document) if json_ else _print_summary(document)


def _write(file: Path, format_: Format, path: Path, run: str, data: str | None, model: str | None) -> dict[str, Any]:
    """Write the network of a checkpoint's `path`, proven, and return what there is to tell of it."""
    from asqcli.artifact.file import part_bytes, write_artifact
    from asqcli.cli.console import remark, warn
    from asqcli.export.network import float_bytes
    from asqcli.export.onnx import write_onnx
    from asqcli.export.proof import Prover
    from asqcli.files import write_atomically
    from asqcli.run.artifact import to_artifact
    from asqcli.run.checkpoint import load_checkpoint
    from asqcli.run.restore import restore_model, unfinished, unproven

    checkpoint = load_checkpoint(path)
    warn(unfinished(path, checkpoint))
    remark(unproven(checkpoint, run))
    network = restore_model(checkpoint, source=run, factory=model)
    artifact = to_artifact(checkpoint, network, tell=remark)
    samples, split = _open_data(checkpoint, data) if data is not None else (None, None)
    prover = Prover(network, artifact.document.input, _real_inputs(split))
    proofs = []
    if format_ is Format.asq:
        content, prove = write_artifact(artifact), prover.prove_artifact
    else:
        content, prove = write_onnx(artifact), prover.prove_onnx
    write_atomically(file, content, check=lambda part: proofs.append(prove(part)))
    (proof,) = proofs
    if proof is None:
        remark(f"`{file}` was not run beside the network: the package onnxruntime is missing")
    document: dict[str, Any] = {
        "schema": 1,
        "file": str(file),
        "format": format_.value,
        "bytes": len(content),
        "float_bytes": float_bytes(network),
        "share_of_float": round(len(content) / float_bytes(network), 4),
        "layers": len([n for n in artifact.document.nodes if n.op in ("conv", "linear")]),
        "multiply_adds": artifact.graph.multiply_adds,
    }
    if format_ is Format.asq:
        document["parts"] = part_bytes(artifact)
    if proof is not None:
        document["proof"] = asdict(proof)
    if data is not None and samples is not None and split is not None:
        document |= _measure(artifact, network, checkpoint, data, samples, split)
    return document


def _find(run: str) -> Path:
    from asqcli.run.restore import find_checkpoint

    path = find_checkpoint(run)
    if path is None:
        raise InputError(f"`{run}` is no run folder or checkpoint", "`asq quantize` makes one")
    if not path.is_file():
        raise InputError(f"`{run}` has no checkpoint yet", "go on with `asq quantize --resume`")
    return path


def _default_file(checkpoint: Path, format_: Format) -> Path:
    folder = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    return folder / f"{folder.resolve().name}.{format_.value}"


def _refuse_to_overwrite(file: Path, format_: Format) -> None:
    """Replace an earlier export of the same format, but nothing else."""
    from asqcli.artifact.file import is_artifact
    from asqcli.export.onnx import is_own_onnx

    is_earlier = is_artifact if format_ is Format.asq else is_own_onnx
    if file.is_dir():
        raise UsageError(f"`{file}` is a folder", "--out names the file")
    if not is_earlier(file) and file.exists():
        raise UsageError(f"`{file}` is there already, and is no network that asq exported", "choose another `--out`")


def _open_data(checkpoint: Checkpoint, data: str) -> tuple[DataSet[Samples], Split]:
    """Return (samples, split of the result's images) of the data to measure on."""
    from asqcli.cli.console import tell_of_data
    from asqcli.data.samples import find_samples
    from asqcli.data.source import open_data
    from asqcli.run.entry import preprocessing_of

    samples = find_samples(data, classes=checkpoint.classes)
    tell_of_data(samples.notes)
    split = open_data(
        data, preprocessing_of(checkpoint.recipe), workers=0, with_train=False, classes=checkpoint.classes
    ).result
    return samples, split


def _real_inputs(split: Split | None) -> np.ndarray | None:
    """Return a few inputs to compare the file and the network on, or None."""
    if split is None:
        return None
    inputs, _ = next(split.spread(REAL_IMAGES).eval_batches(REAL_IMAGES))
    return inputs.numpy()


def _measure(
    artifact: Artifact, network: nn.Module, checkpoint: Checkpoint, data: str, samples: DataSet[Samples], split: Split
) -> dict[str, Any]:
    """Return the accuracies of the float network, the trained one and the engine."""
    import torch

    from asqcli.cli.preprocessing import described
    from asqcli.engine.predict import measure
    from asqcli.engine.session import Session
    from asqcli.train.evaluate import evaluate

    trained = evaluate(network, split, device=torch.device("cpu"))
    integer = measure(Session(artifact, threads=usable_processors()), samples.result)
    accuracies = {
        "measured_on": samples.result_name,
        "preprocessing": described(checkpoint.recipe.data, "the run"),
        "quantized_top1": trained.top1,
        "integer_top1": integer.top1,
    }
    own = checkpoint.recipe.data
    if data == own.name and own.labels and "float_top1" in checkpoint.progress.facts:
        accuracies["float_top1"] = checkpoint.progress.facts["float_top1"]
    return accuracies


def _proof_in_words(proof: dict[str, Any]) -> str:
    if proof["max_abs_logit_difference"] == 0.0:
        return f"the file was run beside the network on {proof['images']} images: all logits are equal to the bit"
    return (
        f"the file was run beside the network on {proof['images']} images: logits differ by up to "
        f"{proof['max_abs_logit_difference']:.2g}, as ONNX lets a runtime round"
    )


def _print_summary(document: dict[str, Any]) -> None:
    from asqcli.cli.console import percent, print_facts
    from asqcli.cli.preprocessing import in_words

    facts = {
        "file": document["file"],
        "size": f"{document['bytes']:,} bytes, {document['bytes'] / document['float_bytes']:.3f} of the float "
        f"network's {document['float_bytes']:,}",
    }
    for part, size in document.get("parts", {}).items():
        if size:
            facts[f"  {part.replace('_', ' ')}"] = f"{size:,} bytes"
    facts["layers"] = f"{document['layers']}, {document['multiply_adds']:,} multiply-adds for one image"
    if "proof" in document:
        facts["proven"] = _proof_in_words(document["proof"])
    if "integer_top1" in document:
        facts["measured on"] = document["measured_on"]
        facts["preprocessing"] = in_words(document["preprocessing"])
        if "float_top1" in document:
            facts["float top-1"] = f"{percent(document['float_top1'])}, before training with quantization"
        facts["quantized top-1"] = f"{percent(document['quantized_top1'])}, in training's own arithmetic"
        engine = "in the integer engine" if document["format"] == "asq" else "in asq's engine"
        facts["integer top-1"] = f"{percent(document['integer_top1'])}, {engine}"
    print_facts("Exported", facts)
