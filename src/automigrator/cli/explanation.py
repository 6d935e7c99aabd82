"""The page of a kind of failure, out of `docs/failures.md`, which the tests write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from automigrator.cli.output import Answer
from automigrator.errors import AutomigratorError
from automigrator.runner.records.crash_loop import EXCUSED

PAGE = "failures.md"

_HERE = Path(__file__).parent

PLACES = (_HERE / PAGE, _HERE.parents[2] / "docs" / PAGE)
"""Where the page is in a wheel, and in the repository."""

MEANING = re.compile(r"^### `([\w-]+)`\n\n(.+)$", re.MULTILINE)
"""A kind's section."""

SITUATIONS = "| what happened | database |"
"""How the table begins."""


_COUNTED = (
    "A start that fails so is counted if it had begun to migrate, and not if it was refused before "
    "that. After Migrator(max_failed_starts=) of them in a row at the same revisions, 5 by "
    "default, a start tries nothing. `automigrator status` shows how many "
    "there are; another deployment ends it, and so does `automigrator clear`."
)
_EXCUSED = "A start that fails only so is not counted as failed: the next one tries again."


def explained(kind: str | None) -> Answer:
    """What a kind of failure means, and what is done about it; of all kinds without one."""
    page = _page()
    meanings = {name: _phrase(sentence) for name, sentence in MEANING.findall(page)}
    if kind is None:
        width = max(map(len, meanings))
        lines = [f"{name:{width}}  {meaning}" for name, meaning in meanings.items()]
        return _wrapped({"kinds": meanings}, lines)
    situations = _situations(page, kind)
    told = [f"{kind}: {meanings[kind]}"]
    for each in situations:
        told += [
            "",
            f"{each['what happened']} ({each['database']})",
            f"  it says: {each['what it says']}",
            f"  state: {each['state']}; tried again: {each['tried again']}; "
            f"strategies that may act: {each['may act']}",
            f"  what to do: {each['what to do']}",
        ]
    counts = kind not in EXCUSED
    told += ["", _COUNTED if counts else _EXCUSED]
    value = {"kind": kind, "meaning": meanings[kind], "situations": situations, "counts": counts}
    return _wrapped(value, told)


def _phrase(sentence: str) -> str:
    """A sentence as it goes on in a line."""
    return sentence[0].lower() + sentence[1:].rstrip(".")


def _wrapped(value: object, lines: list[str]) -> Answer:
    text = "\n".join(lines)
    return Answer(value, text, table=lambda cell: cell(text))


def _situations(page: str, kind: str) -> list[dict[str, str]]:
    """What happened in the tests; what differs in the database alone is told once."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in _rows(page, SITUATIONS):
        if row.pop("kind").strip("`") != kind:
            continue
        plain = {name: cell.replace("`", "") for name, cell in row.items()}
        key = plain["what happened"], plain["what to do"]
        if key in found:
            found[key]["database"] += f", {plain['database']}"
        else:
            found[key] = plain
    return list(found.values())


def _page() -> str:
    for path in PLACES:
        if path.is_file():
            return path.read_text("utf-8")
    raise AutomigratorError(f"the page {PAGE} is missing: install automigrator anew")


def _rows(page: str, begin: str) -> Iterator[dict[str, str]]:
    """The rows of the table that begins so, by the names of its columns."""
    lines = iter(page[page.index(begin) :].splitlines())
    names = _cells(next(lines))
    next(lines)
    for line in lines:
        if not line.startswith("| "):
            return
        yield dict(zip(names, _cells(line), strict=True))


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in line.strip("| ").split(" | ")]
