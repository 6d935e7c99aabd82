"""Answers a failed revision or a corrupt file with a fresh, migrated database."""

from __future__ import annotations

from automigrator import Decision, Failure, RefusedError, Run, hookimpl


class Purge:
    """Lets a fresh database, migrated on the side, take the target's place, once; then RETRY.

    `set_aside` keeps the old data under another name; `disconnect_others` ends the sessions of
    others that are in the way. Passes when the core refuses the act. Raises ValueError.
    """

    effect = "discarding"

    def __init__(self, *, set_aside: bool = True, disconnect_others: bool = False) -> None:
        self._set_aside = _flag("set_aside", set_aside)
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


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value
