"""Takes a snapshot before a migration, and restores it after a failure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Literal, get_args

from automigrator import Decision, Failure, Limits, Run, TargetReport, hookimpl

When = Literal["auto", "always"]
Then = Literal["pass", "retry", "continue", "abort"]
Copy = Literal["auto", "template", "dump"]

_DECISIONS = {
    "pass": None,
    "retry": Decision.RETRY,
    "continue": Decision.CONTINUE,
    "abort": Decision.ABORT,
}


_NO_OLD_SCHEMA = frozenset({"ahead", "corrupt"})
"""Kinds of failure that leave a database which no code for the old schema may write to."""


class BackupRestore:
    """Strategy: take a snapshot before a migration, restore it after a failure, answer `then`.

    Arguments:
        snapshot: `"auto"` takes none where a failed attempt rolls back as a whole by itself;
            `"always"` takes one whenever something is pending and there is something to lose.
        then: the answer after the restore: `"pass"` asks the next strategy, `"retry"` tries once
            more, `"continue"` starts the application on the old schema, and passes where the
            database is newer than the code or damaged, `"abort"` stops.
        keep: how many snapshots stay after a migration that succeeded; None: all. The last good
            one always stays.
        keep_replaced: how many of the contents that restores have replaced stay after a migration
            that succeeded; None: all, as somebody may have written to them.
        max_age: delete snapshots older than this timedelta, or number of days; None: no limit.
        folder: the folder for copies of a SQLite file (None: beside it), and for dumps (None:
            make none).
        disconnect_others: whether to end sessions of others that are in the way (PostgreSQL).
        copy: `"template"` or `"dump"` (PostgreSQL); `"auto"` dumps where no template copy can be
            made.
        binaries: the folder of pg_dump, pg_restore and psql; None: search for them.
        repeatable: ids of revisions that need no snapshot, as each can run again after it has
            failed half way; none is taken where nothing else is pending. Default: none of them.

    Raises ValueError for an option that it cannot use.
    """

    effect = "reverting"

    def __init__(
        self,
        *,
        snapshot: When = "auto",
        then: Then = "pass",
        keep: int | None = 3,
        keep_replaced: int | None = None,
        max_age: timedelta | float | None = None,
        folder: str | Path | None = None,
        disconnect_others: bool = False,
        copy: Copy = "auto",
        binaries: str | Path | None = None,
        repeatable: Collection[str] = (),
    ) -> None:
        if snapshot not in ("auto", "always"):
            raise ValueError(f"snapshot must be 'auto' or 'always', not {snapshot!r}")
        if then not in _DECISIONS:
            raise ValueError(f"then must be one of {', '.join(_DECISIONS)}, not {then!r}")
        if not (folder is None or isinstance(folder, str | Path)):
            raise ValueError(f"folder must be a path or None, not {folder!r}")
        if copy not in get_args(Copy):
            raise ValueError(f"copy must be one of {', '.join(get_args(Copy))}, not {copy!r}")
        if copy == "dump" and folder is None:
            raise ValueError("copy='dump' needs a folder for the dumps")
        if not (binaries is None or isinstance(binaries, str | Path)):
            raise ValueError(f"binaries must be a path or None, not {binaries!r}")
        if not isinstance(disconnect_others, bool):
            raise ValueError(f"disconnect_others must be True or False, not {disconnect_others!r}")
        if isinstance(repeatable, str) or not all(isinstance(each, str) for each in repeatable):
            raise ValueError(f"repeatable must be a list of revision ids, not {repeatable!r}")
        self._repeatable = frozenset(repeatable)
        self._always = snapshot == "always"
        self._then = _DECISIONS[then]
        self._limits, self._replaced = Limits(keep, max_age), Limits(keep_replaced)
        self.folder = Path(folder) if folder is not None else None
        """Read by the core as well, to list the copies."""
        self._disconnect_others = disconnect_others
        self._copy: Copy = copy
        self.binaries = Path(binaries) if binaries is not None else None
        """Read by the core as well, for what a start before has left."""

    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        """Take the snapshot; without one nothing is migrated. Raises what prevents it."""
        if not run.pending or (run.transactional and (run.empty or not self._always)):
            return
        pending = {each.revision for each in run.pending}
        if pending <= self._repeatable and not run.rollback:  # a downgrade is other code
            run.note("no snapshot was taken: what is pending is repeatable")
            return
        await run.snapshot(
            folder=self.folder,
            disconnect_others=self._disconnect_others,
            how=self._copy,
            binaries=self.binaries,
        )

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        """Restore this run's snapshot, where the attempt left something; then answer `then`."""
        if failure.state != "clean":
            if run.taken is None and run.acts.open("recover"):
                return None  # the next start puts back what a run before this one has taken
            if run.taken is None:
                run.note("nothing to restore: no snapshot was taken in this run")
                return None
            await run.restore(disconnect_others=self._disconnect_others)
            run.note(f"restored from {run.taken.place}")
        if self._then is Decision.CONTINUE and failure.kind in _NO_OLD_SCHEMA:
            run.note("not continued: then='continue' is for a database of the old schema")
            return None
        return self._then

    @hookimpl
    async def after_migrate(self, run: Run, report: TargetReport) -> None:
        """Delete old copies: a migration that came after them has succeeded."""
        if run.taken is not None:
            limits = self._limits
            await run.prune_snapshots(limits.keep, max_age=limits.max_age, folder=self.folder)
            if self._replaced:
                await run.prune_replaced(self._replaced.keep, folder=self.folder)
