"""Where a page and its pictures go, and what they may replace: what asq wrote, when asked to, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from asqcli.errors import MachineError, UsageError
from asqcli.files import machine_errors, write_atomically
from asqcli.pictures import is_own_png
from asqcli.run.folder import REPORT

GENERATOR = b'name="generator" content="asq report"'
SUFFIX = ".html"


@dataclass(frozen=True)
class Place:
    """A page, and the folder beside it with its pictures: `report.html` and `report_files`."""

    page: Path

    @classmethod
    def choose(cls, out: Path | None, folders: list[Path]) -> Place:
        """Return the place that was asked for; else in the folder of the only run or study, or here.

        Raises:
            UsageError: the name does not end in .html.
        """
        if out is not None and out.suffix.lower() != SUFFIX:
            raise UsageError(f"`--out` is a page, and `{out}` does not end in {SUFFIX}")
        return cls(out or (folders[0] / REPORT if len(folders) == 1 else Path(REPORT)))

    @property
    def folder(self) -> Path:
        """The folder of the pictures."""
        return self.page.with_name(f"{self.page.stem}_files")

    def picture(self, name: str) -> Path:
        """Return the file of a picture."""
        return self.folder / f"{name}.png"

    def require_free(self, *, force: bool) -> None:
        """Find out, before anything is measured, whether the page can be written.

        Args:
            force: may an earlier page of ours be replaced?
        Raises:
            UsageError: something is there already that must not be replaced.
            MachineError: the folder is not there, or not writable.
        """
        if not self.page.parent.is_dir() or not os.access(self.page.parent, os.W_OK):
            raise MachineError(
                f"cannot write `{self.page}`: `{self.page.parent}` is no folder that can be written to",
                "choose another `--out`",
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"`{self.folder}` is there already, and is no folder", "choose another `--out`")
        if not self.page.exists():
            return
        if not self._is_own_page():
            raise UsageError(f"`{self.page}` is there already, and is no page that asq made", "choose another `--out`")
        if not force:
            raise UsageError(f"`{self.page}` is there already", "replace it with --force, or choose another `--out`")

    def write(self, page: str, pictures: Mapping[str, bytes]) -> None:
        """Write pictures, by their names, and then the page; take earlier pictures away.

        Raises:
            UsageError: a file has the name of a picture, and asq did not make it.
            MachineError: a file cannot be written.
        """
        for name in pictures:
            if self.picture(name).exists() and not is_own_png(self.picture(name)):
                raise UsageError(
                    f"`{self.picture(name)}` is there already, and is no picture that asq made",
                    "choose another `--out`",
                )
        for earlier in self.folder.glob("*.png"):
            if earlier.stem not in pictures and is_own_png(earlier):
                with machine_errors(earlier):
                    earlier.unlink()
        for name, content in pictures.items():
            write_atomically(self.picture(name), content)
        write_atomically(self.page, page.encode())

    def _is_own_page(self) -> bool:
        with suppress(OSError), self.page.open("rb") as file:
            return GENERATOR in file.read(1000)
        return False
