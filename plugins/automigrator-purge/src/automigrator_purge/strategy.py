"""Replaces a database with a failed revision, or a corrupt file, by a fresh, migrated one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, get_args

from automigrator import Decision, Failure, Limits, RefusedError, Run, TargetReport, hookimpl

When = Literal["failed", "damaged"]


class Purge:
    """Strategy: replace the target by a fresh, migrated database, once a run, and answer RETRY.

    It passes to the next strategy when the core refuses the act.

    Arguments:
        when: `"failed"` acts on a failed revision and on a damaged SQLite file, `"damaged"` on the
            damaged file alone, and passes after any other failure.
        set_aside: whether to keep the old database under another name.
        keep: how many old databases stay after a purge and a migration that succeeded; None: all.
            The newest always stays.
        max_age: delete old databases older than this timedelta, or number of days; None: no limit.
        disconnect_others: whether to end sessions of others that are in the way (PostgreSQL).
        python_errors: whether to act on an exception of the revision's own code as well, not only
            where the database says that its data or schema are in the way.
        also: names of tables, with or without a schema, that may be replaced although neither the
            revisions nor `bootstrap` make them: a scheduler's, say.

    Raises ValueError for an option that it cannot use.
    """

    effect = "discarding"

    def __init__(
        self,
        *,
        when: When = "failed",
        set_aside: bool = True,
        keep: int | None = None,
        max_age: timedelta | float | None = None,
        disconnect_others: bool = False,
        python_errors: bool = False,
        also: Sequence[str] = (),
    ) -> None:
        if when not in get_args(When):
            raise ValueError(f"when must be 'failed' or 'damaged', not {when!r}")
        self._damaged_only = when == "damaged"
        self._set_aside = _flag("set_aside", set_aside)
        self._limits = Limits(keep, max_age)
        self.python_errors = _flag("python_errors", python_errors)
        if isinstance(also, str) or not all(isinstance(name, str) and name for name in also):
            raise ValueError(f"also must be a list of names of tables, not {also!r}")
        self._also = tuple(also)
        self._disconnect_others = _flag("disconnect_others", disconnect_others)

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        """Replace the database and note where the old data is; pass when that is refused."""
        if self._damaged_only and failure.kind != "corrupt":
            run.note("not purged: when='damaged' is for a damaged file alone")
            return None
        try:
            place = await run.recreate_database(
                set_aside=self._set_aside,
                disconnect_others=self._disconnect_others,
                also=self._also,
            )
        except RefusedError as refusal:
            run.note(f"not purged: {refusal}")
            return None
        kept = f"the old data is in {place}" if place else "the old data was deleted, as configured"
        run.note(f"purged after a failure of kind {failure.kind}; {kept}")
        return Decision.RETRY

    @hookimpl
    async def after_migrate(self, run: Run, report: TargetReport) -> None:
        """Delete old databases beyond the limits: the fresh one is migrated by now."""
        if run.rebuilt and self._limits:
            await run.prune_set_aside(self._limits.keep, max_age=self._limits.max_age)


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value
