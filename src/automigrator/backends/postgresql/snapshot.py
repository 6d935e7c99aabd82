"""A target's snapshots: this run's own, made as a template copy or as a dump, and older ones."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

from automigrator.backends.contract.snapshots import (
    DEFAULT,
    Copying,
    Snapshot,
    SnapshotOptions,
    Snapshots,
)
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases, journal
from automigrator.backends.postgresql.dump import files
from automigrator.backends.postgresql.dump.dump import Dumps
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.journal import CopyEntry
from automigrator.backends.postgresql.names import Kind, Ours, ours
from automigrator.backends.postgresql.template_copy import TemplateCopies
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import shielded

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Maker(Protocol):
    """One way to make snapshots; every method but `close` raises RefusedError in words."""

    @property
    def place(self) -> str | None:
        """The snapshot whose journal this run has open."""

    async def take(self, stamp: str, entry: CopyEntry, options: SnapshotOptions) -> str:
        """Make and verify a snapshot, and open its journal with `entry`; returns its place."""

    async def restore(self, stamp: str, *, disconnect_others: bool) -> tuple[str, ...]:
        """Put the open snapshot back; returns where the data is kept that was replaced."""

    async def close(self) -> None:
        """Close the journal, if this run has one open."""


class Heard(Protocol):
    """Awaits a long act of the lock's session while the server answers others."""

    async def __call__(self, act: Awaitable[T], what: str) -> T: ...


class ServerSnapshots(Snapshots):
    """Template copies on the server, or dumps in a folder.

    `access` raises RefusedError where the lock's session is not apart from the target, unless it
    is told `apart=False`.
    """

    def __init__(self, access: Callable[..., ExclusiveAccess], heard: Heard) -> None:
        self._access, self._heard = access, heard
        self._templates = TemplateCopies(access)
        self._dumps = Dumps(access("dump", apart=False))
        self._makers: tuple[Maker, ...] = (self._dumps, self._templates)
        self._own: set[str] = set()
        """The places this run has made itself: a clock may say that they are the oldest."""

    async def take(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        options: SnapshotOptions = DEFAULT,
        *,
        atomic: bool = False,
    ) -> Snapshot:
        self._own.clear()  # a run takes one snapshot
        entry = CopyEntry(
            "migrating",
            heads,
            wanted,
            tables=tuple(tables),
            disconnect_others=options.disconnect_others,
            atomic=atomic,
        )
        taken = by_template_or_dump(
            options.how,
            lambda: self._templates.take(stamp, entry, options),
            lambda: self._dumps.take(stamp, entry, options),
            "no snapshot can be made",
        )
        place = await self._heard(taken, "what takes a snapshot")
        self._own.add(place)
        return Snapshot(place, heads, stamp)

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str:
        for maker in self._makers:
            if maker.place == snapshot.place:
                restored = maker.restore(snapshot.stamp, disconnect_others=disconnect_others)
                kept = await self._heard(restored, "what restores a snapshot")
                self._own.update(kept)
                return ", ".join(kept)
        raise RefusedError(f"{snapshot.place} is no snapshot of this run; nothing was changed")

    async def close(self) -> None:
        """See `Hold.close_journal`."""
        await self._heard(self._closed(), "what closes the journal")

    async def recover(self) -> str | None:
        """Finish or undo what a dead leader left; says what was done."""
        return await self._heard(self._recovered(), "what finishes or undoes a killed migration")

    async def prune(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        pruned = self._pruned(limits, ("snapshot", "undone"), folder)
        return await self._heard(pruned, "what drops old snapshots")

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        """Drop those beyond the limits of the databases that a purge has replaced."""
        return await self._heard(self._pruned(limits, ("purged",)), "what drops old databases")

    def spare(self, place: str) -> None:
        """Let no pruning of this run delete a database that a purge has set aside."""
        self._own.add(place)

    async def _closed(self) -> None:
        for maker in self._makers:
            await maker.close()

    async def _recovered(self) -> str | None:
        done = await self._dumps.recover()
        access = self._access("recover", apart=False)
        found = await ours(access.admin, access.live)
        copied = None
        if any(each.kind not in ("purged", "undone") for each in found):
            copied = await self._templates.recover(found)
        return "; ".join(each for each in (done, copied) if each) or None

    async def _pruned(
        self, limits: Limits, kinds: tuple[Kind, ...], folder: Path | None = None
    ) -> tuple[str, ...]:
        """Delete what is beyond the limits, of each kind by itself; never one that is needed."""
        deleted: list[str] = []
        for kind in kinds:
            deleted += await self._pruned_of(limits, kind, folder)
        return tuple(deleted)

    async def _pruned_of(self, limits: Limits, kind: Kind, folder: Path | None) -> list[str]:
        access = self._access("drop snapshots of", apart=False)
        beside = await ours(access.admin, access.live)
        found: list[Ours | files.DumpFile] = [e for e in beside if e.kind == kind]
        opened = await journal.read(access.admin, [each.name for each in beside])
        spared = {*self._own, *opened, *(maker.place for maker in self._makers)}
        if folder is not None:
            dump_kind: files.Kind = "replaced" if kind == "undone" else "snapshot"
            found += files.found(folder, access.access.url, dump_kind)
        outdated = limits.outdated([each.stamp for each in found], datetime.now(UTC))
        deleted = []
        for each in found:
            if each.stamp not in outdated or each.name in spared:
                continue
            try:
                if isinstance(each, files.DumpFile):
                    files.delete(each)
                else:
                    admin = self._access("drop snapshots of").admin
                    await shielded(databases.drop(admin, each.name))
            except RefusedError as error:
                logger.warning("%s stays: %s", each.name, error)
            else:
                deleted.append(each.name)
        return deleted


async def by_template_or_dump(
    how: Copying,
    template: Callable[[], Awaitable[T]],
    dump: Callable[[], Awaitable[T]],
    failed: str,
) -> T:
    """Make a copy the way that is asked for: by default as a dump where a template is refused.

    Raises RefusedError with the reasons of both.
    """
    if how == "dump":
        return await dump()
    try:
        return await template()
    except RefusedError as error:
        if how == "template":
            raise
        refused = error
    try:
        return await dump()
    except RefusedError as error:
        raise RefusedError(f"{failed}: {refused}; {error}") from error
