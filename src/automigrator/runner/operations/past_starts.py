"""The starts in a row that have failed at the revisions that are pending, as a look finds them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from automigrator.failure import Failure
from automigrator.runner.records.crash_loop import (
    is_sound_again,
    may_try,
    time_text,
    tries_again_at,
)
from automigrator.runner.session import Session
from automigrator.support.concurrency import in_thread


class PastStarts(NamedTuple):
    """How `many` have failed, since when, and when one tries again; times are for a person."""

    many: int = 0
    since: str | None = None
    tries_again_at: str | None = None
    last_failure: Failure | None = None


async def past_starts(session: Session, pending: Sequence[str], limit: int) -> PastStarts:
    """Read how many starts have failed; one that is under way now is not counted.

    `limit`: the Migrator's `max_failed_starts`; the target's own overrides it. Raises what
    reading raises.
    """
    examiner, own = session.examiner(), session.target.max_failed_starts
    record = None if examiner is None else await examiner.record()
    if examiner is None or record is None or not record.starts.count:
        return PastStarts()
    history = await session.history()
    if record.plan != await in_thread(partial(history.digest, pending)):
        return PastStarts()
    under_way = record.outcome == "begun" and await examiner.holder() is not None
    starts = record.starts._replace(count=record.starts.count - under_way)
    if not starts.count:
        return PastStarts()
    limit = limit if own is None else own
    tries = may_try(starts, limit, time.time()) or await is_sound_again(record, examiner)
    again = None if tries else time_text(tries_again_at(starts, limit))
    return PastStarts(starts.count, time_text(starts.since), again, record.last_failure)
