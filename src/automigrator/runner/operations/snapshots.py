"""The copies of a target as a person asks for them: listed, taken, put back, deleted."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.snapshots import PutBack, Snapshot, SnapshotOptions
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import RefusedError, UnknownRevisionError
from automigrator.frozen import Frozen
from automigrator.hooks.registry import Hooks
from automigrator.printable import joined
from automigrator.retention import Limits
from automigrator.runner.inspection import inspect
from automigrator.runner.interruption import repair
from automigrator.runner.pipeline import load_plugins
from automigrator.runner.session import Session
from automigrator.runner.state import RunState
from automigrator.support.concurrency import shielded
from automigrator.support.redaction import first_line


class Restored(Frozen):
    """A snapshot that was put back.

    `place`: where it is now; what a restore or purge had kept is a snapshot from then on. `before`:
    the heads that the database had, None where they could not be read. `after`: its heads now.
    `replaced`: where is kept what it held, and with it everything that was written since the
    snapshot; "" where there was nothing to replace.
    """

    target: str
    place: str
    before: tuple[str, ...] | None
    after: tuple[str, ...]
    replaced: str
    seconds: float

    def __str__(self) -> str:
        lines = [
            f"{self.target}: put back from {self.place} in {self.seconds:.2f} s, "
            f"{_way(self.before, self.after)}"
        ]
        if self.replaced:
            lines.append(
                f"  what it held, and all that was written since the snapshot, is in "
                f"{self.replaced}"
            )
        return joined(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "target": self.target,
            "place": self.place,
            "before": list(self.before) if self.before is not None else None,
            "after": list(self.after),
            "replaced": self.replaced,
            "seconds": self.seconds,
        }


class RestoreOptions(Frozen):
    """See `Migrator.restore_snapshot`."""

    folder: Path | None = None
    disconnect_others: bool = False
    any_heads: bool = False
    binaries: Path | None = None


def path_of(given: str | Path | None) -> Path | None:
    return Path(given) if given is not None else None


async def listed(session: Session, hooks: Hooks, folder: str | Path | None) -> tuple[Snapshot, ...]:
    """List what is kept of a target, without its lock."""
    tables = await _tables(session)
    return await session.backend.snapshots(tables, _folders(hooks, path_of(folder)))


def newest(kept: Sequence[Snapshot], name: str) -> Snapshot:
    """Return the newest whole snapshot; what a restore or purge has kept is none.

    Raises RefusedError where there is none.
    """
    for each in kept:
        if each.whole and each.kind in ("copy", "template", "dump"):
            return each
    raise RefusedError(f"no whole snapshot of {name} is kept; nothing was changed")


async def take(state: RunState, options: SnapshotOptions) -> Snapshot:
    """Take a snapshot that belongs to no migration."""
    run, session = state.run, state.session
    await load_plugins(state)
    async with state.locked() as hold:
        run.offered(hold.snapshots, "snapshots")
        if (done := await repair(state)) is not None:
            run.note(done)
        run.tables = await _tables(session, hold)
        sight = await hold.look(run.tables)
        if not sight.exists:
            raise RefusedError("the database does not exist, so there is nothing to copy")
        run.before = run.wanted = sight.all_heads()
        run.transactional = True  # nothing is migrated that could leave half of it
        options = options._replace(binaries=options.binaries or state.hooks.binaries)
        taken = await run.snapshot(**vars(options))
        await hold.close_journal()
        return await _found(state, taken.place, run.tables, options.folder)


async def restore(state: RunState, place: str, options: RestoreOptions) -> Restored:
    """Put a copy back, whatever state the database is in, and keep what it replaces."""
    run, session, began = state.run, state.session, time.monotonic()
    await load_plugins(state)
    async with state.locked() as hold:
        snapshots = run.offered(hold.snapshots, "snapshots")
        hold.binaries = options.binaries or state.hooks.binaries
        tables = await _tables(session, hold)
        by_hand = snapshots.by_hand(place)
        found = await _found(state, place, tables, options.folder, by_hand)
        if found.flaw:
            raise RefusedError(
                f"{found.place} cannot be put back ({found.flaw}); nothing was changed"
            )
        if not options.any_heads:
            await _ensure_known(session, found)
        before = await _heads(hold, tables)
        run.note(f"{found.place} is put back, {_way(before, found.heads)}")
        step = state.progress.step(
            "restore-started", "restore-failed", state.target, place=found.place
        )
        with step as seconds:
            await hold.confirm()

            async def act() -> PutBack:
                return await snapshots.put_back(
                    found, tables, disconnect_others=options.disconnect_others
                )

            done = await shielded(_forgetting(hold, act))
            after = (await hold.look(tables)).all_heads()
            if after != found.heads:
                raise RuntimeError(
                    f"put back from {done.place}, the database is at {after}, not at "
                    f"{found.heads}; what it held is in {done.replaced}"
                )
        state.tell("restored", place=done.place, kind=None, seconds=seconds())
    await state.backend.refresh()
    elapsed = time.monotonic() - began
    return Restored(run.name, done.place, before, after, done.replaced, elapsed)


async def prune(
    state: RunState, folder: str | Path | None, snapshots: Limits, replaced: Limits, purged: Limits
) -> tuple[str, ...]:
    """Delete copies beyond the limits; nothing is repaired before."""
    run = state.run
    await load_plugins(state)
    deleted: list[str] = []
    async with state.locked() as hold:
        copies = run.offered(hold.snapshots, "snapshots")
        for each in (None, *_folders(state.hooks, path_of(folder))):
            if snapshots:
                deleted += await copies.prune(snapshots, each)
            if replaced:
                deleted += await copies.prune_replaced(replaced, each)
        if purged:
            sides = run.offered(hold.sides, "databases on the side")
            deleted += await sides.prune_set_aside(purged)
            deleted += await sides.prune_damaged(purged)
    return tuple(dict.fromkeys(deleted))


async def _forgetting(hold: Hold, act: Callable[[], Awaitable[PutBack]]) -> PutBack:
    """Restore, and forget what was noted of the migrations that are undone.

    The record of failed starts goes first: after a kill in the middle the next start, which ends
    the restore, must not refuse for their number.
    """
    record = await hold.last()
    await hold.leave(None)
    try:
        done = await act()
    except BaseException:
        with suppress(Exception):  # what was raised is the one to tell
            await hold.leave(record)
        raise
    # a database that was swapped in has what was noted when it was copied
    await hold.leave(None)
    await hold.declare(())
    return done


async def _found(
    state: RunState,
    place: str,
    tables: Sequence[VersionTable],
    folder: Path | None,
    by_hand: str = "",
) -> Snapshot:
    """Return the copy at a place. Raises RefusedError where it is none of this target's."""
    folders = list(_folders(state.hooks, folder))
    if "/" in place:
        place = str(_absolute(place))
        folders.append(_absolute(place).parent)
    kept = await state.backend.snapshots(tables, tuple(dict.fromkeys(folders)))
    if place == "newest":
        return newest(kept, state.run.name)
    for each in kept:
        if place in (each.place, each.place.rpartition("/")[2]):
            return each
    there = ", ".join(each.place for each in kept[:_MOST]) or "none"
    more = f", and {len(kept) - _MOST} more" if len(kept) > _MOST else ""
    raise RefusedError(
        f"{place} is no snapshot of {state.run.name}: it is not there, or it is of another "
        f"database, or of a user who is not trusted with this one; nothing was changed. There "
        f"are: {there}{more}{by_hand}"
    )


_MOST = 5
"""Copies that a refusal lists."""


def _absolute(place: str) -> Path:
    return Path(place).absolute()


async def _ensure_known(session: Session, found: Snapshot) -> None:
    """Raise RefusedError where this code does not know the revisions that a copy is at."""
    why = "which this code does not know"
    try:
        known = (await session.history()).knows(found.heads)
    except Exception as error:  # noqa: BLE001 - a broken history must not be in the way
        known, why = False, f"and the revisions cannot be read ({first_line(error)})"
    if not known:
        raise RefusedError(
            f"{found.place} is at {', '.join(found.heads)}, {why}; nothing was changed. Use the "
            "code of that time, or say any_heads=True"
        )


async def _tables(session: Session, hold: Hold | None = None) -> tuple[VersionTable, ...]:
    """The target's version tables, as far as a database tells them that may be damaged."""
    try:
        return (await inspect(session, hold)).tables
    except UnknownRevisionError as error:
        return tuple(dict.fromkeys(each.table for each in error.contexts)) or (session.table,)
    except Exception:  # noqa: BLE001 - what is wrong with it is why it is to be replaced
        return (session.table,)


async def _heads(hold: Hold, tables: Sequence[VersionTable]) -> tuple[str, ...] | None:
    try:
        return (await hold.look(tables)).all_heads()
    except Exception:  # noqa: BLE001 - as above
        return None


def _folders(hooks: Hooks, folder: Path | None) -> tuple[Path, ...]:
    given = (folder,) if folder is not None else ()
    return tuple(dict.fromkeys((*given, *hooks.folders)))


def _way(before: tuple[str, ...] | None, after: tuple[str, ...]) -> str:
    """Say from where to where."""
    at = "a state that cannot be read" if before is None else ", ".join(before) or "base"
    return f"from {at} to {', '.join(after) or 'base'}"
