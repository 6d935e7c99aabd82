"""Makes the Migrator that a source describes, and narrows it to what the command is about."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.cli.source import Source
from automigrator.errors import ConfigurationError
from automigrator.migrator import Migrator
from automigrator.support.entry_points import described, suggestion
from automigrator.target import Target

T = TypeVar("T")

LAST_LOOK_S = 5.0
"""Seconds for which a wait whose time is over may still look at a server that does not answer."""


def made(source: Source) -> Migrator | Awaitable[object]:
    """The Migrator, or what an async factory of it is awaited for; see `imported`."""
    if source.app is None:
        assert source.url is not None and source.config is not None
        url = source.url.set(password=_typed()) if source.asks_password else source.url
        return Migrator(Target(url, os.fspath(source.config), name=source.name))
    return imported(source, Migrator)


def imported(source: Source, kind: type[T]) -> T | Awaitable[object]:
    """The application's own object of this kind, or what an async factory of it is awaited for.

    It is called outside an event loop, as a module that is imported may start one of its own.
    Raises ConfigurationError.
    """
    assert source.app is not None
    what = kind.__name__.lower()
    value = named(source.app, source.folder, f"the {what} that {source.origin} names")
    if isinstance(value, kind) or not callable(value) or inspect.isclass(value):
        return checked(value, source, kind)
    with _blamed(f"{source.app} of {source.origin} cannot be called without arguments"):
        value = value()
    return value if inspect.isawaitable(value) else checked(value, source, kind)


def _typed() -> str:
    """The password, typed by a person. Raises UsageError where nobody types one."""
    try:
        return str(click.prompt("Password", hide_input=True, err=True))
    except click.Abort:
        raise click.UsageError(
            "no password was typed, as --ask-password wants; nothing was done"
        ) from None


async def awaited(value: Migrator | Awaitable[object], source: Source) -> Migrator:
    """The Migrator itself. Raises ConfigurationError."""
    return await settled(value, source, Migrator)


async def settled(value: object, source: Source, kind: type[T]) -> T:
    """The object itself, of what `imported` returned. Raises ConfigurationError."""
    if inspect.isawaitable(value):
        with _blamed(f"{source.app} of {source.origin} failed"):
            value = await value
    return checked(value, source, kind)


def checked(value: object, source: Source, kind: type[T]) -> T:
    """A value that is of this kind. Raises ConfigurationError."""
    if isinstance(value, kind):
        return value
    found = value.__name__ if inspect.isclass(value) else type(value).__name__
    raise ConfigurationError(
        f"{source.app} of {source.origin} is of the type {found}, and should be a {kind.__name__}, "
        "or a function without arguments that returns one; nothing was done"
    )


def named(path: str, folder: Path, what: str) -> Any:
    """The object that `module:name` leads to, with `folder` first on the module search path.

    Raises ConfigurationError.
    """
    module, _, name = path.partition(":")
    if os.fspath(folder) not in sys.path:
        sys.path.insert(0, os.fspath(folder))
    with _blamed(f"{what} cannot be imported from {module} (looked in {folder} first)"):
        value: Any = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(value, part):
            hint = suggestion(part, [each for each in dir(value) if not each.startswith("_")])
            raise ConfigurationError(f"{module} has no {name!r}; {hint}nothing was done")
        value = getattr(value, part)
    return value


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Context manager: what the application's code raises is a ConfigurationError.

    `sys.exit()` is no answer either.
    """
    try:
        yield
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # any error is the application's own
        raise ConfigurationError(f"{what}: {described(error)}; nothing was done") from error


def narrowed(migrator: Migrator, names: Sequence[str], x: Sequence[str]) -> None:
    """Leave the targets that are named, all without a name; with what `-x` gives env.py.

    Raises ConfigurationError for a name that no target has.
    """
    known = [target.name for target in migrator.targets]
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"there is no target {name!r}; the targets are {', '.join(known)}"
            )
    migrator.targets = tuple(
        target._replace(x=(*target.x, *x)) if x else target
        for target in migrator.targets
        if not names or target.name in names
    )


def prepared(migrator: Migrator, mode: Any, seconds: float | None, given: str) -> None:
    """Let a run do what the command asks for, whatever the gate says, within its limit.

    `seconds`: what is left of the limit, None for none; `given`: how a person has set it.
    The command shows what happens by itself, so the core's own announcements stay off; it listens
    for signals itself as well.
    """
    migrator.mode, migrator.stop_on_signals = mode, False
    migrator.announce = False
    if mode == "wait" and seconds is not None:
        migrator.targets = tuple(each._replace(lock_timeout=seconds) for each in migrator.targets)
        seconds += LAST_LOOK_S
    own = migrator.run_timeout
    if seconds is not None and (own is None or seconds < own):
        migrator.run_timeout, migrator._run_limit = seconds, given


async def close(targets: Sequence[Target]) -> None:
    """Close what the application's engines still hold: a thread of theirs keeps a process."""
    given = [each for target in targets for each in (target.database, target.migrate_with)]
    for engine in {id(each): each for each in given}.values():
        if isinstance(engine, AsyncEngine):
            await engine.dispose()
