"""What is replayed: the statements of an upgrade, in the transactions that env.py asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from automigrator.backends.contract.values import VersionTable
from automigrator.migrations.captured_sql import Captured, Written
from automigrator.migrations.offline_sql import Heads


class UnsafeError(Exception):
    """Raised where something may not be replayed; its text is the reason."""


class Statement(NamedTuple):
    """One statement; `revision` is None for what env.py sends before the first revision."""

    revision: str | None
    sql: str


class Part(NamedTuple):
    """One transaction, or one statement that is in none."""

    heads: Heads
    """Those in the version table when it begins."""
    statements: tuple[Statement, ...]
    transactional: bool = True

    @property
    def revisions(self) -> tuple[str, ...]:
        """Those that it runs, or a piece of which it runs, in order."""
        return tuple(dict.fromkeys(each.revision for each in self.statements if each.revision))


class Plan(NamedTuple):
    """An upgrade from `heads`, for every tenant of a history that is there.

    `placeholder` stands in the statements for the tenant's name; None: they name no tenant.
    """

    parts: tuple[Part, ...]
    table: VersionTable
    revisions: Heads
    heads: Heads | None
    placeholder: str | None = None

    @property
    def one_transaction(self) -> bool:
        """Whether all of it is in one."""
        return len(self.parts) == 1 and self.parts[0].transactional

    def of(self, tenant: str | None) -> Plan:
        """The plan of one tenant. Raises UnsafeError for a name that cannot stand in SQL bare."""
        if self.placeholder is None:
            return self
        if tenant is None or not PLAIN.fullmatch(tenant):
            raise UnsafeError(f"the tenant's name {tenant!r} would have to be quoted in SQL")

        def named(text: str) -> str:
            assert self.placeholder is not None and tenant is not None
            return text.replace(self.placeholder, tenant)

        parts = tuple(
            part._replace(
                statements=tuple(each._replace(sql=named(each.sql)) for each in part.statements)
            )
            for part in self.parts
        )
        table = VersionTable(self.table.name, self.table.schema and named(self.table.schema))
        return self._replace(parts=parts, table=table, placeholder=None)


PLAIN = re.compile(r"[a-z_][a-z0-9_]{0,62}")
"""A name that means the same with quotes and without them, unless it is a word of SQL."""


def plan_of(captured: Captured, heads: Heads | None, placeholder: str | None = None) -> Plan:
    """Compose a plan of what was rendered. Raises UnsafeError where it cannot be replayed."""
    parts = tuple(_parts(captured.written))
    for part in parts:
        for each in part.statements:
            if reason := _unsafe(each.sql, placeholder):
                where = f"revision {each.revision}" if each.revision else "env.py's offline mode"
                raise UnsafeError(f"{where}: {reason}")
    if not any(part.transactional for part in parts):
        raise UnsafeError("env.py's offline mode begins no transaction")
    return Plan(parts, captured.table, captured.revisions, heads, placeholder)


def _parts(written: Sequence[Written]) -> Iterator[Part]:
    opened: list[Statement] | None = None
    heads: Heads = ()
    for each in written:
        if each.kind == "begin":
            if opened is not None:
                raise UnsafeError("env.py's offline mode begins a transaction within another")
            opened, heads = [], each.heads
        elif each.kind == "commit":
            if opened:
                yield Part(heads, tuple(opened))
            opened = None
        elif opened is None:
            yield Part(each.heads, (Statement(each.revision, each.sql),), transactional=False)
        else:
            opened.append(Statement(each.revision, each.sql))
    if opened:
        raise UnsafeError("env.py's offline mode leaves a transaction open")


_QUOTED = re.compile(
    r"\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/",
    re.DOTALL,
)
"""What is no SQL by itself: texts, quoted names and bodies, comments."""

_CONTROL = re.compile(
    r"\s*(begin|start|commit|end|rollback|abort|savepoint|release|prepare\s+transaction"
    r"|copy|listen|set\s+(session\s+characteristics|transaction)|discard|vacuum|attach|detach)\b",
    re.IGNORECASE,
)


def _unsafe(sql: str, placeholder: str | None) -> str:
    """Why a statement may not be replayed; empty where it may."""
    if "\\" in sql:
        return "a backslash in SQL, which offline mode may write in another way"
    for each in _QUOTED.sub("''", sql).split(";"):
        if found := _CONTROL.match(each):
            return f"{found[1].upper()} is not for a revision's SQL that is replayed"
    if placeholder is not None:
        whole = re.compile(rf"(?<![\w$]){re.escape(placeholder)}(?![\w$])")
        if len(whole.findall(sql)) != sql.count(placeholder):
            return "the tenant's name is a part of a longer name"
    return ""
