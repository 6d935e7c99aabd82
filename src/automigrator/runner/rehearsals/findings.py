"""What a person should know of measured revisions: who would wait, for how long, what is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from automigrator.backends.contract.meter import Usage
from automigrator.measurement import (
    Finding,
    Level,
    LockHeld,
    RelationUse,
    RevisionMeasured,
    StatementMeasured,
)
from automigrator.rehearsal import Rehearsal
from automigrator.support.sizes import sized

NOTICED_S = 0.1
"""Seconds from which on those who wait for a lock would notice."""

LONG_S = 1.0
"""The age in seconds from which on an open transaction counts as long."""

SHORTEST_WINDOW_S = 2.0
"""Seconds below which a rate is not counted anew: sessions report about once a second."""

LARGER = 1.2
"""How many times larger a table must be than its copy for that to be told."""

Advice = Callable[[str, StatementMeasured], str]


class Over(NamedTuple):
    """A limit of a rehearsal that is exceeded, by the first revision with which it is."""

    revision: str
    said: str


def used(
    before: Usage | None, after: Usage | None, sizes: Mapping[str, int]
) -> tuple[tuple[RelationUse, ...], float, float | None]:
    """Say how relations are used, over how many seconds, and the transactions per second.

    `sizes`: of the copy's tables, in bytes.
    """
    if after is None:
        return (), 0.0, None
    window = after.at - before.at if before is not None else 0.0
    if before is None or window < SHORTEST_WINDOW_S:
        before, window = Usage(), 0.0
    seconds = window or after.counted_s or 1.0

    def rate(now: int | None, then: int | None) -> float | None:
        return None if now is None else max(now - (then or 0), 0) / seconds

    found = []
    for name, now in sorted(after.tables.items()):
        then = before.tables.get(name)
        copied = sizes.get(name, 0)
        found.append(
            RelationUse(
                name,
                now.size,
                rate(now.reads, then.reads if then else None),
                rate(now.writes, then.writes if then else None),
                now.oldest_s,
                now.oldest_writer_s,
                now.size / copied if copied and now.size else 1.0,
            )
        )
    return tuple(found), window, rate(after.transactions, before.transactions)


def locked(revisions: Iterable[RevisionMeasured]) -> tuple[str, ...]:
    """The relations that somebody would wait for."""
    locks = (lock for r in revisions for s in r.statements for lock in s.locks if lock.blocks)
    return tuple(dict.fromkeys(lock.relation for lock in locks))


def findings(
    revisions: Iterable[RevisionMeasured],
    uses: Iterable[RelationUse],
    advice: Advice,
    limits: Rehearsal | None = None,
) -> tuple[Finding, ...]:
    """What a person should know, in the order of the statements; limits exceeded come last."""
    revisions, by_name = tuple(revisions), {each.relation: each for each in uses}
    found = [
        finding
        for revision in revisions
        for statement in revision.statements
        for finding in _of_statement(statement, by_name, advice)
    ]
    over = exceeded(revisions, limits) if limits is not None else None
    if over is not None:
        found.append(Finding("over-limit", "error", over.revision, over.said))
    return tuple(found)


def exceeded(revisions: Iterable[RevisionMeasured], limits: Rehearsal) -> Over | None:
    """The first revision that exceeds a limit, with all that runs before it."""
    for each in revisions:
        block, seconds, growth = limits.max_block, limits.max_time, limits.max_growth
        if block is not None and each.block_s > block:
            what = f"others would wait for {each.block_s:.2f} s, and max_block={block:g}"
        elif seconds is not None and each.seconds > seconds:
            what = f"the revisions take {each.seconds:.2f} s, and max_time={seconds:g}"
        elif growth is not None and each.growth > growth:
            what = f"the database grows by {sized(each.growth)}, and max_growth={growth}"
        else:
            continue
        return Over(each.revision, f"with revision {each.revision} {what}")
    return None


def _of_statement(
    statement: StatementMeasured, uses: Mapping[str, RelationUse], advice: Advice
) -> Iterator[Finding]:
    def finding(kind: str, level: Level, message: str) -> Finding:
        return Finding(
            kind,
            level,
            statement.revision,
            message,
            advice(kind, statement),
            statement.file,
            statement.line,
            statement.sql,
        )

    for lock in statement.locks:
        if lock.blocks:
            yield finding(*_of_lock(statement, lock, uses.get(lock.relation)))
            queue = _queue(statement, lock, uses.get(lock.relation))
            if queue is not None:
                yield finding("queues", *queue)
    locked = {lock.relation for lock in statement.locks if lock.blocks}
    for name in statement.rewritten:
        if name not in locked:
            level: Level = "warning" if statement.seconds >= NOTICED_S else "note"
            yield finding("rewrites", level, f"every row of {name} is written anew")
    if not statement.observed:
        long = statement.seconds >= NOTICED_S
        yield finding(
            "unobserved",
            "warning" if long else "note",
            f"it runs outside a transaction and ended after {statement.seconds:.3f} s, before its "
            "locks could be seen; others may have waited as long",
        )


def _of_lock(
    statement: StatementMeasured, lock: LockHeld, use: RelationUse | None
) -> tuple[str, Level, str]:
    """The kind, the level and the message of a lock that somebody waits for."""
    who = {
        ("reads", "writes"): "whoever reads or writes it",
        ("writes",): "whoever writes to it",
        ("rows",): "whoever writes to the same rows",
    }[lock.blocks]
    table = lock.relation
    if table in statement.rewritten:
        kind, why = "rewrites", ", and every row of it is written anew"
    elif table in statement.scanned and lock.blocks != ("rows",):
        kind, why = "scans", ", and every row of it is read"
    elif lock.blocks == ("rows",):
        kind, why = "locks-rows", f", and {statement.rows} rows are written"
    else:
        kind, why = f"blocks-{lock.blocks[0]}", ""
    scale = use.scale if use is not None and use.scale > LARGER else 1.0
    held_s = lock.held_s * (scale if kind != f"blocks-{lock.blocks[0]}" else 1.0)
    text = f"{table} is locked ({lock.mode}) for {lock.held_s:.3f} s{why}: {who} waits"
    if scale > 1:
        text += (
            f". The application's table is {scale:.1f} times as large: expect about {held_s:.1f} s"
        )
    if use is not None:
        text += _waiting(lock, use, held_s)
    return kind, "warning" if held_s >= NOTICED_S else "note", text


def _waiting(lock: LockHeld, use: RelationUse, held_s: float) -> str:
    reads = use.reads_per_s if "reads" in lock.blocks else 0.0
    if reads is None or use.writes_per_s is None:
        return ""
    rates = [f"{use.writes_per_s:.1f} writes/s"]
    if "reads" in lock.blocks:
        rates.insert(0, f"{reads:.1f} reads/s")
    many = (reads + use.writes_per_s) * held_s
    size = f"{sized(use.size)}, " if use.size else ""
    return f"; the application's table has {size}{', '.join(rates)}: about {many:.0f} would wait"


def _queue(
    statement: StatementMeasured, lock: LockHeld, use: RelationUse | None
) -> tuple[Level, str] | None:
    """What a transaction that is open for long means for a lock; None where there is none."""
    if use is None or lock.blocks == ("rows",):
        return None
    oldest_s = use.oldest_s if "reads" in lock.blocks else use.oldest_writer_s
    if oldest_s < LONG_S:
        return None
    limit_s = statement.lock_timeout_s
    text = (
        f"a transaction that has been open for {oldest_s:.0f} s uses {lock.relation} now: the "
        "statement waits for its end, and whoever comes later waits behind the statement"
    )
    if 0 < limit_s <= LONG_S:
        return "note", f"{text}, for {limit_s:g} s at a time (lock_timeout)"
    how_long = f"for up to {limit_s:g} s (lock_timeout)" if limit_s else "without a limit"
    return "warning", f"{text}, {how_long}"
