"""What two databases do not have in common."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from automigrator.backends.contract.sides import Contents


class Differences(NamedTuple):
    """What two databases do not have in common."""

    structure: frozenset[str]
    values: frozenset[tuple[str, str]]
    """The tables and columns whose values differ; column "" where whole rows do."""


def differences(
    one: Contents, other: Contents, but: frozenset[tuple[str, str]] = frozenset()
) -> Differences:
    """Compare two databases, the values of some columns left out."""
    structure = set(one.structure ^ other.structure)
    values: set[tuple[str, str]] = set()
    for table in one.rows.keys() | other.rows.keys():
        columns, rows = one.rows.get(table, ((), ()))
        others, more = other.rows.get(table, ((), ()))
        if columns != others:
            structure.add(f"columns|{table}")
            continue
        wanted = [n for n, each in enumerate(columns) if (table, each) not in but]
        found = {
            (table, columns[n])
            for n in wanted
            if Counter(row[n] for row in rows) != Counter(row[n] for row in more)
        }
        if not found and _of(rows, wanted) != _of(more, wanted):
            found.add((table, ""))
        values |= found
    return Differences(frozenset(structure), frozenset(values))


def _of(rows: tuple[tuple[bytes, ...], ...], wanted: list[int]) -> Counter[tuple[bytes, ...]]:
    return Counter(tuple(row[n] for n in wanted) for row in rows)
