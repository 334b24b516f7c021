"""The tables of `asq overhead`, drawn from its JSON document, for 80 columns and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from asqcli.cli.console import stdout
from asqcli.cli.streams import showable
from asqcli.errors import printable

LARGE_BYTES = 100e6  # size of a float network from which on sizes are told in MB


def print_tables(document: dict[str, Any]) -> None:
    """Print the accounts, one table each, on stdout."""
    console, size = stdout(), document["input_size"]
    _say(console, f"{document['model']} on one image of {size}x{size} pixels, {document['outputs']:,} outputs")
    _say(console, f"{document['parameters']:,} parameters, {document['multiply_adds']:,} multiply-adds")
    if "layers" in document:
        _title(console, "Layers in the order of execution")
        console.print(_layers(document["layers"]))
    _title(console, "As published (Eqs. 10-16, Table 1)")
    _say(console, "In kB: all parameters at B bits; adapters and steps at 8.")
    _say(console, "In millions of 32-bit operations: the layers that have adapters, and these.")
    console.print(_published(document["rows"]))
    unit, unit_bytes = ("MB", 1e6) if document["float_bytes"] >= LARGE_BYTES else ("kB", 1e3)
    _title(console, "As stored by `asq export`, without the file's graph")
    _say(console, f"In {unit}. First and last layer at 8 bits. Scales: also steps, biases, tables.")
    console.print(_stored(document["rows"], document["float_bytes"], unit_bytes))
    _title(console, "Operations by kind, for hardware without multipliers")
    _say(console, "In millions, if no weight is zero and all levels are equally frequent.")
    console.print(_operations(document["rows"]))
    beside = document["float_operations"]
    _say(console, "Beside them, with all weights and at every width, in float:")
    for what in ("adapter", "epilogue"):
        multiplications, additions = (beside[f"{what}_{kind}"] / 1e6 for kind in ("multiplications", "additions"))
        _say(console, f"  {what}s: {multiplications:,.3f} multiplications, {additions:,.3f} additions")


def _layers(layers: Sequence[dict[str, Any]]) -> Table:
    table = _table("layer", "kind", "output", "parameters", "multiply-adds", "adapter", left=3)
    for layer in layers:
        table.add_row(
            showable(printable(layer["name"])) or "(the network itself)",
            layer["kind"] + (f" x{layer['calls']}" if layer["calls"] > 1 else ""),
            "x".join(map(str, layer["output_shape"])),
            f"{layer['parameters']:,}",
            f"{layer['multiply_adds']:,}",
            f"{layer['adapter_parameters']:,}" if layer["adapter_parameters"] else "",
        )
    return table


def _published(rows: Sequence[dict[str, Any]]) -> Table:
    table = _table("bits", "network", "adapters", "param %", "operations", "of adapters", "compute %")
    for row in rows:
        cost = row["published"]
        table.add_row(
            str(row["bits"]),
            f"{cost['network_bytes'] / 1e3:,.1f}",
            f"{cost['adapter_bytes'] / 1e3:,.1f}",
            f"{row['param_percent']:.2f}",
            f"{cost['network_operations'] / 1e6:,.3f}",
            f"{cost['adapter_operations'] / 1e6:,.3f}",
            f"{row['compute_percent']:.2f}",
        )
    return table


def _stored(rows: Sequence[dict[str, Any]], float_bytes: int, unit_bytes: float) -> Table:
    some_float = any(row["stored"]["floats"] for row in rows)
    headings = ["bits", "scheme", "codes", "scales", "norms", *(["float"] if some_float else []), "adapters"]
    table = _table(*headings, "total", "of float", "param %", left=2)
    for row in rows:
        stored = row["stored"]
        scales = sum(stored[part] for part in ("level_tables", "weight_scales", "biases", "step_sizes"))
        parts = [stored["codes"], scales, stored["batch_norms"], *([stored["floats"]] if some_float else [])]
        table.add_row(
            str(row["bits"]),
            row["scheme"],
            *(f"{part / unit_bytes:,.1f}" for part in (*parts, stored["adapters"], stored["total"])),
            f"{stored['total'] / float_bytes:.3f}",
            f"{row['stored_param_percent']:.2f}",
        )
    return table


def _operations(rows: Sequence[dict[str, Any]]) -> Table:
    table = _table("bits", "weights", "shifts", "look-ups", "multiplications", "additions", left=2)
    for row in rows:
        alike: dict[tuple[Any, ...], list[str]] = {}  # at few bits several kinds of weights are the same set of levels
        for weights, operations in row["operations"].items():
            alike.setdefault(tuple(operations.values()), []).append(weights)
        for values, weights in alike.items():
            table.add_row(str(row["bits"]), ", ".join(weights), *(f"{v / 1e6:,.1f}" if v else "-" for v in values))
    return table


def _table(*headings: str, left: int = 1) -> Table:
    """Return an empty table; all columns but the first `left` hold numbers; long names of layers are folded."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for k, heading in enumerate(headings):
        folded = heading == "layer"
        table.add_column(
            heading,
            justify="left" if k < left else "right",
            overflow="fold",
            no_wrap=not folded,
            min_width=None if folded else len(heading),
        )
    return table


def _title(console: Console, text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False)
