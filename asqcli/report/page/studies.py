"""The tables of a study."""

from __future__ import annotations

from asqcli.report.page.html import NOTHING, Markup, element, items, number, table
from asqcli.report.study import Cell, Comparison, Row, Study


def study_tables(study: Study) -> Markup:
    """Return a study's rows, its comparisons, and why runs failed."""
    document = study.document
    seeds = sorted({cell.seed for row in document.rows for cell in row.cells})
    headings = ["row", "scheme", "bits", "epochs", *(f"seed {seed}" for seed in seeds), "mean", "spread", "to float"]
    parts = [element("p", element("code", str(study.path)))]
    parts.append(table(headings, [_row(row, seeds) for row in document.rows], numbers_from=2))
    parts.append(
        element("p", "Top-1 in percent; spread and distance from the float networks in points.", class_="note")
    )
    if document.comparisons:
        headings = ["row", "against", "bits", "pairs", "wins", "mean difference", "p"]
        parts.append(table(headings, [_comparison(entry) for entry in document.comparisons], numbers_from=2))
        parts.append(element("p", "Pairs have the same seed; differences in points, above 0 where the row is better.",
                             class_="note"))  # fmt: skip
    failed = [(row, cell) for row in document.rows for cell in row.cells if cell.status == "failed"]
    if failed:
        parts.append(items(f"{row.row}, seed {cell.seed} failed: {cell.reason or 'no reason given'}"
                           for row, cell in failed))  # fmt: skip
    return Markup("".join(parts))


def _row(row: Row, seeds: list[int]) -> list[str]:
    cells = {cell.seed: cell for cell in row.cells}
    return [
        row.row,
        row.scheme,
        str(row.bits),
        NOTHING if row.epochs is None else str(row.epochs),
        *(_cell(cells.get(seed)) for seed in seeds),
        number(row.mean, ".2f"),
        number(row.spread, ".2f"),
        number(row.to_float, "+.2f"),
    ]


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    return cell.status if cell.top1 is None else number(cell.top1, ".2f")


def _comparison(comparison: Comparison) -> list[str]:
    return [
        comparison.row,
        comparison.against,
        str(comparison.bits),
        str(comparison.pairs),
        str(comparison.wins),
        number(comparison.mean_difference, "+.2f"),
        number(comparison.p_value, ".3f"),
    ]
