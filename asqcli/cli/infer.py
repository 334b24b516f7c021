"""`asq infer`: run an exported network on images or a data set, and prove that it answers as it was trained to.

Imports no torch, unless the network of a run or a comparison of speed is asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asqcli.cli.image_files import image_files
from asqcli.cli.options import DataOption, DebugOption, FactoryOption, JsonOption, ThreadsOption
from asqcli.errors import CheckFailed, InputError, PartlyUnreadable, UsageError, some_of
from asqcli.machine import usable_processors

if TYPE_CHECKING:
    import numpy as np

    from asqcli.data.samples import DataSet, Samples
    from asqcli.engine import Session
    from asqcli.engine.interface import Observer
    from asqcli.engine.predict import Prediction
    from asqcli.engine.verify import Verification

SPECIFICATION = "shift-lut"
SPECIFICATION_IMAGES = 100  # images of a data set that the slow kernel is run on


def infer(
    file: Annotated[Path, typer.Argument(metavar="FILE.asq", help="What `asq export` wrote.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT..", help="Image files, folders of images, or - for a list on standard input."),
    ] = None,
    data: DataOption = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, metavar="K", help="Classes to show of each image.")] = 3,
    kernel: Annotated[
        str,
        typer.Option(
            "--kernel",
            metavar="NAME",
            envvar="ASQ_KERNEL",
            show_envvar=False,
            help="auto (or ASQ_KERNEL), avx512-vnni, avx-vnni, avx2, scalar, matmul, shift-lut.",
        ),
    ] = "auto",
    threads: ThreadsOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare every code and logit with --run's network, else with shift-lut; exit 1 on any."
        ),
    ] = False,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="The run that the file was exported from.")
    ] = None,
    model: FactoryOption = None,
    trace: Annotated[
        bool, typer.Option("--trace", help="Write a checksum of every value of one image, for other implementations.")
    ] = False,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure the speed, beside other engines where they are installed.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, max=4096, metavar="N", help="Images in a run of --bench. Default: 1."),
    ] = None,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Run an exported network in the integer engine: classes of images, accuracy over a data set, or its speed."""
    _check_arguments(inputs, data, verify, run, bench, batch, trace)
    session = _open(file, kernel, threads)
    document: dict[str, Any] = {"schema": 1, "file": str(file), "kernel": session.kernel, "threads": session.threads}
    if bench:
        document["bench"] = _measure_speed(session, batch or 1, model)
        _show_bench(document, json_)
        return
    if trace:
        document |= _trace(session, list(image_files(inputs or [])))
        _show(document, json_)
        return
    predictions: list[Prediction] = []
    if data is not None:
        samples = _samples(session, data)
        document |= _accuracy(session, samples)
        batches = _data_batches(session, samples, everything=run is not None)
    else:
        batches = _file_batches(session, list(image_files(inputs or [])), top_k, predictions)
    verification = _verify(session, batches, run, model) if verify else None
    if data is None:
        deque(batches, maxlen=0)  # files that verification has not read, so none or all
        document["predictions"] = [_prediction(p) for p in predictions]
    if verification is not None:
        document["verify"] = _verification(verification, session, run)
    unreadable = [p.error for p in predictions if p.error is not None]
    message = ""
    if unreadable:
        message = f"{len(unreadable)} of {len(predictions)} images cannot be read: {some_of(unreadable)}"
        document["error"] = {"code": "input", "message": message, "hint": None}
    _show(document, json_)
    if unreadable:  # all that could be read is shown, in the one document that a script expects
        raise PartlyUnreadable(message)
    if verification is not None and not verification.exact:
        raise CheckFailed(_difference(verification))


def _check_arguments(
    inputs: list[str] | None,
    data: str | None,
    verify: bool,
    run: str | None,
    bench: bool,
    batch: int | None,
    trace: bool,
) -> None:
    if trace and (data is not None or verify or bench):
        raise UsageError("`--trace` is for one image", "leave out --data, --verify and --bench")
    if bench and (inputs or data is not None or verify or run is not None):
        raise UsageError("`--bench` runs on random images and takes no others", "leave out images, --data and --verify")
    if bench:
        return
    if batch is not None:
        raise UsageError("`--batch` is the number of images in a run of `--bench`")
    if bool(inputs) == (data is not None):
        both = ", not both" if inputs else ""
        raise UsageError(f"name images, or a data set with --data{both}", "such as `asq infer FILE.asq cat.jpg`")
    if run is not None and not verify:
        raise UsageError("`--run` names the network for `--verify`")


def _open(file: Path, kernel: str, threads: int | None) -> Session:
    from asqcli.engine import load

    session = load(file, kernel=kernel, threads=threads or usable_processors())
    if session.notice:
        from asqcli.cli.console import remark

        remark(session.notice)
    return session


def _samples(session: Session, data: str) -> DataSet[Samples]:
    from asqcli.cli.console import tell_of_data
    from asqcli.data.samples import find_samples

    samples = find_samples(data, classes=session.artifact.document.classes)
    tell_of_data(samples.notes)
    return samples


def _accuracy(session: Session, samples: DataSet[Samples]) -> dict[str, Any]:
    from asqcli.cli.preprocessing import described
    from asqcli.engine.predict import measure

    accuracy = measure(session, samples.result)
    return {
        "measured_on": samples.result_name,
        "preprocessing": described(session.artifact.document.input, "the file"),
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "loss": accuracy.loss,
        "images": accuracy.images,
    }


def _data_batches(session: Session, samples: DataSet[Samples], *, everything: bool) -> Iterator[np.ndarray]:
    from asqcli.engine.predict import input_batches

    chosen = samples.result if everything else samples.result.spread(SPECIFICATION_IMAGES)
    return (inputs for inputs, _ in input_batches(session, chosen, session.batch))


def _file_batches(
    session: Session, paths: list[str], top_k: int, predictions: list[Prediction]
) -> Iterator[np.ndarray]:
    """Yield the network's input, file after file, and add what it predicts of each to `predictions` meanwhile."""
    from asqcli.engine.predict import predict

    for predicted, batch in predict(session, paths, top_k=top_k):
        predictions += predicted
        for first in range(0, len(batch), session.batch):
            yield batch[first : first + session.batch]


def _verify(session: Session, batches: Iterable[np.ndarray], run: str | None, model: str | None) -> Verification:
    from asqcli.engine.verify import verify

    def ours(inputs: np.ndarray, observe: Observer) -> np.ndarray:
        return session.run(inputs, observe=observe)

    if run is not None:
        from asqcli.nn.held_weights import weights_held

        with weights_held():
            return verify(ours, _trained(session, run, model), batches)
    from asqcli.engine.session import Session

    reference = Session(session.artifact, kernel=SPECIFICATION)
    return verify(ours, lambda inputs, observe: reference.run(inputs, observe=observe), batches)


def _trained(session: Session, run: str, model: str | None):
    from asqcli.cli.console import remark
    from asqcli.export.torch_runner import TorchRunner
    from asqcli.run.checkpoint import load_checkpoint
    from asqcli.run.restore import find_checkpoint, restore_model, unproven

    path = find_checkpoint(run)
    if path is None:
        raise InputError(f"`{run}` is no run folder or checkpoint")
    checkpoint = load_checkpoint(path)
    if checkpoint.classes != session.artifact.document.classes:
        raise InputError(f"`{run}` has other classes than the exported network")
    remark(unproven(checkpoint, run))
    return TorchRunner(restore_model(checkpoint, source=run, factory=model))


def _trace(session: Session, paths: list[str]) -> dict[str, Any]:
    from dataclasses import asdict

    from asqcli.engine.predict import normalize, read_pixels
    from asqcli.engine.trace import KERNEL, trace

    if len(paths) != 1:
        raise UsageError(f"`--trace` is for one image, not {len(paths)}")
    document = session.artifact.document
    image = normalize(read_pixels(paths[0], document)[None], document)[0]
    return {"kernel": KERNEL, "image": _named(paths[0]), "trace": [asdict(v) for v in trace(session.artifact, image)]}


def _measure_speed(session: Session, batch: int, model: str | None) -> dict[str, Any]:
    from asqcli.bench.speed import measure_speed
    from asqcli.cli.console import note

    return measure_speed(session, batch=batch, factory=model, tell=note)


def _named(path: str) -> str:
    """Return a path for JSON. A name that is not UTF-8 has no form that all readers take: its bytes become `\\xNN`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _prediction(prediction: Prediction) -> dict[str, Any]:
    name = _named(prediction.path)
    if prediction.error is not None:
        return {"input": name, "error": prediction.error}
    classes = [{"index": c.index, "label": c.label, "score": round(c.score, 6)} for c in prediction.classes]
    return {"input": name, "classes": classes}


def _verification(result: Verification, session: Session, run: str | None) -> dict[str, Any]:
    differing = {name: layer for name, layer in result.layers.items() if layer.codes or layer.accumulators}
    return {
        "images": result.images,
        "label_agreement": round(result.label_agreement, 2),
        "max_abs_logit_difference": result.max_abs_logit_difference,
        "logit_mismatches": result.logit_mismatches,
        "code_mismatches": result.code_mismatches,
        "accumulator_mismatches": result.accumulator_mismatches,
        "kernels": [session.kernel, SPECIFICATION if run is None else "training"],
        "layers": len(result.layers),
        "differing_layers": {
            name: {"codes": layer.codes, "accumulators": layer.accumulators} for name, layer in differing.items()
        },
    }


def _show(document: dict[str, Any], json_: bool) -> None:
    from asqcli.cli.console import print_json
    from asqcli.cli.tables.infer import print_tables

    print_json(document) if json_ else print_tables(document)


def _show_bench(document: dict[str, Any], json_: bool) -> None:
    from asqcli.cli.console import print_json
    from asqcli.cli.tables.bench import print_bench

    if json_:
        print_json(document)
    else:
        print_bench(document["bench"])


def _difference(verification: Verification) -> str:
    names = [name for name, layer in verification.layers.items() if layer.codes or layer.accumulators]
    where = f", first in the layer `{names[0]}`" if names else " in the logits alone"
    return f"the answers differ{where}; the format promises equal ones"
