"""The names outside Alembic's documented API that automigrator relies on, all of them.

`tests/migrations/test_alembic_private.py` fails when a release changes one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import alembic.op
from sqlalchemy import text
from sqlalchemy.schema import ExecutableDDLElement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from alembic.runtime.migration import MigrationContext
    from alembic.script import Script, ScriptDirectory


def steps(
    script: ScriptDirectory, revision: str, heads: tuple[str, ...], *, down: bool = False
) -> list[Any]:
    """What `alembic upgrade`, or `alembic downgrade`, would run, in order."""
    steps_to = script._downgrade_revs if down else script._upgrade_revs
    return list(steps_to(revision, heads))  # type: ignore[arg-type]  # takes a tuple


def parents(script: Script) -> tuple[str, ...]:
    """What a revision comes after: its down revisions and resolved dependencies."""
    return tuple(script._all_down_revisions)


def ancestors(script: ScriptDirectory, revisions: Iterable[str]) -> set[str]:
    """These revisions, and all that they come after."""
    found = [script.get_revision(each) for each in revisions]
    return {each.revision for each in script.revision_map._get_ancestor_nodes(found)}


def descendants(script: ScriptDirectory, revisions: Iterable[str]) -> set[str]:
    """These revisions, and all that come after them."""
    found = [script.get_revision(each) for each in revisions]
    return {each.revision for each in script.revision_map._get_descendant_nodes(found)}


def version_locations(script: ScriptDirectory) -> tuple[Any, ...]:
    """The folders that revisions are read from; an env.py may replace them while it runs."""
    return tuple(script._version_locations)


def remove_operations_proxy() -> None:
    """Undo what a failed revision leaves installed in `alembic.op`."""
    proxy = getattr(alembic.op, "_proxy", None)
    if proxy is not None:
        proxy._remove_proxy()


def load_revisions(script: ScriptDirectory) -> Any:
    """The generator behind a revision map."""
    return script._load_revisions()


def written_by(context: MigrationContext, write: Callable[[str], None]) -> None:
    """Let offline mode give each statement to `write` as online mode would send it.

    Alembic's own writes blanks for each tab. The values of bound parameters stand in the text.
    """
    impl: Any = context.impl

    def execute(
        construct: Any, execution_options: Any = None, multiparams: Any = None, params: Any = None
    ) -> None:
        if multiparams is not None or params:
            raise TypeError("SQL parameters not allowed with as_sql")
        statement = text(construct) if isinstance(construct, str) else construct
        literal = {} if isinstance(statement, ExecutableDDLElement) else {"literal_binds": True}
        write(str(statement.compile(dialect=impl.dialect, compile_kwargs=literal)))

    impl._exec = execute


def keep_version_table(context: MigrationContext) -> None:
    """Let offline SQL create no version table, as there is one; Alembic asks for its heads only."""
    vars(context._version)["create"] = lambda *_, **__: None
