"""A target, opened: its backend, an engine of our own, its history."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from automigrator.backends.access import Access
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.backends.registry import backend_for
from automigrator.errors import ConfigurationError, JudgedError
from automigrator.support.concurrency import in_thread
from automigrator.target import Target, passwords_of

if TYPE_CHECKING:
    from automigrator.backends.contract.backend import Backend
    from automigrator.backends.contract.lock import Hold
    from automigrator.migrations.environment import Migration
    from automigrator.migrations.history import History

logger = logging.getLogger("automigrator")


class Session:
    """What a target needs before anything can be asked of it."""

    def __init__(self, target: Target, backend: Backend) -> None:
        self.target = target
        self.backend = backend
        self._place: Place | None = None
        self._history: History | None = None

    @property
    def table(self) -> VersionTable:
        """The version table by the target's word; env.py may know better."""
        return VersionTable(
            self.target.version_table or "alembic_version", self.target.version_table_schema
        )

    @property
    def place(self) -> Place:
        """The target's database and an engine of our own, made when first asked for."""
        if self._place is None:
            engine, url = self.backend.engine(), self.backend.access.url
            self._place = Place(engine, url, self.backend.in_place)
        return self._place

    async def close(self) -> None:
        """Give the engine back, if there is one."""
        if self._place is not None:
            await self.backend.release(self._place.engine)

    async def history(self) -> History:
        """Read the history in the files, once; `load` is called before.

        Raises HistoryError, RevisionImportError, ConfigurationError, and JudgedError for what
        `load` raises.
        """
        if self._history is None:
            if self.target.load is not None:
                await self._call(self.target.load)
            self._history = await _read(self.target, self.backend)
        return self._history

    async def migration(self, hold: Hold | None = None, place: Place | None = None) -> Migration:
        """What env.py is to be run for: the target's own database, or one at another `place`."""
        from automigrator.migrations.environment import Migration

        history = await self.history()
        return Migration(self.target, self.backend, history, place or self.place, hold)

    async def _call(self, load: Callable[[], Any]) -> None:
        from automigrator.migrations.baseline import blamed

        try:
            async with asyncio.timeout(self.target.load_timeout) as limit:
                answer = load() if inspect.iscoroutinefunction(load) else await in_thread(load)
                if inspect.isawaitable(answer):
                    await answer
        except Exception as error:
            if limit.expired():
                raise JudgedError(
                    "timeout",
                    "load of the target took longer than "
                    f"load_timeout={self.target.load_timeout:g} s; nothing was changed",
                    "find out what Target(load=...) waits for, or raise Target(load_timeout=)",
                ) from error
            raise blamed("load", error, self.backend) from error


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Session]:
    """Context manager: open a target; errors tell no secret. Raises ConfigurationError."""
    session = Session(target, backend_for(Access(target), target.maintenance_database))
    try:
        async with session.backend.access.sharing():
            yield session
    except BaseException as error:
        from automigrator.support.redaction import hide_secrets  # local: for errors alone

        hide_secrets(error, passwords_of(target))
        raise
    finally:
        await session.close()


async def _read(target: Target, backend: Backend) -> History:
    from automigrator.migrations.isolation import alone_in_thread, restored_path

    def read() -> History:
        from automigrator.migrations.config import alembic_config
        from automigrator.migrations.history import History

        with restored_path():
            return History(alembic_config(target, backend.access.url))

    return await alone_in_thread(target, read)


def validated(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Return the targets, if each can be told from the others. Raises ConfigurationError."""
    if not targets:
        raise ConfigurationError("a Migrator needs at least one Target(database, config)")
    seen: dict[str, Target] = {}
    for target in targets:
        if not isinstance(target, Target):
            raise ConfigurationError(
                f"a Migrator takes Target(database, config), not a {type(target).__name__}"
            )
        if target.name in seen:
            raise ConfigurationError(
                f"two targets are named {target.name!r} ({seen[target.name].url} and "
                f"{target.url}); tell them apart with Target(..., name=...)"
            )
        seen[target.name] = target
        access = Access(target)
        backend_for(access, target.maintenance_database)
        if access.rewritten:
            logger.info(
                "%s: the URL's driver is %s; migrating with %s",
                target.name,
                target.application_url.drivername,
                access.url.drivername,
            )
    return tuple(targets)


def named(targets: Sequence[Target], name: str | None) -> Target:
    """Return the target of that name, or the only one. Raises ConfigurationError."""
    names = [target.name for target in targets]
    if name is None and len(names) == 1:
        return targets[0]
    if name not in names:
        said = "there are several targets" if name is None else f"there is no target {name!r}"
        raise ConfigurationError(f"{said}; say which with target=: {', '.join(names)}")
    return targets[names.index(name)]
