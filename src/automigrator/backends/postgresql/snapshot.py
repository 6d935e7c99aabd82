"""A target's snapshots: this run's own, made as a template copy or as a dump, and older ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from automigrator.backends.contract.journal import Repairs, Replaced
from automigrator.backends.contract.snapshots import (
    DEFAULT,
    Copying,
    PutBack,
    Snapshot,
    SnapshotOptions,
    Snapshots,
)
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import databases, journal
from automigrator.backends.postgresql.copying import kept_copies, template_copy
from automigrator.backends.postgresql.dump import dump, files
from automigrator.backends.postgresql.exclusive import ExclusiveAccess
from automigrator.backends.postgresql.journal import CopyEntry, DumpEntry
from automigrator.backends.postgresql.locking.session import SessionHold
from automigrator.backends.postgresql.names import Kind, Ours, ours
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import shielded
from automigrator.support.loggers import logger_of

T = TypeVar("T")

Restored = tuple[tuple[str, ...], CopyEntry | DumpEntry]
"""Where the replaced data is, and the journal's entry after a restore."""

logger = logger_of(__name__)


class ServerSnapshots(Snapshots):
    """Template copies on the server, or dumps in a folder.

    `access` raises RefusedError where the lock's session is not apart from the target, unless it
    is told `apart=False`.
    """

    def __init__(self, hold: SessionHold, access: Callable[..., ExclusiveAccess]) -> None:
        self._hold, self._access = hold, access
        self._open: dict[str, CopyEntry | DumpEntry] = {}
        """The snapshots whose journals this run has open, by place: at most one of a kind."""
        self.doomed: set[str] = set()
        """Databases that a purge replaced, to be dropped when this part of the run is over."""
        self.own: set[str] = set()
        """The places this run has made itself, which it never prunes.

        A clock may say that they are the oldest.
        """

    async def take(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        options: SnapshotOptions = DEFAULT,
        *,
        atomic: bool = False,
        steps: Sequence[str] | None = None,
    ) -> Snapshot:
        self.own.clear()  # a run takes one snapshot
        entry = CopyEntry(
            "migrating",
            heads,
            wanted,
            tables=tuple(tables),
            disconnect_others=options.disconnect_others,
            steps=tuple(steps) if steps is not None else None,
            committed=False if steps is not None else None,
            atomic=atomic,
        )
        stoppable = Stoppable()

        async def take() -> str:
            opened: CopyEntry | DumpEntry
            place, opened = await by_template_or_dump(
                options.how,
                lambda: template_copy.take(
                    self._access("take a snapshot of"), stamp, entry, stoppable
                ),
                lambda: dump.take(
                    self._access("dump", apart=False), stamp, entry, options, stoppable
                ),
                "no snapshot can be made",
            )
            others = {p: each for p, each in self._open.items() if type(each) is not type(opened)}
            self._open = {**others, place: opened}
            return place

        place = await self._hold.heard(shielded(take(), stoppable.stop), "the snapshot")
        self.own.add(place)
        dumped = isinstance(self._open[place], DumpEntry)
        return Snapshot(place, heads, stamp, "dump" if dumped else "template")

    @property
    def untouched(self) -> bool:
        return any(entry.committed is False for entry in self._open.values())

    async def began(self, transaction: str) -> None:
        for place, entry in list(self._open.items()):
            transactions = (*entry.transactions, transaction)
            await self._note(place, entry._replace(transactions=transactions))

    async def committing(self) -> None:
        for place, entry in list(self._open.items()):
            if entry.committed is False:
                await self._note(place, entry._replace(committed=True))

    async def _note(self, place: str, entry: CopyEntry | DumpEntry) -> None:
        await self._hold.in_time(shielded(self._written(place, entry)))
        self._open[place] = entry

    async def _written(self, place: str, entry: CopyEntry | DumpEntry) -> None:
        access = self._access("note in", apart=False)
        if isinstance(entry, DumpEntry):
            await journal.write_dump(access.hold, entry)
        else:
            await journal.write(access.admin, place, entry)

    async def differs(self, snapshot: Snapshot) -> bool:
        place, access = snapshot.place, self._access("compare", apart=False)
        match self._open.get(place):
            case DumpEntry() as entry:
                found = dump.differs(access, entry)
            case CopyEntry() as entry:
                found = template_copy.differs(access, place, entry)
            case _:
                return False
        return await self._hold.heard(shielded(found), "the comparison with the snapshot")

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool = False) -> str:
        place = snapshot.place
        if place not in self._open:
            raise RefusedError(f"{place} is no snapshot of this run; nothing was changed")
        entry = self._open[place]._replace(disconnect_others=disconnect_others)
        restored: Awaitable[Restored]
        if isinstance(entry, DumpEntry):
            restored = dump.put_back(self._access("dump", apart=False), entry)
        else:
            access = self._access("restore")
            restored = template_copy.put_back(access, place, snapshot.stamp, entry)
        done: Restored = await self._hold.heard(shielded(restored), "the restore")
        kept, self._open[place] = done
        self.own.update(kept)
        return ", ".join(kept)

    async def put_back(
        self,
        snapshot: Snapshot,
        tables: Sequence[VersionTable],
        *,
        disconnect_others: bool = False,
    ) -> PutBack:
        dumped = kept_copies.is_dump(snapshot)
        access = self._access("dump" if dumped else "restore", apart=not dumped)
        restored = kept_copies.put_back(
            access, snapshot, tuple(tables), disconnect_others, self.recover
        )
        return await self._hold.heard(shielded(restored), "the restore")

    async def close(self) -> None:
        """See `Hold.close_journal`."""
        access = self._access("end", apart=False)
        for name in list(self.doomed):
            await shielded(access.discard(name))
            self.doomed.discard(name)
        for place, entry in list(self._open.items()):
            if isinstance(entry, DumpEntry):
                await shielded(journal.forget_dump(access.hold))
            else:  # the copy stays from now on
                await shielded(journal.write(access.admin, place, entry._replace(state="kept")))
            del self._open[place]

    def opened(self, purged: str, entry: CopyEntry) -> None:
        """Note that a database which a purge set aside has an open journal of this run."""
        self._open[purged] = entry

    async def forget_repairs(self) -> None:
        """See `Hold.forget_repairs`."""
        access = self._access("forget", apart=False)
        found = await ours(access.admin, access.live)
        for name, copy in (await journal.read(access.admin, [e.name for e in found])).items():
            if copy.repairs.count and copy.key in (None, *self._hold.all_keys):
                await journal.write(access.admin, name, copy._replace(repairs=Repairs()))
        dumped = await journal.read_dump(access.access, self._hold.dump_key)
        if dumped is not None and dumped.repairs.count:
            await journal.write_dump(access.hold, dumped._replace(repairs=Repairs()))

    async def recover(self) -> str | None:
        """Finish or undo what a dead leader left; says what was done."""
        access = self._access("recover", apart=False)
        # a copy is still there to go back to, and a dump's journal is not
        self._open = {p: each for p, each in self._open.items() if isinstance(each, CopyEntry)}
        done = [
            *[await self._dump_recovered(access, key) for key in self._hold.all_keys],
            await shielded(template_copy.recovered(access, lambda: self._access("recover"))),
        ]
        told = "; ".join(each for each in done if each)
        return Replaced(told) if any(isinstance(each, Replaced) for each in done) else told or None

    async def _dump_recovered(self, access: ExclusiveAccess, key: int) -> str | None:
        self._hold.dump_key = key
        try:
            return await shielded(dump.recovered(access))
        finally:
            self._hold.dump_key = self._hold.key

    async def prune(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        pruned = self.pruned(limits, ("snapshot",), folder)
        return await self._hold.heard(pruned, "the dropping of old snapshots")

    async def prune_replaced(self, limits: Limits, folder: Path | None = None) -> tuple[str, ...]:
        pruned = self.pruned(limits, ("undone",), folder)
        return await self._hold.heard(pruned, "the dropping of what was replaced")

    async def pruned(
        self, limits: Limits, kinds: tuple[Kind, ...], folder: Path | None = None
    ) -> tuple[str, ...]:
        """Delete what is beyond the limits, of each kind by itself; never one that is needed."""
        access = self._access("drop snapshots of", apart=False)
        beside = await ours(access.admin, access.live)
        opened = await journal.read(access.admin, [each.name for each in beside])
        dumped = [await journal.read_dump(access.access, key) for key in self._hold.all_keys]
        spared = {*self.own, *opened, *self._open, *(each.path for each in dumped if each)}
        deleted = []
        for kind in kinds:
            found: list[Ours | files.DumpFile] = [each for each in beside if each.kind == kind]
            if folder is not None:
                dump_kind: files.Kind = "replaced" if kind == "undone" else "snapshot"
                for url in access.urls:
                    found += files.found(folder, url, dump_kind)
            outdated = limits.outdated([each.stamp for each in found], datetime.now(UTC))
            for each in found:
                needed = each.stamp not in outdated or each.name in spared
                if not needed and await self._deleted(each):
                    deleted.append(each.name)
        return tuple(deleted)

    async def _deleted(self, copy: Ours | files.DumpFile) -> bool:
        try:
            if isinstance(copy, files.DumpFile):
                files.delete(copy)
            else:
                admin = self._access("drop snapshots of").admin
                await shielded(databases.drop(admin, copy.name))
        except RefusedError as error:
            logger.warning("%s stays: %s", copy.name, error)
            return False
        return True


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
