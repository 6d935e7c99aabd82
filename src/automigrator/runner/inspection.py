"""How a database stands against its history; finding out changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.values import Sight, VersionTable
from automigrator.errors import EnvError, JudgedError, UnknownRevisionError
from automigrator.migrations import folders
from automigrator.migrations.execution import Configured
from automigrator.migrations.history import History
from automigrator.migrations.probe import probe, usual
from automigrator.migrations.ways import Way
from automigrator.runner.session import Session
from automigrator.target import Target


class Finding(NamedTuple):
    """What is, and what should be: one entry of `contexts` per version table."""

    sight: Sight
    contexts: tuple[Configured, ...]
    way: Way | None = None
    """The way env.py was found to reach the database; None when it was not needed to tell."""
    begun: bool = False
    """Whether the target's `bootstrap` made the tables and the revisions from base are to come."""
    notes: tuple[str, ...] = ()
    """Remarks for the report, for what is no failure and hardly meant."""
    down_to: str | None = None
    """Where a rollback is to lead: what is `pending` is to be undone then."""
    assumed: bool = False
    """Whether env.py was not asked yet: it is expected to take this way, and to configure this."""

    @property
    def tables(self) -> tuple[VersionTable, ...]:
        return tuple(dict.fromkeys(context.table for context in self.contexts))

    @property
    def heads(self) -> tuple[str, ...]:
        return _union(context.heads for context in self.contexts)

    @property
    def wanted(self) -> tuple[str, ...]:
        return _union(context.wanted for context in self.contexts)

    @property
    def pending(self) -> tuple[str, ...]:
        """In the order they would run."""
        return tuple(dict.fromkeys(r for context in self.contexts for r in context.pending))

    @property
    def one_transaction(self) -> bool:
        """Whether all that is pending runs in one transaction."""
        pending = sum(bool(context.pending) for context in self.contexts)
        return pending <= 1 and all(context.one_transaction for context in self.contexts)

    @property
    def unversioned(self) -> bool:
        """Whether there are tables, and no version row says what they are."""
        return self.sight.has_tables and not self.heads and not self.begun

    def reached(self, history: History, sight: Sight) -> bool:
        """Whether every version table now has what was wanted of it, or no more than that."""
        for context in self.contexts:
            heads = sight.heads.get(context.table) or ()
            if self.down_to is not None:
                if history.applied(context.pending, heads):
                    return False
            elif not history.reached(context.wanted, heads):
                return False
        return True

    def ended(
        self, history: History, revisions: Iterable[str], heads: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Those of `revisions` that a database at `heads` has, or in a rollback has no more."""
        revisions = tuple(revisions)
        there = history.applied(revisions, heads)
        return there if self.down_to is None else tuple(e for e in revisions if e not in there)


async def inspect(
    session: Session,
    hold: Hold | None = None,
    *,
    sight: Sight | None = None,
    needs_way: bool = False,
    assume: bool = False,
    prove: bool = False,
    ask: bool = False,
) -> Finding:
    """Compare heads with history, under the lock where it is held; env.py is asked if it must be.

    `sight`: what a look just now has found; there is another look without it.
    `needs_way`: how env.py reaches the database is to be found, where something is pending.
    `assume`: take the way that another target's env.py took, where there is one. `prove`: else
    the usual way, where its syntax proves that env.py configures one version table; how it does
    that is not known then. Neither where tables are to be stamped first.
    `ask`: ask env.py, whatever is known.
    Raises what looking raises, UnknownRevisionError, HistoryError and EnvError.
    """
    target, table, history = session.target, session.table, await session.history()
    look = (hold or session.backend).look
    known = None
    if assume and session.common is not None:
        known = session.common.way(target, session.backend, session.place)
    if sight is None:
        both = [table] if known is None else list(dict.fromkeys((table, known[1].table)))
        sight = await look(both)
        if len(both) > 1 and sight.has_tables and not all(sight.heads.values()):
            sight = await look([table])  # one at both does not say where other tables are
    heads = sight.heads
    sight = sight._replace(heads={table: heads.get(table)})
    proof = history.proof
    if proof.folders:
        folders.check(history.script)  # else env.py may name others
    if not sight.exists:
        return Finding(sight, (_compared(target, history, table, ()),))
    if proof.folders and (proof.table or target.version_table is not None):
        context = _compared(target, history, table, sight.heads[table] or ())
        _all_known((context,))
        if not (ask or (needs_way and context.pending)):
            return Finding(sight, (context,), begun=_begun(target, sight), notes=_notes(history))
        stamped_first = sight.has_tables and not context.heads
        if known is not None and not stamped_first:
            way, like = known
            if like.table != table:
                if like.table in heads:
                    sight = sight._replace(heads={like.table: heads[like.table]})
                else:
                    sight = await look([like.table])
                context = _compared(target, history, like.table, sight.heads[like.table] or ())
                _all_known((context,))
            return Finding(sight, (like.of(context),), way, assumed=True)
        # else it lies where its connections find it, and not where the target says
        named = not proof.table or table.schema is None
        if prove and not stamped_first and proof.once and named:
            expected = usual(await session.migration(hold))
            if expected is not None:
                # nothing is said of its transactions until they are seen
                context.one_transaction = False
                return Finding(sight, (context,), expected, assumed=True)
    way, execution = await probe(await session.migration(hold))
    folders.check(history.script)
    contexts = tuple(execution.contexts)
    names = [context.table.name for context in contexts]
    if target.version_table not in (None, *names):
        raise EnvError(
            f"env.py keeps the database's heads in {', '.join(names)}, and the target says "
            f"version_table={target.version_table!r}; let them agree, or leave it out"
        )
    _all_known(contexts)
    tables = list(dict.fromkeys(context.table for context in contexts))
    if tables != [table]:
        sight = await look(tables)
    if session.common is not None and len(contexts) == 1:
        session.common.note(target, session.backend, way, contexts[0])
    return Finding(sight, contexts, way, _begun(target, sight), _notes(history))


def judge(target: Target, finding: Finding) -> None:
    """Raise JudgedError for a database that must not be migrated as it stands."""
    if finding.unversioned and target.baseline is None:
        tables = ", ".join(map(str, finding.tables))
        begun = ""
        if any(heads == () for heads in finding.sight.heads.values()):
            begun = (
                f". {tables} is there, and empty: an installation may have begun and stopped half "
                "way. If so, delete what it has made, and start again"
            )
        raise JudgedError(
            "unversioned",
            f"the database has tables, but no row in {tables} says which revision they are at; "
            f"nothing was changed{begun}",
        )


def baseline_of(target: Target, finding: Finding) -> str | None:
    """The revision to stamp before the pending ones run; None for a database that needs none."""
    return target.baseline if finding.unversioned and target.baseline != "base" else None


async def inspect_down(session: Session, hold: Hold, revision: str) -> Finding:
    """Compare heads with the revision to roll back to, under the lock; changes nothing.

    Raises what `inspect` raises, and JudgedError for a database that does not exist.
    """
    history = await session.history()
    finding = await inspect(session, hold)
    if not finding.sight.exists:
        raise JudgedError("unreachable", "the database does not exist; there is nothing to undo")
    way, execution = await probe(await session.migration(hold))
    _all_known(contexts := tuple(execution.contexts))
    for context in contexts:
        steps = history.steps(revision, context.heads, down=True)
        context.pending = history.ids(steps)
        context.wanted = history.remaining(context.heads, steps)
    sight = await hold.look(list(dict.fromkeys(context.table for context in contexts)))
    return Finding(sight, contexts, way, down_to=revision)


def _all_known(contexts: tuple[Configured, ...]) -> None:
    for context in contexts:
        if context.ahead is not None:
            context.ahead.contexts = contexts
            raise context.ahead


def _notes(history: History) -> tuple[str, ...]:
    if history.heads:
        return ()
    places = ", ".join(map(str, folders.named(history.script)))
    return (
        f"there is no revision in {places}, so nothing is ever migrated; if there should be some, "
        "look whether the deployment has the files",
    )


def _begun(target: Target, sight: Sight) -> bool:
    """An empty version table is what `bootstrap` leaves when it says to go on from base."""
    return callable(target.bootstrap) and () in sight.heads.values()


def _compared(
    target: Target, history: History, table: VersionTable, heads: tuple[str, ...]
) -> Configured:
    try:
        pending, wanted = history.outlook(target.revision, heads)
    except UnknownRevisionError as error:
        return Configured(table, heads=heads, ahead=error)
    return Configured(table, heads=heads, pending=pending, wanted=wanted)


def _union(heads: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({head for each in heads for head in each}))
