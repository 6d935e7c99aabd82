"""One execution of a user's env.py: the databases that it opened, and the revisions it ran."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import to_tuple
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.lock import Hold
from automigrator.backends.contract.values import Place, VersionTable
from automigrator.errors import EnvError, RevisionExitError, UnknownRevisionError
from automigrator.migrations.causes import too_long
from automigrator.migrations.connecting import AS_OURS, connecting
from automigrator.migrations.history import History, directory, revision_id
from automigrator.migrations.isolation import running_env
from automigrator.migrations.observation import Observation
from automigrator.support import urls
from automigrator.support.concurrency import running_loop
from automigrator.target import Target

TELL_S = 0.25
"""Seconds between two words to the lock on how far a migration is."""


class Stopped(BaseException):
    """Ends an upgrade between two revisions after a cancellation; env.py must not swallow it."""


class Migration(NamedTuple):
    """A history, and the database to bring along it: the target's own, or one on the side."""

    target: Target
    backend: Backend
    history: History
    place: Place
    hold: Hold | None = None
    """The target's lock; a look may be without."""


@dataclass(slots=True)
class Configured:
    """The result of one `context.configure` of env.py."""

    table: VersionTable
    driver: str = ""
    """SQLAlchemy's names of the dialect and the driver."""
    heads: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    one_transaction: bool = True
    open_before: bool = False
    """Whether env.py had begun a transaction; Alembic leaves its commit to env.py then."""
    ran: bool = False
    ahead: UnknownRevisionError | None = None
    """Names those of `heads` that are in no file; nothing is known to be pending then."""


@dataclass(slots=True)
class Request:
    """The revision to run to, the database, and the callbacks; without `apply` it only looks."""

    migration: Migration
    config: Config
    revision: str
    connection: Connection | None
    """Ours, which env.py may take; None where it is to migrate on one of its own."""
    identity: Hashable
    weaker: Callable[[Connection], str]
    """Says in what a connection proves less of the server than the application's."""
    loop: asyncio.AbstractEventLoop
    """The application's."""
    apply: bool
    down: bool
    started: Callable[[str, int, int], None]
    done: Callable[[str, float], None]
    check: Callable[[], None]
    """Raises Stopped when nothing more may run."""
    stop: Callable[[], bool]
    follow: Callable[[Connection], Callable[[], None]]
    """Watches a connection's statements, and lets them be interrupted; returns the undoing."""
    compare: Callable[[MigrationContext], None] | None
    confirm: Callable[[str], None]
    """Reports the progress to the lock; raises LockLostError when it is no longer held."""


@dataclass(slots=True)
class Execution:
    """The record of what env.py did; `current` is the revision that ran when `error` arose."""

    contexts: list[Configured] = field(default_factory=list)
    current: str | None = None
    done: list[tuple[str, float]] = field(default_factory=list)
    error: BaseException | None = None
    began: float | None = None
    """When `current` began, on the monotonic clock; None between revisions."""
    statement: str | None = None
    """The last one that a revision ran, without its parameters."""
    statement_since: float | None = None
    stopped: bool = False
    """Whether a revision was told to end: its further statements clean up."""
    interrupts: list[Callable[[], None]] = field(default_factory=list)
    """Each ends the statement that runs on a connection."""
    cancel: Callable[[], None] | None = None
    """Cancels what is awaited on the loop; for what no interrupt ends."""
    undo: ExitStack = field(default_factory=ExitStack)
    observed: Observation = field(default_factory=Observation)

    def begin_anew(self) -> None:
        """Forget what was rolled back; what was committed is not run again."""
        self.contexts.clear()
        self.interrupts.clear()
        self.current = self.error = self.began = self.cancel = None
        self.statement = self.statement_since = None
        self.stopped = False

    @property
    def met_a_revision(self) -> bool:
        """Whether env.py came as far as a revision; with revisions done, as far as their commit."""
        return bool(self.current or self.error or self.done)


def execute(request: Request, execution: Execution) -> None:
    """Run env.py once, filling in `execution`. Raises what env.py raises."""
    ours, migration = request.connection, request.migration
    access = migration.backend.access
    pool = ours.engine.pool if ours is not None else None
    try:
        with execution.undo:
            if ours is not None:
                _tune(request, execution, ours)
            with (
                running_env(),
                connecting(access, request.loop, pool, request.config),
                _environment(request, execution) as environment,
            ):
                environment.script.run_env()
    except SystemExit as stop:
        if execution.current is not None:
            raise RevisionExitError(f"the revision called sys.exit({stop.code!r})") from stop
        raise EnvError(f"env.py called sys.exit({stop.code!r})") from stop
    except Exception as error:
        if isinstance(error, DBAPIError) and not execution.error:
            cause = too_long(error, execution.current or "")
            if cause is not None:
                raise cause from error
        told = execution.observed.told(error, migration.backend)
        if told is error:
            raise
        raise told from told.__cause__


def _environment(request: Request, execution: Execution) -> EnvironmentContext:
    """What env.py finds as `context`, its revisions not yet read: they may need env.py."""
    sessions = request.migration.backend.sessions
    script = directory(request.config)
    environment = EnvironmentContext(
        request.config,
        script,
        fn=lambda heads, context: _steps(request, execution, heads, context, script),
        as_sql=False,
        destination_rev=request.revision,
        dont_mutate=not request.apply,
    )
    original = environment.configure

    def versioned(**_: Any) -> None:
        execution.observed.versioned()

    def configure(connection: Any = None, *args: Any, **options: Any) -> None:
        if connection is None:
            original(connection, *args, **options)
            return
        open_before = bool(getattr(connection, "in_transaction", bool)())
        chosen = _adopted(request, execution, connection)
        if request.apply:
            # once the session can be found: a process that takes over must be able to end it
            request.confirm("")
            options["on_version_apply"] = (
                *to_tuple(options.get("on_version_apply"), default=()),
                versioned,
            )
        for option, value in sessions.configure_options(chosen).items():
            if options.get(option) is None:
                options[option] = value
        original(chosen, *args, **options)
        context = environment.get_context()
        table = VersionTable(context.version_table, context.version_table_schema)
        with _untouched(chosen):
            table = sessions.resolve(chosen, table)
        several = options.get("transaction_per_migration") or not context.impl.transactional_ddl
        driver = f"{chosen.dialect.name}+{chosen.dialect.driver}"
        execution.contexts.append(
            Configured(table, driver, one_transaction=not several, open_before=open_before)
        )

    environment.configure = configure  # type: ignore[method-assign]  # a subclass breaks its proxies
    return environment


def _steps(
    request: Request, execution: Execution, heads: Any, context: Any, script: ScriptDirectory
) -> Iterable[Any]:
    history = request.migration.history
    history.adopt(script)
    configured = execution.contexts[-1]
    configured.heads = heads = tuple(heads)
    try:
        steps = history.steps(request.revision, heads, down=request.down)
    except UnknownRevisionError as error:
        if request.apply:
            raise
        configured.ran, configured.ahead = True, error
        return ()  # the other version tables are looked at as well
    configured.ran = True
    configured.pending = history.ids(steps)
    configured.wanted = history.wanted(heads, steps) if not request.down else ()
    if request.apply:
        return _applied(request, execution, steps)
    if request.compare is not None:
        request.compare(context)
    return ()


def _applied(request: Request, execution: Execution, steps: list[Any]) -> Iterator[Any]:
    told = 0.0
    for index, step in enumerate(steps, 1):
        if request.stop():
            raise Stopped
        revision = revision_id(step)
        execution.current, execution.statement = revision, None
        execution.began = time.monotonic()
        execution.observed.begins(revision)
        step.migration_fn = _recorded(step.migration_fn, execution, request.migration.backend)
        if execution.began - told > TELL_S:
            told = execution.began
            request.confirm(f"{index}/{len(steps)} {revision}")
        request.started(revision, index, len(steps))
        began = time.perf_counter()
        yield step
        seconds = time.perf_counter() - began
        before = [each for each in execution.done if each[0] != revision]
        execution.done = [*before, (revision, seconds)]
        execution.current = execution.began = None
        request.done(revision, seconds)
    if request.stop():
        raise Stopped


def _recorded(
    function: Callable[..., Any], execution: Execution, backend: Backend
) -> Callable[..., Any]:
    """Keep a revision's error, should env.py swallow it."""

    @functools.wraps(function)  # Alembic logs its name
    def run(**arguments: Any) -> None:
        try:
            function(**arguments)
        except BaseException as error:
            execution.error = execution.observed.told(error, backend)
            raise

    return run


def _adopted(request: Request, execution: Execution, theirs: Any) -> Connection:
    """The connection to migrate on: env.py's, which leads to the target's database."""
    ours, backend = request.connection, request.migration.backend
    if not isinstance(theirs, Connection):
        raise EnvError(
            f"env.py passed a {type(theirs).__name__} to context.configure(connection=); "
            "it takes a sqlalchemy.engine.Connection"
        )
    if theirs is ours:
        return ours
    if ours is not None and theirs.engine.pool is ours.engine.pool:
        _tune(request, execution, theirs)
        return theirs
    if theirs.dialect.name != backend.name:
        raise EnvError(
            f"env.py opened a {theirs.dialect.name} database, the target is {backend.name}"
        )
    engines = (backend.access.given_engine, backend.access.application)
    applications = theirs.engine.pool in [each.sync_engine.pool for each in engines if each]
    if not applications and (not theirs.dialect.is_async or running_loop() is None):
        # close the pool that env.py made for itself and leaves behind; never the application's
        execution.undo.callback(theirs.engine.dispose)
    if ours is not None and request.migration.place.in_place and not theirs.in_transaction():
        return ours  # no second connection leads to a database in memory
    if not applications and not theirs.info.get(AS_OURS) and (less := request.weaker(theirs)):
        raise EnvError(
            "env.py's own connection proves less of the server than the application's, and was not "
            f"used: {less}. Give the URL or the engine of env.py what the application's has, or "
            "take config.attributes['connection']"
        )
    with _untouched(theirs):
        same = backend.sessions.identity(theirs) == request.identity
    if not same:
        raise EnvError(
            f"env.py connected to another database ({urls.rendered(theirs.engine.url)}) than "
            "the target's; let it read its URL from config.get_main_option('sqlalchemy.url') or "
            "take config.attributes['connection']"
        )
    _tune(request, execution, theirs)
    return theirs


def adopt(migration: Migration, connection: Connection, undo: ExitStack, to_write: bool) -> None:
    """Make a connection's transactions real and mark them as the lock's, until `undo` ends."""
    unreal = migration.backend.sessions.adopt(connection, to_write=to_write)
    if migration.hold is not None:
        undo.callback(migration.hold.claim(connection))
    undo.callback(unreal)


def _tune(request: Request, execution: Execution, connection: Connection) -> None:
    if "close" in vars(connection):
        return  # it serves several version tables
    undo = ExitStack()
    adopt(request.migration, connection, undo, request.apply)
    if request.apply:
        undo.callback(request.follow(connection))
        undo.callback(_fence(request, connection))
    else:
        make_interruptible(request.migration.backend, execution, connection)
    close = connection.close

    def closed() -> None:
        undo.close()  # its pool may be the application's, and hand it out again
        close()

    vars(connection)["close"] = closed
    execution.undo.callback(vars(connection).pop, "close")
    execution.undo.callback(undo.close)


def _fence(request: Request, connection: Connection) -> Callable[[], None]:
    """Confirm the lock before each commit, and before each statement that commits by itself.

    Returns the call that undoes it.
    """

    def commit(_: Connection) -> None:
        request.check()
        request.confirm("")

    def statement(conn: Connection, *_: Any) -> None:
        level = getattr(conn.dialect, "_on_connect_isolation_level", None)
        if conn.get_execution_options().get("isolation_level", level) == "AUTOCOMMIT":
            request.confirm("")

    undo = ExitStack()
    for name, listener in (("commit", commit), ("before_cursor_execute", statement)):
        event.listen(connection, name, listener)
        undo.callback(event.remove, connection, name, listener)
    return undo.close


def make_interruptible(backend: Backend, execution: Execution, connection: Connection) -> None:
    """Let `execution.interrupts` end what this connection runs."""
    interrupt = backend.sessions.interrupter(connection)
    if interrupt is not None:
        execution.interrupts.append(interrupt)
    if (loop := running_loop()) is not None and (task := asyncio.current_task()) is not None:
        execution.cancel = partial(_call_soon, loop, task.cancel)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop may be closed already
        loop.call_soon_threadsafe(call)


@contextmanager
def _untouched(connection: Connection) -> Iterator[None]:
    """Ask a connection something without leaving a transaction open on it."""
    began = connection.in_transaction()
    yield
    if not began and connection.in_transaction():
        connection.rollback()
