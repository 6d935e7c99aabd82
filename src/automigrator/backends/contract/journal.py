"""The journal: a promise to undo or finish one migration, which outlives the process.

A backend adds its own fields to `Entry`, and stores `json_object.dumped(entry)` where the next
start looks for it. `json_object.read` makes an entry of that again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

from automigrator.frozen import Frozen

State = Literal["migrating", "restoring", "kept"]

"""A snapshot is `kept` when the migration is over: there is nothing left to do with it."""


class Replaced(str):
    """What a repair did, or found done, where a fresh database took the target's place."""


def taken_over(places: object) -> Replaced:
    """Say that a purge was finished whose process was killed; `places`: where the old data is."""
    what = "a fresh database has taken the place of the old one, in a start that was killed"
    return Replaced(
        f"{what}; the old data is in {places}"
        if places
        else f"{what}; no copy of the old data is left"
    )


def undone(place: object, kept: object) -> str:
    """Say that a migration was undone that had not ended; `kept`: where the data is."""
    done = f"an earlier migration had not ended: the database was put back from {place}"
    own = "a backup that somebody has put in its place since is kept as well"
    return f"{done}; {own}: what it held until now is in {kept}" if kept else done


class Repairs(Frozen):
    """Starts in a row that were killed while they put a copy back.

    `last`: when the last one began, on the clock of the lock. `code`: a digest of its deployment.
    Raises ValueError for a count that is none.
    """

    count: int = 0
    last: float = 0.0
    code: str = ""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}")


Counting = Callable[[Repairs, str, str], Awaitable[Repairs]]

"""Counts one more repair, from the place that is its second argument. It raises RefusedError where
too many were killed; its third argument says how to restore by hand."""


@asynccontextmanager
async def counted(
    counting: Counting | None,
    earlier: Repairs,
    place: str,
    by_hand: str,
    note: Callable[[Repairs], Awaitable[object]],
) -> AsyncIterator[Repairs]:
    """Context manager: a repair is under way, and stays counted only where its process is killed.

    `note` writes the count into the journal. Raises what `counting` raises.
    """
    if counting is None:
        yield earlier
        return
    now = await counting(earlier, place, by_hand)
    await note(now)
    try:
        yield now
    except BaseException:
        with suppress(Exception):  # what was raised is the one to tell
            await note(earlier)
        raise


class Entry(Frozen):
    """One migration, from the heads `before` to the heads `after`."""

    state: State
    before: tuple[str, ...]
    after: tuple[str, ...]

    async def needs_nothing(
        self,
        heads: tuple[str, ...],
        unchanged: Callable[[], Awaitable[bool]],
        *,
        place: object,
        steps: tuple[str, ...] | None = None,
        committed: bool | None = None,
        foreign: str = "",
    ) -> str | None:
        """Say why a migration that was left open needs no undoing, or return None.

        Its process was killed, or it could not put the snapshot back: nobody notes which.

        `heads` are the database's now. `unchanged` tells whether schema and rows are those of the
        snapshot at `place`; it is asked only at the heads `before`. `steps` are the revisions that
        the migration was to run: heads outside `before` and `steps` are somebody else's work.
        `committed` tells whether it had begun to commit; each is None where nobody noted it.
        `foreign` says how it is known that the database is another one now. At None the snapshot
        must be put back, which is not done needlessly: it would lose what was written since.
        """
        heads = tuple(sorted(heads))
        at = ", ".join(heads) or "base"
        if heads == tuple(sorted(self.after)):
            return f"an earlier migration had ended at {at}"
        if steps is not None and not set(heads) <= {*self.before, *steps}:
            foreign = f"the database is at {at}, where that migration never leads"
        if foreign:
            migration = (
                f"from {', '.join(self.before) or 'base'} to {', '.join(self.after) or 'base'}"
            )
            return (
                f"an earlier migration {migration} did not end, and since then somebody has "
                f"changed the database by hand ({foreign}): nothing was undone; what the database "
                f"held before that migration is in {place}"
            )
        if heads == tuple(sorted(self.before)):
            if await unchanged():
                return "an earlier migration had changed nothing"
            if committed is False:
                return (
                    "an earlier migration had changed nothing: it had committed nothing, "
                    f"and what differs from {place} was written by others, and stays"
                )
        return None
