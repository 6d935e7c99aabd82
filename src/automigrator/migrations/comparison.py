"""Compares models with a migrated schema, by Alembic's comparison and env.py's options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData
from sqlalchemy.sql.schema import ColumnCollectionConstraint

from automigrator.errors import EnvError
from automigrator.migrations.drive import drive
from automigrator.migrations.execution import Command, Migration
from automigrator.migrations.probe import probe

MODELS, DATABASE = "only in the models", "only in the database"


async def drift(migration: Migration, models: MetaData | Sequence[MetaData]) -> tuple[str, ...]:
    """Return a line for each difference between `models` and the database; only reads.

    env.py's options for `context.configure` apply: `include_object`, `compare_type`, schemas.
    Raises EnvError, and what env.py and the comparison raise.
    """
    found: list[tuple[str, ...]] = []

    def compare(context: MigrationContext) -> None:
        # Alembic takes several, as target_metadata may be
        found.append(tuple(described(compare_metadata(context, models))))  # type: ignore[arg-type]

    way, _ = await probe(migration)
    await drive(migration, way, Command(migration.target.revision, compare=compare))
    if not found:
        raise EnvError("env.py returned before the models could be compared")
    return tuple(dict.fromkeys(line for lines in found for line in lines))


def described(differences: Iterable[Any]) -> Iterator[str]:
    """A line for people for each difference that Alembic reports."""
    for each in differences:
        if isinstance(each, list):  # the differences of one column
            yield from described(each)
        else:
            yield _line(each)


def _line(difference: tuple[Any, ...]) -> str:
    kind, *rest = difference
    where = MODELS if kind.startswith("add_") else DATABASE
    match kind, rest:
        case "add_table" | "remove_table", [table]:
            return f"table {table.fullname}: {where}"
        case "add_column" | "remove_column", [schema, table, column]:
            return f"{_column(schema, table, column.name)}: {where}"
        case "add_index" | "remove_index", [index]:
            unique = "unique index" if index.unique else "index"
            return f"{unique} {index.name} on {index.table.fullname}: {where}"
        case "add_constraint" | "remove_constraint" | "add_fk" | "remove_fk", [constraint]:
            return f"{_constraint(constraint)}: {where}"
        case "modify_nullable", [schema, table, column, _, old, new]:
            words = {True: "nullable", False: "not nullable"}
            return _modified(schema, table, column, words.get(old, old), words.get(new, new))
        case "modify_default", [schema, table, column, _, old, new]:
            return _modified(schema, table, column, f"default {_default(old)}", _default(new))
        case "modify_type" | "modify_comment", [schema, table, column, _, old, new]:
            what = kind.removeprefix("modify_")
            return _modified(schema, table, column, f"{what} {old!r}", f"{new!r}")
        case "add_table_comment" | "remove_table_comment", [table, *_]:
            return f"table {table.fullname}: its comment differs"
    return f"{kind} {', '.join(str(getattr(each, 'name', each)) for each in rest)}"


def _modified(schema: str | None, table: str, column: str, old: Any, new: Any) -> str:
    return f"{_column(schema, table, column)}: {old} in the database, {new} in the models"


def _column(*names: str | None) -> str:
    return f"column {'.'.join(filter(None, names))}"


def _constraint(constraint: ColumnCollectionConstraint) -> str:
    kind = type(constraint).__name__.removesuffix("Constraint").lower()
    kind = {"foreignkey": "foreign key"}.get(kind, kind)
    columns = ", ".join(constraint.columns.keys())
    name = f" {constraint.name}" if constraint.name else ""
    return f"{kind} constraint{name} on {constraint.table.fullname} ({columns})"


def _default(default: Any) -> str:
    return "none" if default is None else str(getattr(default, "arg", default))
