"""One execution of a user's env.py: the databases that it opened, and the revisions it ran."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import takewhile
from typing import Any

from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import to_tuple
from sqlalchemy import MetaData
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.values import VersionTable
from automigrator.errors import EnvError, RevisionExitError, UnknownRevisionError
from automigrator.migrations import alembic_private
from automigrator.migrations.attachment import adopted, attach, leads, untouched
from automigrator.migrations.causes import too_long
from automigrator.migrations.engines import engines_apart
from automigrator.migrations.execution import (
    Configured,
    Execution,
    Request,
    Stopped,
    WayDiffersError,
)
from automigrator.migrations.history import revision_id
from automigrator.migrations.isolation import running_env
from automigrator.migrations.revision_graph import directory

TELL_S = 0.25
"""Seconds between two words to the lock on how far a migration is."""


def execute(request: Request, execution: Execution) -> None:
    """Run env.py once, filling in `execution`. Raises what env.py raises."""
    ours, migration = request.connection, request.migration
    pool = ours.engine.pool if ours is not None else None
    try:
        with execution.undo:
            if ours is not None:
                attach(request, execution, ours)
            with (
                running_env(),
                engines_apart(
                    migration.backend, request.loop, pool, request.config, request.weaker
                ),
                execution.observed.beside(
                    request.loop, partial(leads, request), request.committing
                ),
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
        destination_rev=request.command.revision,
        dont_mutate=True,  # before it is known that anything is to be applied
    )
    original = environment.configure

    def versioned(**_: Any) -> None:
        execution.observed.versioned()

    def configure(connection: Any = None, *args: Any, **options: Any) -> None:
        if connection is None:
            original(connection, *args, **options)
            return
        open_before = bool(getattr(connection, "in_transaction", bool)())
        chosen = adopted(request, execution, connection)
        if request.command.expected is not None:
            _ensure("fn" not in options)
        if request.command.apply:
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
        several = options.get("transaction_per_migration") or not context.impl.transactional_ddl
        driver = f"{chosen.dialect.name}+{chosen.dialect.driver}"
        models = to_tuple(context.opts.get("target_metadata"), default=())
        execution.contexts.append(
            Configured(
                table,
                driver,
                one_transaction=not several,
                open_before=open_before,
                models=tuple(each for each in models if isinstance(each, MetaData)),
            )
        )

    environment.configure = configure  # type: ignore[method-assign]  # a subclass breaks its proxies
    return environment


def _steps(
    request: Request, execution: Execution, heads: Any, context: Any, script: ScriptDirectory
) -> Iterable[Any]:
    history, command = request.migration.history, request.command
    if command.apply or not history.same_by_text(script):
        history.adopt(script)
    configured = execution.contexts[-1]
    configured.heads = heads = tuple(heads)
    with untouched(context.connection):  # not before: env.py may set its search_path last
        configured.table = request.migration.backend.sessions.resolve(
            context.connection, configured.table
        )
    if command.expected is not None:
        _ensure(sorted(heads) == sorted(command.expected.heads))
    try:
        steps = history.steps(command.revision, heads, down=command.down)
    except UnknownRevisionError as error:
        if command.apply:
            raise
        configured.ran, configured.ahead = True, error
        return ()  # the other version tables are looked at as well
    steps = list(takewhile(lambda step: revision_id(step) not in command.deferred, steps))
    if execution.measuring is not None:
        execution.measuring.version_tables.add(configured.table.name)
    configured.pending = history.ids(steps)
    configured.wanted = history.wanted(heads, steps) if not command.down else ()
    if command.expected is not None:
        _ensure(len(execution.contexts) == 1 and _as_expected(configured, command.expected))
        request.tell(command.agreed, configured)
    configured.ran = True
    if command.apply:
        if not heads:
            alembic_private.ensure_version_table(context)
        return _applied(request, execution, steps, context.connection)
    if command.compare is not None:
        command.compare(context)
    return ()


def _ensure(same: bool) -> None:
    """Raise WayDiffersError where env.py configures something else than was expected."""
    if not same:
        raise WayDiffersError


def _as_expected(found: Configured, expected: Configured) -> bool:
    names = ["table", "pending", "wanted"]
    if expected.driver:
        names += ["driver", "one_transaction", "open_before"]
    return all(getattr(found, name) == getattr(expected, name) for name in names)


def _applied(
    request: Request, execution: Execution, steps: list[Any], connection: Connection
) -> Iterator[Any]:
    told, recorded = 0.0, _Recorded(execution, request.migration.backend)
    for index, step in enumerate(steps, 1):
        if request.stop():
            raise Stopped
        revision = revision_id(step)
        execution.current, execution.statement = revision, None
        execution.began = time.monotonic()
        execution.observed.begins(revision)
        recorded.function, step.migration_fn = _measured(step, execution), recorded
        execution.position = f"{index}/{len(steps)} {revision}"
        if execution.began - told > TELL_S:  # what is left out here, the watch tells
            told = execution.began
            request.confirm(execution.position)
        request.tell(request.command.started, revision, index, len(steps))
        began = time.perf_counter()
        yield step
        seconds = time.perf_counter() - began
        execution.done.pop(revision, None)  # one that was rolled back may be run anew
        execution.done[revision] = seconds
        execution.current = execution.began = None
        request.tell(request.command.done, revision, seconds)
    if request.stop():
        raise Stopped
    if steps and not request.command.down:
        configured = execution.contexts[-1]
        with untouched(connection):
            configured.led_apart = request.migration.backend.sessions.led_apart(
                connection, configured.table
            )


def _measured(step: Any, execution: Execution) -> Callable[..., Any]:
    """Measure what a revision's own code runs, where that is asked for."""
    function: Callable[..., Any] = step.migration_fn
    measuring = execution.measuring
    if measuring is None:
        return function

    @functools.wraps(function)
    def run(**arguments: Any) -> None:
        with measuring.measured(revision_id(step), getattr(step.revision, "path", None)):
            function(**arguments)

    return run


class _Recorded:
    """Calls a revision's function for Alembic, and keeps its error, should env.py swallow it."""

    def __init__(self, execution: Execution, backend: Backend) -> None:
        self.function: Callable[..., Any] = lambda: None
        self._execution, self._backend = execution, backend

    @property
    def __name__(self) -> str:
        """What Alembic logs."""
        return self.function.__name__

    def __call__(self, **arguments: Any) -> None:
        try:
            self.function(**arguments)
        except BaseException as error:
            execution = self._execution
            execution.error = execution.observed.told(error, self._backend)
            raise
