"""The table of results in `docs/histories.md`, a row for each history and database."""

from __future__ import annotations

from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "histories.md"
HEADINGS = (
    "history",
    "begins with",
    "database",
    "revisions run",
    "tables compared",
    "against plain Alembic",
    "drive",
    "second run",
)
_BEGIN, _END = "<!-- written by `nox -s histories -- --write-table`: begin -->", "<!-- end -->"

Row = tuple[str, ...]


def rendered(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read() -> str:
    """The table that the document holds."""
    return _parts()[1].strip()


def write(table: str) -> None:
    """Put a table in the document, in the place of the one it holds."""
    before, _, after = _parts()
    DOCUMENT.write_text(f"{before}{_BEGIN}\n{table}\n{_END}{after}", "utf-8")


def _parts() -> tuple[str, str, str]:
    before, _, rest = DOCUMENT.read_text("utf-8").partition(_BEGIN)
    table, _, after = rest.partition(_END)
    return before, table, after
