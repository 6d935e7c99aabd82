"""What the server says of a long statement: how far an index, a rewrite, a copy is."""

from __future__ import annotations

from typing import NamedTuple

from automigrator.backends.contract.values import StatementProgress
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.sql import rows_of
from automigrator.support.concurrency import shielded


class _View(NamedTuple):
    """A view of the server: what a row of it is called, what is done, and of how much."""

    what: str
    done: str
    total: str


_VIEWS = {
    "pg_stat_progress_create_index": _View(
        "command || ': ' || phase",
        "case when starts_with(phase, 'waiting') then lockers_done "
        "when tuples_total > 0 then tuples_done else blocks_done end",
        "case when starts_with(phase, 'waiting') then lockers_total "
        "when tuples_total > 0 then tuples_total else blocks_total end",
    ),
    "pg_stat_progress_cluster": _View(
        "command || ': ' || phase", "heap_blks_scanned", "heap_blks_total"
    ),
    "pg_stat_progress_vacuum": _View("'VACUUM: ' || phase", "heap_blks_scanned", "heap_blks_total"),
    "pg_stat_progress_analyze": _View(
        "'ANALYZE: ' || phase", "sample_blks_scanned", "sample_blks_total"
    ),
    "pg_stat_progress_copy": _View("command", "bytes_processed", "bytes_total"),
}
"""Not every version of the server has all of them."""


class ProgressReader:
    """Reads, in the lock's own session, how far the statements are that run under the lock.

    The server answers at once from its memory. It is asked as the lock's own beat is: one that
    does not answer is given up no earlier than there, and an act that keeps the session busy is
    never waited for.
    """

    def __init__(self) -> None:
        self._query: str | None = None

    async def read(self, hold: SessionHold) -> StatementProgress | None:
        """Return the progress of one such statement; None where the server says nothing."""
        if hold.acts or hold.lost:
            return None
        if self._query is None:
            known = "select viewname::text from pg_views where schemaname = 'pg_catalog'"
            found = {each for (each,) in await shielded(hold.in_time(rows_of(hold.admin, known)))}
            self._query = _query([each for each in _VIEWS if each in found])
        if not self._query:
            return None
        rows = await shielded(hold.in_time(rows_of(hold.admin, self._query, tag=hold.tag)))
        return StatementProgress(*rows[0]) if rows else None


def _query(views: list[str]) -> str:
    parts = [
        f"select pid, {what} as what, ({done})::int8 as done, ({total})::int8 as total from {view}"
        for view, (what, done, total) in ((each, _VIEWS[each]) for each in views)
    ]
    if not parts:
        return ""
    return f"""
        select p.what, coalesce(p.done, 0), coalesce(p.total, 0)
        from ({" union all ".join(parts)}) p join pg_stat_activity a on a.pid = p.pid
        where starts_with(a.application_name, :tag)
              and p.what is not null  -- a role that may not look is not told
        order by a.query_start
    """
