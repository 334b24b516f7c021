"""Elements of HTML. Texts come from files of strangers: each is escaped here, and nowhere else."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence

from asqcli.errors import printable

NOTHING = "–"


class Markup(str):
    """HTML that is done: it is not escaped again."""


def text(content: str) -> Markup:
    """Return a text as HTML.

    >>> text("<b> & co")
    '&lt;b&gt; &amp; co'
    """
    return content if isinstance(content, Markup) else Markup(html.escape(printable(content)))


def element(name: str, *content: str, **attributes: str) -> Markup:
    """Return an element; `class_` stands for the attribute of that name.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    pairs = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{pairs}>{''.join(map(text, content))}</{name}>")


def items(texts: Iterable[str]) -> Markup:
    """Return a list with a bullet for each text."""
    return element("ul", *(element("li", entry) for entry in texts))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int, name: str = "") -> Markup:
    """Return a table.

    Args:
        name: of its class, for the style.
        numbers_from: the first column that is set flush right.
    """

    def cells(name: str, row: Sequence[str]) -> Markup:
        return element("tr", *(
            element(name, cell, class_="number" if k >= numbers_from else "text") for k, cell in enumerate(row)
        ))  # fmt: skip

    head = element("thead", cells("th", headings))
    whole = element("table", head, element("tbody", *(cells("td", row) for row in rows)), class_=name)
    return element("div", whole, class_="wide")


def picture(png: bytes, description: str) -> Markup:
    """Return a picture that is part of the page."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Markup(f'<img src="{source}" alt="{html.escape(printable(description))}">')


def number(value: float | None, form: str = ".3g") -> str:
    """Return a number, or a dash where there is none.

    >>> number(0.12345), number(None), number(float("nan"))
    ('0.123', '–', '–')
    """
    return NOTHING if value is None or not math.isfinite(value) else format(value, form)
