"""Headless Chromium, as a witness of what a page does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--disable-extensions", "--no-first-run", "--enable-logging=stderr")  # fmt: skip
OWN_HOSTS = "google.com"  # what the browser asks by itself, whatever the page
TIMEOUT_S = 300
WIDTHS = (
    "<script>onload = () => document.title = JSON.stringify([...document.images].map(i => i.naturalWidth))</script>"
)


@dataclass(frozen=True)
class Visit:
    """What a page did.

    Attributes:
        dom: at its end.
        console: lines, errors among them.
        requests: addresses on a network that were asked for.
    """

    dom: str
    console: list[str]
    requests: list[str]


def visit(page: Path, folder: Path) -> Visit:
    """Open a page; `folder` is for the browser's own files."""
    log = folder / "net.json"
    done = subprocess.run(
        [PROGRAM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    addresses = set(re.findall(r'"url":"(\w+://[^"]*)"', log.read_text()))
    network = {a for a in addresses if urlsplit(a).scheme not in ("file", "data")}
    requests = sorted(a for a in network if not (urlsplit(a).hostname or "").endswith(OWN_HOSTS))
    return Visit(done.stdout, re.findall(r"CONSOLE.*", done.stderr), requests)


def picture_widths(page: Path, folder: Path) -> list[int]:
    """Return the width of each picture as decoded, 0 where that failed; by a script in a copy of the page."""
    text = page.read_text(encoding="utf-8")
    allowed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', WIDTHS, text)
    assert WIDTHS in allowed
    copy = folder / "copy.html"
    copy.write_text(allowed, encoding="utf-8")
    return json.loads(re.search(r"<title>(.*?)</title>", visit(copy, folder).dom)[1])
