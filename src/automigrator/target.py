"""One database and the Alembic history it must reach."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args

from sqlalchemy import URL, MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from automigrator.errors import ConfigurationError
from automigrator.frozen import Frozen
from automigrator.support import urls
from automigrator.support.urls import secrets_of
from automigrator.timeouts import OF_A_RUN, Timeouts, check, once

if TYPE_CHECKING:
    from dataclasses import KW_ONLY

    from automigrator.rehearsal import Rehearsal

Drive = Literal["auto", "own", "given"]

LastResort = Literal["ask", "abort", "continue"]

"""What becomes of a start that does not try, as too many have failed before it."""

Ahead = Literal["refuse", "serve"]

"""What becomes of a start that finds its database at a revision that no file here knows."""

Edited = Literal["warn", "refuse", "ignore"]

"""What becomes of a start that finds the file of an applied revision edited."""

Database = AsyncEngine | URL | str

DEFAULT_SECTION = "alembic"

_LIMITS = ("connect", "lock", "retry", "load", "statement", "revision")

"""The limits of time that a target has."""

_OF_THE_MIGRATOR = ("max_failed_starts", "last_resort", "ahead", "rehearse")

"""Options that a target leaves to its migrator when they are None."""


class AlembicConfig(Protocol):
    """An `alembic.config.Config`, described here so that this module need not import Alembic."""

    @property
    def config_file_name(self) -> str | None: ...

    @property
    def config_ini_section(self) -> str: ...

    def get_main_option(self, name: str, default: str) -> str: ...

    def set_main_option(self, name: str, value: str) -> None: ...


class Target(Frozen):
    """One database and the Alembic history it must reach; validated when constructed.

    `database`: the application's AsyncEngine, a URL or a string.
    `config`: an `alembic.ini`, a `pyproject.toml`, a script directory or an Alembic `Config`.
    `name`: for messages and `report["name"]`; default: the database's.
    `revision`: where to, anything Alembic takes; default `"heads"`.
    `section`: the section of the ini; default: that of a given Config, else `"alembic"`.
    `attributes`: what env.py finds in `config.attributes`; default: nothing.
    `x`: what `alembic -x` passes, a list such as `["tenant=a"]`; default: nothing.
    `version_table`, `version_table_schema`: where the heads are; default: env.py says.
    `create`: create the database when it does not exist; default True.
    `load`: called, or awaited, before env.py is run; default: nothing.
    `bootstrap`: called with a connection to an empty database (an AsyncConnection where it is
    async), returns the revision to stamp, or None to go on from base; `Base.metadata.create_all`
    stamps the heads; or the path of a schema file, made by `automigrator schema dump`; default:
    every revision is run.
    `baseline`: the revision of a database with tables and no version row, `"base"` to run every
    revision on it; default: such a database is refused.
    `recovery`: this target's strategies; default: the migrator's.
    `migrate_with`: an engine or URL with DDL rights; default: `database`.
    `maintenance_database`: where PostgreSQL databases are created from; default `"postgres"`.
    `allow_links`: migrate a SQLite file that has several names (hard links), as nobody migrates it
    by another one; default False: it is refused.
    `drive`: `"own"` to run env.py on the connection that it makes, `"given"` on one of ours;
    default `"auto"`: on its own where that leads to the target.
    `timeouts`: limits of time, see `Timeouts`; default: the migrator's, else those of `Timeouts`.
    `connect_timeout`, `lock_timeout`, `retry_timeout`, `load_timeout`, `statement_timeout`,
    `revision_timeout`: the same one by one, until 1.0; default: as of `Timeouts`.
    `check_room`: refuse a copy where a disk seems to have too little room for it; default True.
    `max_failed_starts`, `last_resort`, `ahead`, `rehearse`: see `Migrator`; default: its own.
    `edited`: what becomes of a start where the file of an applied revision was edited: `"warn"`,
    `"refuse"`, or `"ignore"` it; default `"warn"`.
    `version`: the application's, for messages about newer and older code; default: none.
    Raises ConfigurationError.
    """

    database: Database
    config: AlembicConfig | str | os.PathLike[str]
    _: KW_ONLY
    name: str = ""
    revision: str = "heads"
    section: str = DEFAULT_SECTION
    attributes: Mapping[str, Any] = {}
    x: Sequence[str] = ()
    version_table: str | None = None
    version_table_schema: str | None = None
    create: bool = True
    load: Callable[[], Any] | None = None
    bootstrap: Callable[[Any], Any] | str | os.PathLike[str] | None = None
    baseline: str | None = None
    recovery: Sequence[Any] | None = None
    migrate_with: Database | None = None
    maintenance_database: str | None = None
    allow_links: bool = False
    drive: Drive = "auto"
    timeouts: Timeouts | None = None
    connect_timeout: float = 60.0
    lock_timeout: float = 900.0
    retry_timeout: float = 60.0
    load_timeout: float = 60.0
    statement_timeout: float | None = None
    revision_timeout: float | None = None
    check_room: bool = True
    max_failed_starts: int | None = None
    last_resort: LastResort | None = None
    ahead: Ahead | None = None
    edited: Edited = "warn"
    version: str | None = None
    rehearse: bool | Rehearsal | None = None

    def __post_init__(self) -> None:
        self._set(attributes=self.attributes or {})
        for part in ("database", "migrate_with"):
            value = getattr(self, part)
            if isinstance(value, str):
                self._set(**{part: urls.parse(value)})
            elif value is not None and not isinstance(value, URL | AsyncEngine):
                raise ConfigurationError(
                    f"{part} must be an AsyncEngine, a URL or a string, "
                    f"not {type(value).__name__}; "
                    "for a sync Engine pass its url"
                )
        _check_choice("drive", self.drive, Drive)
        _check_choice("edited", self.edited, Edited)
        if isinstance(self.x, str):
            raise ConfigurationError('x takes a list such as ["tenant=a"], not one string')
        if self.timeouts is not None:
            self._limit(self.timeouts)
        for name in _LIMITS:
            check(name, f"{name}_timeout", getattr(self, f"{name}_timeout"))
        own = {name: getattr(self, name) for name in _OF_THE_MIGRATOR}
        check_policy(**{name: value for name, value in own.items() if value is not None})
        if not isinstance(self.check_room, bool):
            raise ConfigurationError(f"check_room={self.check_room!r} is not True or False")
        if self.baseline is not None and not (
            isinstance(self.baseline, str) and self.baseline.strip()
        ):
            raise ConfigurationError(
                f"baseline={self.baseline!r} is not a revision such as 'head' or '3f2a', 'base' to "
                "run every revision, or None to refuse tables without a version row"
            )
        if not isinstance(self.bootstrap, str | os.PathLike):
            _ensure_callable("bootstrap", self.bootstrap, " or the path of a schema file")
        _ensure_callable("load", self.load)
        if self.version is not None and not isinstance(self.version, str):
            raise ConfigurationError(f"version={self.version!r} is not a string")
        if isinstance(self.config, str | os.PathLike):
            _check_config(Path(self.config))
        if not self.name:
            self._set(name=_default_name(self.application_url))

    def _was_given(self, fields: Mapping[str, Any]) -> None:
        self._set(_limited=frozenset(name for name in _LIMITS if f"{name}_timeout" in fields))

    def _limit(self, timeouts: Timeouts) -> None:
        """Set the limits that are given, none of them twice. Raises ConfigurationError."""
        if not isinstance(timeouts, Timeouts):
            raise ConfigurationError(f"timeouts={timeouts!r} is not a Timeouts(...)")
        for name in timeouts.given:
            if name in OF_A_RUN:
                raise ConfigurationError(
                    f"Timeouts({name}=) is a limit of a whole run: give it to Migrator(timeouts=)"
                )
            if name in vars(self)["_limited"]:
                raise once(name)
            self._set(**{f"{name}_timeout": getattr(timeouts, name)})
        self._set(_limited=vars(self)["_limited"].union(timeouts.given))

    def _replace(self, **fields: Any) -> Self:
        """Another target with these fields, which are not checked anew; its limits stay."""
        replaced = copy(self)
        replaced._set(**fields)
        return replaced

    def limited(self, timeouts: Timeouts) -> Target:
        """This target, or a copy of it with its migrator's limits where it has none of its own."""
        own = vars(self)["_limited"]
        rest = {n: getattr(timeouts, n) for n in timeouts.given if n in _LIMITS and n not in own}
        if not rest:
            return self
        limited = copy(self)
        limited._limit(Timeouts(**rest))
        return limited

    @property
    def application_url(self) -> URL:
        """The URL the application uses; may hold a password, never print it."""
        database = self.database
        if isinstance(database, AsyncEngine):
            return database.url
        assert isinstance(database, URL)
        return database

    @property
    def url(self) -> str:
        """The database for people: no password."""
        return urls.rendered(self.application_url)

    __eq__, __hash__ = object.__eq__, object.__hash__  # two targets are never the same one

    def __repr__(self) -> str:
        return f"Target({self.name!r}, {self.url!r})"


def check_policy(
    max_failed_starts: object = 0,
    last_resort: object = "ask",
    ahead: object = "refuse",
    rehearse: object = False,
) -> None:
    """Check what a Migrator says for its targets, or one of these for itself.

    Raises ConfigurationError.
    """
    limit = max_failed_starts
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ConfigurationError(
            f"max_failed_starts={limit!r} is not a whole number of starts, from 1 up; "
            "0 counts none and always tries"
        )
    _check_choice("last_resort", last_resort, LastResort)
    _check_choice("ahead", ahead, Ahead)
    if not isinstance(rehearse, bool):
        from automigrator.rehearsal import Rehearsal  # local: few rehearse

        if not isinstance(rehearse, Rehearsal):
            raise ConfigurationError(f"rehearse={rehearse!r} is not True, False or a Rehearsal")


def _ensure_callable(option: str, value: object, other: str = "") -> None:
    if value is not None and not callable(value):
        more = "; pass its create_all" if isinstance(value, MetaData) else ""
        kind = type(value).__name__
        raise ConfigurationError(f"{option} must be callable{other}, not a {kind}{more}")


def _check_config(path: Path) -> None:
    """Raise ConfigurationError for a file that is absent, or cannot say where revisions are."""
    if not path.exists():
        raise ConfigurationError(
            f"{path}: no such Alembic configuration (looked for {path.absolute()}); pass the path "
            "of an alembic.ini, of a pyproject.toml with [tool.alembic], or of the script directory"
        )
    if path.is_dir():
        return
    beside = "alembic.ini" if path.suffix == ".toml" else "pyproject.toml"  # Alembic reads both
    for file in (path, path.with_name(beside)):
        try:
            lines = file.read_bytes().lower().splitlines()
        except FileNotFoundError:
            continue
        except OSError:
            return  # Alembic says more
        if any(b"script_location" in each.partition(b"#")[0] for each in lines):
            return
    raise ConfigurationError(
        f"{path}: there is no script_location, so nobody knows where the revisions are; write one "
        "into [alembic] (in a pyproject.toml into [tool.alembic]), or pass the script directory"
    )


def _check_choice(name: str, choice: object, choices: object) -> None:
    if choice not in get_args(choices):
        raise ConfigurationError(f"{name}={choice!r} is not one of {get_args(choices)}")


def _default_name(url: URL) -> str:
    database = url.database or ""
    if url.get_backend_name() != "sqlite":
        return database or url.get_backend_name()
    if not database or database == ":memory:" or "mode=memory" in database:
        return "memory"
    return Path(database.removeprefix("file:")).stem


def chosen(target: bool | Rehearsal | None, migrator: bool | Rehearsal) -> Rehearsal | None:
    """How a target is rehearsed; its own word overrides the migrator's. None: not at all."""
    choice = migrator if target is None else target
    if choice is not True:
        return choice or None
    from automigrator.rehearsal import Rehearsal  # local: few rehearse

    return Rehearsal()


def passwords_of(target: Target) -> tuple[str, ...]:
    """As they are given; texts are freed of them by `scrubbed`.

    One that is part of a name that is shown is left out: a mask in its place would tell it.
    """
    from automigrator.support.given_secrets import given_to  # local: for errors alone

    found: dict[str, None] = {}
    shown: list[str] = []
    for database in (target.database, target.migrate_with):
        if isinstance(database, AsyncEngine):
            found |= dict.fromkeys(given_to(database))
        url = database.url if isinstance(database, AsyncEngine) else database
        if isinstance(url, URL):
            found |= dict.fromkeys(secrets_of(url))
            shown += [url.host or "", url.database or "", urls.name_of(url)]
    return tuple(each for each in found if not any(each in name for name in shown))
