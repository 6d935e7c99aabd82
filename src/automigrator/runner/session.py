"""A target, opened: its backend, an engine of our own, its history."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from automigrator.backends.access import Access
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.backends.registry import backend_for
from automigrator.errors import ConfigurationError, JudgedError
from automigrator.runner.commons import in_common
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of
from automigrator.target import Target, passwords_of

if TYPE_CHECKING:
    from automigrator.backends.contract.backend import Backend, Waiting
    from automigrator.backends.contract.examiner import Examiner
    from automigrator.backends.contract.lock import Hold
    from automigrator.migrations.common_history import CommonHistory
    from automigrator.migrations.execution import Migration
    from automigrator.migrations.history import History
    from automigrator.runner.commons import Commons

logger = logger_of("automigrator")


class Session:
    """What a target needs before anything can be asked of it."""

    def __init__(self, target: Target, backend: Backend, commons: Commons | None = None) -> None:
        self.target = target
        self.backend = backend
        self.commons = commons
        self.common: CommonHistory | None = None
        """The history that other targets have as well, once it was asked for."""
        self.table = VersionTable(
            target.version_table or "alembic_version", target.version_table_schema
        )
        """The version table that the target names; env.py may use another."""
        self._history: History | None = None

    @cached_property
    def place(self) -> Place:
        """The target's database and an engine of our own, made when first asked for."""
        return Place(self.backend.engine(), self.backend.access.url, self.backend.in_place)

    def lock(self, waiting: Waiting) -> AbstractAsyncContextManager[Hold]:
        """Context manager: hold the migration lock; see `Backend.lock`."""
        return self.backend.lock([self.table], self.target.lock_timeout, waiting)

    def examiner(self) -> Examiner | None:
        """Return what looks closely at the database; None where the backend offers no such look."""
        return self.backend.examiner([self.table])

    async def history(self) -> History:
        """Read the history in the files, once; `load` is called before.

        Raises HistoryError, RevisionImportError, ConfigurationError, and JudgedError for what
        `load` raises.
        """
        if self._history is None:
            if self.target.load is not None:
                await self._call(self.target.load)
            if self.commons is not None:
                self.common = await self.commons.history(self.target, self.backend)
            if self.common is not None:
                self._history = self.common.history.copy()
                return self._history
            # Alembic comes with it
            await in_thread(partial(import_module, "automigrator.migrations.history_loader"))
            from automigrator.migrations.history_loader import load_history

            self._history = await load_history(
                self.target, self.backend, lambda: self.place, self.table
            )
        return self._history

    async def migration(self, hold: Hold | None = None, place: Place | None = None) -> Migration:
        """What env.py is to be run for: the target's own database, or one at another `place`."""
        from automigrator.migrations.execution import Migration

        history, target = await self.history(), self.target
        if place is not None:
            # local: only what is done on a copy needs it
            from automigrator.backends.model_engine import config_beside

            own, database = target.application_url, place.engine.url.database or ""
            target = target._replace(config=config_beside(target.config, own, database))
        return Migration(target, self.backend, history, place or self.place, hold)

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
                    f"Timeouts(load={self.target.load_timeout:g}); nothing was changed",
                    "find out what Target(load=...) waits for, or raise Timeouts(load=)",
                ) from error
            raise blamed("load", error, self.backend) from error


@asynccontextmanager
async def opened(target: Target) -> AsyncIterator[Session]:
    """Context manager: open a target; errors tell no secret. Raises ConfigurationError."""
    access, commons = Access(target), in_common.get()
    if commons is not None:
        access.common = commons.connections
    session = Session(target, backend_for(access, target.maintenance_database), commons)
    try:
        async with session.backend.access.sharing():
            yield session
    except BaseException as error:
        from automigrator.support.redaction import hide_secrets  # local: for errors alone

        hide_secrets(error, passwords_of(target))
        raise
    finally:
        if "place" in vars(session):
            await session.backend.release(session.place.engine)


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
            was, now = target.application_url.drivername, access.url.drivername
            logger.info("%s: the URL's driver is %s; migrating with %s", target.name, was, now)
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
