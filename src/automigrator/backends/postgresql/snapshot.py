"""A run's copy of its target, and which way it is made: a template copy, or a dump."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from automigrator.backends.contract.snapshots import Copying, Snapshot
from automigrator.backends.contract.values import VersionTable
from automigrator.backends.postgresql import journal, naming, template_copy
from automigrator.backends.postgresql.dump import dump as dumps
from automigrator.backends.postgresql.dump import files as dump_files
from automigrator.backends.postgresql.dump.journal import DumpRecord
from automigrator.backends.postgresql.exclusive import Scene, ensure_exclusive, ensure_may_create
from automigrator.backends.postgresql.journal import Record
from automigrator.backends.postgresql.sql import server_version
from automigrator.backends.postgresql.watchdog import Stoppable
from automigrator.errors import RefusedError
from automigrator.retention import Limits
from automigrator.support.concurrency import to_the_end

logger = logging.getLogger(__name__)

Admin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]


class Copies:
    """The copies of one target: this run's own, and those that stay.

    `scene` raises RefusedError where the lock's session is not apart from the target, unless it
    is told that it need not be.
    """

    def __init__(self, scene: Callable[..., Scene], admin: Admin) -> None:
        self._scene = scene
        self._admin = admin
        self._template: tuple[str, Record] | None = None
        self._dump: DumpRecord | None = None
        self._own: set[str] = set()
        """What this run itself has copied or kept: a clock may say that it is the oldest."""

    async def take(
        self,
        stamp: str,
        heads: tuple[str, ...],
        wanted: tuple[str, ...],
        tables: Sequence[VersionTable],
        *,
        folder: Path | None,
        disconnect_others: bool,
        how: Copying,
        binaries: Path | None,
        atomic: bool,
    ) -> Snapshot:
        """See `Backend.snapshot`."""
        self._own.clear()  # a run copies once
        record = Record("migrating", heads, wanted, tuple(tables), disconnect_others, atomic)
        refused: RefusedError | None = None
        if how != "dump":
            try:
                name = await self._by_template(stamp, record)
            except RefusedError as error:
                if how == "template":
                    raise
                refused = error
            else:
                self._own.add(name)
                return Snapshot(name, heads, stamp)
        try:
            path = await self._by_dump(stamp, record, folder, binaries)
        except RefusedError as error:
            if refused is None:
                raise
            raise RefusedError(f"no copy can be made: {refused}; {error}") from error
        self._own.add(path)
        return Snapshot(path, heads, stamp)

    async def _by_template(self, stamp: str, record: Record) -> str:
        scene = self._scene("take a snapshot of")
        record = replace(record, key=scene.hold.key)
        name = naming.snapshot_name(scene.live, stamp)
        stoppable = Stoppable()

        async def take() -> None:
            await ensure_may_create(scene, name)
            await ensure_exclusive(scene, f"copy database {scene.live!r}", record.tables)
            await template_copy.take(scene, name, record, stoppable)
            self._template = (name, record)

        await to_the_end(take(), stoppable.stop)
        return name

    async def _by_dump(
        self, stamp: str, record: Record, folder: Path | None, binaries: Path | None
    ) -> str:
        if folder is None:
            raise RefusedError(
                "a dump needs a folder that the next start can read as well: name it with folder="
            )
        scene = self._scene("dump", apart=False)
        stoppable = Stoppable()
        path = dump_files.path_of(folder, scene.access.url, stamp)
        dump = DumpRecord(
            "migrating",
            record.before,
            record.after,
            record.tables,
            str(path),
            host="",
            server=server_version(scene.admin)[0],
            disconnect_others=record.disconnect_others,
            binaries=dump_files.absolute(binaries) if binaries is not None else None,
        )

        async def take() -> None:
            self._dump = await dumps.take(scene, path, dump, stoppable, atomic=record.atomic)

        await to_the_end(take(), stoppable.stop)
        return str(path)

    async def restore(self, snapshot: Snapshot, *, disconnect_others: bool) -> str:
        """See `Backend.restore`."""
        if self._dump is not None and self._dump.path == snapshot.place:
            scene = self._scene("restore", apart=False)
            self._dump = replace(self._dump, disconnect_others=disconnect_others)
            file = await to_the_end(dumps.put_back(scene, self._dump))
            self._own.add(file)
            return file
        scene = self._scene("restore")
        if self._template is None or self._template[0] != snapshot.place:
            raise RefusedError(f"{snapshot.place} is no snapshot of this run; nothing was changed")
        record = replace(self._template[1], disconnect_others=disconnect_others)
        work = template_copy.put_back(scene, snapshot.place, snapshot.stamp, record)
        kept = await to_the_end(work)
        self._own.update(kept)
        self._template = (snapshot.place, record)
        return ", ".join(kept)

    async def close(self) -> None:
        """See `Backend.close`."""
        if self._dump is not None:
            await to_the_end(dumps.close(self._scene("end", apart=False)))
            self._dump = None
        if self._template is not None:
            (name, record), self._template = self._template, None
            async with self._admin() as admin:
                await to_the_end(journal.write(admin, name, replace(record, state="kept")))

    async def recover(self, found: Sequence[naming.Ours], *, apart: bool) -> str | None:
        """Finish or undo what a dead leader left; `found` is what is beside the target."""
        done = await to_the_end(dumps.recover(self._scene("recover", apart=False)))
        self._dump = None
        if not any(each.kind not in ("purged", "undone") for each in found):
            return done
        if not apart:
            await self._refuse_if_open(found)
            return done
        other = await to_the_end(template_copy.recover(self._scene("recover"), found))
        return "; ".join(each for each in (done, other) if each) or None

    async def prune(self, limits: Limits, *, folder: Path | None) -> tuple[str, ...]:
        """Delete the copies of either kind beyond the limits, but none with an open record.

        What restores have replaced has the same limits, by itself.
        """
        taken = await self._pruned(limits, folder, "snapshot", "snapshot")
        return taken + await self._pruned(limits, folder, "undone", "replaced")

    async def _pruned(
        self, limits: Limits, folder: Path | None, kind: naming.Kind, word: dump_files.Kind
    ) -> tuple[str, ...]:
        scene = self._scene("drop snapshots of", apart=False)
        spared = {*self._own, *([self._dump.path] if self._dump is not None else [])}
        found = [each for each in await naming.ours(scene.admin, scene.live) if each.kind == kind]
        files = dump_files.found(folder, scene.access.url, word) if folder is not None else []
        stamps = [*(each.stamp for each in found), *(each.stamp for each in files)]
        outdated = set(limits.outdated(stamps, datetime.now(UTC)))
        databases = {e.stamp for e in found if e.name not in spared} & outdated
        dropped: tuple[str, ...] = ()
        if databases:
            try:
                apart = self._scene("drop snapshots of")
            except RefusedError as error:  # files may go all the same
                logger.warning("the %s databases stay: %s", kind, error)
            else:
                dropped = await to_the_end(template_copy.prune(apart, databases, kind))
        for stamp, path in files:
            if stamp in outdated and str(path) not in spared:
                path.unlink(missing_ok=True)
                dropped += (str(path),)
        return dropped

    def spare(self, place: str) -> None:
        """Let no pruning of this run delete what a purge has set aside."""
        self._own.add(place)

    async def prune_set_aside(self, limits: Limits) -> tuple[str, ...]:
        """Drop those beyond the limits of the databases that a purge has replaced."""
        scene = self._scene("drop what was set aside of")
        found = await naming.ours(scene.admin, scene.live)
        stamps = [each.stamp for each in found if each.kind == "purged"]
        outdated = set(limits.outdated(stamps, datetime.now(UTC)))
        outdated -= {each.stamp for each in found if each.name in self._own}
        return await to_the_end(template_copy.prune(scene, outdated, "purged"))

    async def _refuse_if_open(self, found: Sequence[naming.Ours]) -> None:
        names = [each.name for each in found if each.kind == "snapshot"]
        async with self._admin() as admin:
            opened = await journal.read(admin, names)
        if opened:
            live = self._scene("recover", apart=False).live
            raise RefusedError(
                f"a process was killed while database {live!r} was being changed, and "
                f"it cannot be put back from {', '.join(opened)} here, where this role can reach "
                "no maintenance database; nothing was changed. Name one with "
                "Target(maintenance_database=...)"
            )
