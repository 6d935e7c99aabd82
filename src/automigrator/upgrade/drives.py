"""The ways to run an env.py from a running loop, tried in order, each believed only when proved."""

from __future__ import annotations

import asyncio
import importlib.util
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from automigrator.databases.access import NoAnswerError, connected
from automigrator.databases.backend import Backend
from automigrator.databases.holding import Hold
from automigrator.diagnosis import JudgedError
from automigrator.saying import first_line
from automigrator.target import Target
from automigrator.threads import in_thread
from automigrator.upgrade.config import alembic_config
from automigrator.upgrade.ending import to_its_end, until_out_of_reach
from automigrator.upgrade.environment import (
    EnvError,
    Execution,
    NeedsThreadError,
    Request,
    execute,
)
from automigrator.upgrade.history import (
    History,
    HistoryError,
    RevisionImportError,
    UnknownRevisionError,
)
from automigrator.upgrade.place import Place
from automigrator.upgrade.process import alembic_to_ourselves
from automigrator.upgrade.watching import Watch

Offer = Literal["connection", "engine", "nothing"]
_WHATEVER_ENV_DOES = {"lock-timeout", "timeout", "disk-full", "read-only", "corrupt"}
_SYNC_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "sqlite": ("pysqlite",)}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run env.py; `offer` is what it finds in `attributes["connection"]`."""

    drive: Literal["loop", "thread"]
    offer: Offer
    url: URL
    replace: bool = True

    def __str__(self) -> str:
        if self.drive == "thread":
            return f"thread ({self.url.drivername})"
        return f"loop (offering {self.offer})"


def ways(target: Target, place: Place) -> list[Way]:
    """The ways open to a target, best first."""
    found: list[Way] = []
    if target.drive != "thread":
        offers: tuple[Offer, ...] = ("connection", "engine", "nothing")
        found += [Way("loop", offer, place.url) for offer in offers]
    if target.drive != "loop" and not place.in_place:
        # the sync driver first: a sync env.py would leave a coroutine of asyncpg's unawaited
        backend = place.url.get_backend_name()
        for driver in _SYNC_DRIVERS.get(backend, ()):
            if driver == "pysqlite" or importlib.util.find_spec(driver) is not None:
                found.append(
                    Way(
                        "thread",
                        "nothing",
                        place.url.set(drivername=f"{backend}+{driver}"),
                    )
                )
                break
        found.append(Way("thread", "nothing", place.url))
    return found


async def probe(
    target: Target,
    backend: Backend,
    history: History,
    place: Place,
    revision: str | None = None,
) -> tuple[Way, Execution]:
    """Find the first way that leads env.py to the database; changes nothing.

    Raises EnvError listing what each way met, chained to the first; and as it is, what is wrong
    with the history or the database that was reached.
    """
    tried: list[tuple[Way, BaseException]] = []
    for way in ways(target, place):
        try:
            execution = await drive(
                target,
                backend,
                history,
                place,
                way,
                revision=revision or target.revision,
            )
            several = len(execution.contexts) > 1
            if several and any(c.how == "replaced" for c in execution.contexts):
                # one connection of ours cannot stand for several of theirs
                way = replace(way, replace=False)
                execution = await drive(
                    target,
                    backend,
                    history,
                    place,
                    way,
                    revision=revision or target.revision,
                )
            if any(context.ran for context in execution.contexts):
                return way, execution
            raise EnvError("env.py returned without running migrations")
        except (HistoryError, RevisionImportError, UnknownRevisionError):
            raise  # env.py did reach the database, and no other way reads other revisions
        except (JudgedError, NoAnswerError):
            raise  # no other way would have come further
        except Exception as error:  # noqa: BLE001 - any error only rules out this way
            tried.append((way, error))
    if backend.classify(tried[0][1]) in _WHATEVER_ENV_DOES:
        raise tried[0][1]
    # a way that got as far as a database says more than one that could not start
    first = next((e for _, e in tried if type(e) is EnvError), tried[0][1])
    said: dict[str, list[str]] = {}
    for way, met in tried:
        said.setdefault(first_line(met), []).append(str(way))
    if len(said) == 1:
        detail = ", ".join(str(way) for way, _ in tried)
    else:
        detail = "; ".join(f"{', '.join(ways)}: {what}" for what, ways in said.items())
    where = _line_in(first, history.script.env_py_location)
    raise EnvError(
        f"env.py cannot be driven to the target's database: {_what(first)}{where} (tried {detail})"
    ) from first


async def drive(
    target: Target,
    backend: Backend,
    history: History,
    place: Place,
    way: Way,
    *,
    revision: str,
    apply: bool = False,
    down: bool = False,
    started: Callable[[str, int, int], None] | None = None,
    done: Callable[[str, float], None] | None = None,
    compare: Callable[[MigrationContext], None] | None = None,
    execution: Execution | None = None,
    hold: Hold | None = None,
) -> Execution:
    """Run env.py once along `way`, as long as `hold` is held.

    `compare` is called with each context that env.py configures, when nothing is applied. What
    env.py raises passes through; so does a cancellation.
    """
    execution = Execution() if execution is None else execution
    watch = Watch(execution, target.statement_timeout, target.revision_timeout)
    loop = asyncio.get_running_loop()
    until_silent = partial(until_out_of_reach, backend, target.connect_timeout)
    alive = hold.until_lost if hold is not None else until_silent

    def request(connection: Connection | None, expected: Hashable, state: Hashable) -> Request:
        attributes: dict[str, Any] = {}
        if "connection" not in target.attributes and connection is not None:
            offers = {"connection": connection, "engine": connection.engine}
            if way.offer in offers:
                attributes["connection"] = offers[way.offer]
        asked = Request(
            alembic_config(target, way.url, attributes),
            history,
            backend,
            revision,
            expected,
            connection,
            state,
            apply=apply,
            down=down,
            replace=way.replace,
            check=watch.check,
            stop=watch.stopping.is_set,
            compare=compare,
        )
        if apply:
            seconds = target.statement_timeout
            asked.follow = lambda connection: _limited(backend, watch, connection, seconds)
        if started is not None:
            asked.started = _on(loop, started)
        if done is not None:
            asked.done = _on(loop, done)
        if hold is not None:
            asked.confirm = _confirming(hold, loop)
        return asked

    def prepared(connection: Connection) -> tuple[Hashable, Hashable]:
        identity, state = (
            backend.identity(connection),
            backend.session_state(connection),
        )
        connection.rollback()
        return identity, state

    def on_loop(connection: Connection) -> None:
        identity, state = prepared(connection)
        undo = backend.adopt(connection, to_write=apply)
        interrupt = backend.interrupter(connection)
        if interrupt is not None:
            execution.interrupts.append(interrupt)
        asked = request(connection, identity, state)
        forget = asked.follow(connection)
        try:
            execute(asked, execution)
        finally:
            forget()
            undo()

    try:
        async with alembic_to_ourselves(target):
            if way.drive == "loop":
                async with connected(place.engine, target.connect_timeout) as connection:
                    await to_its_end(connection.run_sync(on_loop), watch, alive)
            else:
                async with connected(place.engine, target.connect_timeout) as connection:
                    asked = connection.run_sync(prepared)
                    identity, state = await to_its_end(asked, watch, alive)
                thread = in_thread(lambda: execute(request(None, identity, state), execution))
                await to_its_end(thread, watch, alive)
    except Exception as error:
        # what was told to end may trip over what it cleans up
        if watch.reached is None:
            raise
        raise watch.reached from error
    return execution


def _limited(
    backend: Backend, watch: Watch, connection: Connection, seconds: float | None
) -> Callable[[], None]:
    """Follow a connection's statements, and let the server limit them where it can."""
    unlimited = None
    if seconds is not None:
        unlimited = backend.limit_statements(connection, seconds)
        if unlimited is not None:
            watch.statement_s = None
    forget = watch.follow(connection)

    def undo() -> None:
        forget()
        if unlimited is not None:
            unlimited()

    return undo


def _on(loop: asyncio.AbstractEventLoop, call: Callable[..., None]) -> Callable[..., None]:
    """Progress arrives on the loop, whichever thread a revision runs in."""

    def forward(*arguments: Any) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            call(*arguments)
        else:
            loop.call_soon_threadsafe(call, *arguments)

    return forward


def _confirming(hold: Hold, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
    """Confirm the lock from within env.py, on the loop's own thread or on another."""

    def confirm(progress: str) -> None:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            await_only(hold.confirm(progress))
        else:
            asyncio.run_coroutine_threadsafe(hold.confirm(progress), loop).result()

    return confirm


def _line_in(error: BaseException, env: str) -> str:
    """Where env.py raised it."""
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == env
    ]
    return f", in line {lines[-1]} of {env}" if lines and not isinstance(error, EnvError) else ""


def _what(error: BaseException) -> str:
    return str(error) if isinstance(error, EnvError) else first_line(error)


__all__ = ["NeedsThreadError", "Place", "Way", "drive", "probe", "ways"]
