"""The table of `asq infer --bench`, drawn from its JSON document, for 100 columns."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from asqcli.cli.console import print_table, stdout

WIDTH = 100
SHOWN = 0.01  # steps that take less of the time are told together


def print_bench(bench: dict[str, Any]) -> None:
    """Print how long each engine takes, and what that was measured on."""
    console = stdout()
    images = "1 image" if bench["batch"] == 1 else f"{bench['batch']} images"
    size = bench["input_size"]
    threads = "1 thread" if bench["threads"] == 1 else f"{bench['threads']} threads"
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("engine")
    for heading in ("median ms", "quartiles ms", "asq / engine", "cores busy"):
        table.add_column(heading, justify="right")
    medians = {"asq": bench["median_ms"], **bench["peers"]}
    for name, median in medians.items():
        lower, upper = bench["spread"][name]
        table.add_row(
            f"asq, {bench['kernel']}" if name == "asq" else name,
            f"{median:.3f}",
            f"{lower:.3f} to {upper:.3f}",
            f"{bench['ratios'][name]:.3f}" if name in bench["ratios"] else "",
            f"{bench['cores_busy'][name]:.2f}",
        )
    for name in bench["missing"]:
        table.add_row(name, "missing", "", "", "")
    print_table(console, f"{bench['model']} on {images} of {size}x{size} pixels, {threads}", table)
    _say(f"medians over {bench['rounds']} rounds, all engines in turn; asq / engine below 1: asq is faster")
    if bench["disturbed"]:
        _say("other work took the cores meanwhile, from long runs more than from short ones: do not rely on this")
    load = "" if bench["load_average"] is None else f"; load before: {bench['load_average']}"
    _say(f"processor: {bench['processor']}{load}")
    _say("versions: " + ", ".join(f"{name} {version}" for name, version in bench["versions"].items()))
    if "steps" in bench:
        _print_steps(bench)
    for reason, names in _by_reason(bench["missing"]).items():
        _say(f"missing {', '.join(names)}: {reason}")


def _print_steps(bench: dict[str, Any]) -> None:
    """Print where the engine's time goes, step by step on one thread."""
    peak = bench["peak_gmacs"]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("step")
    for heading in ("steps", "us each", "% of all", "GMAC/s", "of peak"):
        table.add_column(heading, justify="right")
    total = sum(step["all_microseconds"] for step in bench["steps"])
    shown = [step for step in bench["steps"] if step["all_microseconds"] >= SHOWN * total]
    for step in shown:
        table.add_row(
            step["step"],
            str(step["count"]),
            f"{step['microseconds']:.1f}",
            f"{100 * step['all_microseconds'] / total:.1f}",
            "" if step["gmacs"] is None else f"{step['gmacs']:.0f}",
            "" if step["of_peak"] is None else f"{step['of_peak']:.2f}",
        )
    others = [step for step in bench["steps"] if step not in shown]
    if others:
        share = 100 * sum(step["all_microseconds"] for step in others) / total
        table.add_row("all others", str(sum(step["count"] for step in others)), "", f"{share:.1f}", "", "")
    print_table(stdout(), "where the time goes, on one thread", table)
    _say(f"together {total:.0f} us" + (f"; peak of the kernel's instruction: {peak:.0f} GMAC/s" if peak else ""))


def _by_reason(missing: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _say(text: str) -> None:
    console = stdout()
    console.print(text, markup=False, width=min(WIDTH, console.width))
