"""`asq overhead`: what the adapters and the quantized network cost, before any training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asqcli.cli.options import DebugOption, JsonOption
from asqcli.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from asqcli.overhead.count import Layer, Network
    from asqcli.quant.spec import LayerSpec

DEFAULT_BITS = "8,4,3,2"


def overhead(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="resnet20, a torchvision classifier, timm:NAME, or module:factory."),
    ],
    bits: Annotated[str, typer.Option("--bits", metavar="B,B,..", help="Bit-widths, 2 to 8.")] = DEFAULT_BITS,
    input_size: Annotated[
        int | None,
        typer.Option("--input-size", metavar="N", min=1, max=65536,
                     help="Pixels of a side. Default: what the network is made for, 224 for a factory."),
    ] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Show every layer.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the shares as a bar chart.")
    ] = None,
    max_param_percent: Annotated[
        float | None,
        typer.Option("--max-param-percent", metavar="X", min=0,
                     help="Exit with 1 when the adapters add more than X % by the paper's account, at any width."),
    ] = None,
    json_: JsonOption = False,
    _debug: DebugOption = False,
) -> None:  # fmt: skip
    """Tell what ASQ adds to a network in storage and arithmetic, without weights, data or training.

    Three accounts: as published (Eqs. 10-16, Table 1); as stored by `asq export`; and operations by kind for hardware
    without multipliers, where no weight is supposed to be zero and all levels of a set to be equally frequent.
    """
    widths = _parse_bits(bits)
    if plot is not None:
        from asqcli.overhead.plot import check_plot

        check_plot(plot)
    from asqcli.models.official import usual_image_size
    from asqcli.overhead.count import count_model

    network = count_model(model, input_size or usual_image_size(model))
    rows = [_row(network, b) for b in widths]
    over = [r for r in rows if max_param_percent is not None and r["param_percent"] > max_param_percent]
    if plot is not None:
        from asqcli.cli.console import note
        from asqcli.overhead.plot import write_plot

        write_plot(plot, model, rows)
        note(f"picture: {plot}")
    document = _document(model, network, rows, per_layer)
    if max_param_percent is not None:
        document |= {"max_param_percent": max_param_percent, "passed": not over}
    _print_notes(network)
    if json_:
        from asqcli.cli.console import print_json

        print_json(document)
    else:
        from asqcli.cli.tables.overhead import print_tables

        print_tables(document)
    if max_param_percent is not None and over:
        raise CheckFailed(_excess(over[0], max_param_percent))


def _parse_bits(text: str) -> list[int]:
    """Return the bit-widths in the order given, each once."""
    from asqcli.quant.bounds import check_bits

    try:
        widths = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"`--bits` is `{text}`, it must be bit-widths between commas", "--bits 8,4,3,2") from error
    return [check_bits(width) for width in dict.fromkeys(widths)]


def _row(network: Network, bits: int) -> dict[str, Any]:
    """Return the three accounts at one bit-width, as they stand in the JSON document."""
    from asqcli.overhead.hardware import weight_operations
    from asqcli.overhead.published import published_cost
    from asqcli.overhead.stored import stored_cost

    scheme, specs = _specs(network, bits)
    published, stored = published_cost(network, bits), stored_cost(network, specs)
    return {
        "bits": bits,
        "scheme": scheme,
        "param_percent": round(published.param_percent, 2),
        "compute_percent": round(published.compute_percent, 2),
        "stored_param_percent": round(stored.adapter_percent, 2),
        "published": asdict(published),
        "stored": {**asdict(stored), "total": stored.total},
        "operations": {weights: asdict(kinds) for weights, kinds in weight_operations(network, bits).items()},
    }


def _specs(network: Network, bits: int) -> tuple[str, list[LayerSpec]]:
    """Return what `asq quantize MODEL --bits B` makes of the layers: its scheme, POST where that exists, and specs."""
    from asqcli.quant.levels import MAX_POWER_BITS
    from asqcli.recipe.layers import resolve_layers
    from asqcli.recipe.load import Draft, check, overlay_scheme
    from asqcli.recipe.schema import Quantization

    scheme = "post" if bits <= MAX_POWER_BITS else "asq"
    draft = Draft()
    overlay_scheme(draft, scheme, bits)
    quantization = check(draft, "the command line", Quantization)
    return scheme, resolve_layers(quantization, network.layers, source="the command line")


def _document(model: str, network: Network, rows: list[dict[str, Any]], per_layer: bool) -> dict[str, Any]:
    from asqcli.overhead.hardware import float_operations

    document = {
        "schema": 1,
        "model": model,
        "input_size": network.input_size,
        "outputs": network.outputs,
        "parameters": network.parameters,
        "multiply_adds": network.multiply_adds,
        "float_bytes": network.float_bytes,
        "quantizable": network.refusal is None,
        "rows": rows,
        "float_operations": asdict(float_operations(network)),
    }
    if per_layer:
        middle = {layer.name for layer in network.middle}
        multiplying = (layer for layer in network.others if layer.multiply_adds)
        document["layers"] = [_layer(layer, layer.name in middle, rows) for layer in (*network.layers, *multiplying)]
    return document


def _layer(layer: Layer, has_adapter: bool, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from asqcli.overhead.adapters import adapter_parameters, adapter_products
    from asqcli.overhead.published import equivalent_operations, quantized_bytes

    return {
        "name": layer.name,
        "kind": layer.kind,
        "calls": layer.calls,
        "output_shape": list(layer.output_shape),
        "parameters": layer.parameters,
        "multiply_adds": layer.multiply_adds,
        "adapter_parameters": adapter_parameters(layer) if has_adapter else 0,
        "adapter_multiply_adds": adapter_products(layer) * layer.calls if has_adapter else 0,
        "rows": [
            {
                "bits": row["bits"],
                "quantized_bytes": quantized_bytes(layer.parameters, row["bits"]),
                "equivalent_operations": equivalent_operations(layer.multiply_adds, row["bits"]),
            }
            for row in rows
        ],
    }


def _print_notes(network: Network) -> None:
    """Tell on stderr what keeps the accounts from being the whole truth for this network."""
    from asqcli.cli.console import remark

    if network.refusal:
        remark(f"`asq quantize` does not take this network: {network.refusal}")
    if network.unused:
        remark(f"never called as modules, so left in float: {', '.join(network.unused)}")
    if outside := sum(layer.multiply_adds for layer in network.others):
        share = 100 * outside / network.multiply_adds
        remark(f"{outside:,} multiply-adds ({share:.1f}%) are in no layer that asq quantizes, and stay in float")


def _excess(row: dict[str, Any], limit: float) -> str:
    return (
        f"at {row['bits']} bits the adapters add {row['param_percent']:.2f}% to the parameters, more than "
        f"the {limit:.2f}% asked for"
    )
