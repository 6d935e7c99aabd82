"""A table of results in a document, written there by the run that found them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Row = tuple[str, ...]
_DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Table:
    """Stands in `document`, a file of docs, between comments that name the `command`."""

    document: str
    command: str
    headings: Row

    def rendered(self, rows: Sequence[Row]) -> str:
        """The rows as a Markdown table."""
        lines = [self.headings, ("---",) * len(self.headings), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def read(self) -> str:
        """The table that the document holds."""
        return self._parts()[1].strip()

    def rows(self) -> list[Row]:
        """The rows of the table that the document holds."""
        lines = self.read().splitlines()[2:]
        return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]

    def write(self, rows: Sequence[Row]) -> None:
        """Put the rows in the document, in the place of those it holds."""
        before, _, after = self._parts()
        text = f"{before}{self._begin}\n{self.rendered(rows)}\n{_END}{after}"
        self._path.write_text(text, "utf-8")

    @property
    def _path(self) -> Path:
        return _DOCS / self.document

    @property
    def _begin(self) -> str:
        return f"<!-- written by `{self.command}`: begin -->"

    def _parts(self) -> tuple[str, str, str]:
        before, begin, rest = self._path.read_text("utf-8").partition(self._begin)
        table, end, after = rest.partition(_END)
        if not (begin and end):
            raise ValueError(f"{self._path} has no place for the table: {self._begin} … {_END}")
        return before, table, after


_END = "<!-- end -->"
