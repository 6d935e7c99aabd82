"""Answers a failed revision or a corrupt file with a fresh, migrated database."""

from __future__ import annotations

from datetime import timedelta

from automigrator import Decision, Failure, Limits, RefusedError, Run, TargetReport, hookimpl


class Purge:
    """Lets a fresh database, migrated on the side, take the target's place, once; then RETRY.

    `set_aside` keeps the old data under another name. After a purge and a migration that
    succeeded the newest `keep` such databases stay, without those older than `max_age` (a
    timedelta, or days); by default all of them do, and the newest always. `disconnect_others`
    ends the sessions of others that are in the way. Passes when the core refuses the act. Raises
    ValueError.
    """

    effect = "discarding"

    def __init__(
        self,
        *,
        set_aside: bool = True,
        keep: int | None = None,
        max_age: timedelta | float | None = None,
        disconnect_others: bool = False,
    ) -> None:
        self._set_aside = _flag("set_aside", set_aside)
        self._limits = Limits(keep, max_age)
        self._disconnect_others = _flag("disconnect_others", disconnect_others)

    @hookimpl
    async def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        try:
            place = await run.recreate_database(
                set_aside=self._set_aside, disconnect_others=self._disconnect_others
            )
        except RefusedError as refusal:
            run.note(f"not purged: {refusal}")
            return None
        kept = f"the old data is in {place}" if place else "the old data was deleted, as configured"
        run.note(f"purged after a failure of kind {failure.kind}; {kept}")
        return Decision.RETRY

    @hookimpl
    async def after_migrate(self, run: Run, report: TargetReport) -> None:
        """Only now: the data of an earlier purge goes when the fresh database is migrated."""
        if run.rebuilt and self._limits:
            await run.prune_set_aside(self._limits.keep, max_age=self._limits.max_age)


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value
