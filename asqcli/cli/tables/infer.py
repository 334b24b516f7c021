"""Tables of `asq infer`, drawn from its JSON document."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from asqcli.cli.console import percent, print_facts, print_table, stdout
from asqcli.cli.preprocessing import in_words
from asqcli.cli.streams import showable
from asqcli.errors import printable


def print_tables(document: dict[str, Any]) -> None:
    """Print what was asked for: the classes of images, the accuracy over a data set, what verification found."""
    if "trace" in document:
        _print_trace(document)
    if document.get("predictions"):
        _print_predictions(document)
    if "top1" in document:
        _print_accuracy(document)
    if "verify" in document:
        _print_verification(document["verify"])


def _print_trace(document: dict[str, Any]) -> None:
    table = Table()
    table.add_column("value", justify="right")
    for heading in ("node", "op", "shape", "CRC-32"):
        table.add_column(heading, overflow="fold")
    for value in document["trace"]:
        shape = "x".join(map(str, value["shape"]))
        table.add_row(str(value["number"]), _text(value["node"]), value["op"], shape, value["crc32"])
    print_table(stdout(), f"Values of {_text(document['image'])}, by the kernel {document['kernel']}", table)


def _print_predictions(document: dict[str, Any]) -> None:
    table = Table()
    for heading in ("image", "class"):
        table.add_column(heading, overflow="fold")
    table.add_column("score", justify="right", overflow="fold")
    for prediction in document["predictions"]:
        name = _text(prediction["input"])
        if "error" in prediction:
            table.add_row(name, "cannot be read", "")
            continue
        for rank, found in enumerate(prediction["classes"]):
            table.add_row("" if rank else name, _text(found["label"]), f"{100 * found['score']:.1f}%")
    print_table(stdout(), f"Most likely classes, by the kernel {document['kernel']}", table)


def _print_accuracy(document: dict[str, Any]) -> None:
    facts = {"measured on": document["measured_on"], "kernel": document["kernel"]}
    facts["preprocessing"] = in_words(document["preprocessing"])
    facts |= {"top-1": percent(document["top1"]), "top-5": percent(document["top5"])}
    print_facts("Accuracy", {**facts, "loss": f"{document['loss']:.4f}"})


def _print_verification(verify: dict[str, Any]) -> None:
    logits = f"{verify['logit_mismatches']:,}"
    if verify["logit_mismatches"]:
        logits += f", by up to {verify['max_abs_logit_difference']:.3g}"
    print_facts(
        f"{verify['kernels'][0]} beside {verify['kernels'][1]}",
        {
            "images": f"{verify['images']:,}",
            "same label": f"{verify['label_agreement']:.2f}%",
            "logits that differ": logits,
            "codes that differ": f"{verify['code_mismatches']:,} in {verify['layers']} layers",
            "accumulators that differ": f"{verify['accumulator_mismatches']:,}",
        },
    )


def _text(content: str) -> str:
    """Return a path or label for a table: nothing that a terminal obeys, nothing that it cannot show."""
    return showable(printable(content))
