"""Text that others wrote forges no line and drives no terminal, wherever it comes out."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import pkgutil
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from sqlalchemy import URL, make_url
from support.alembic_projects import linear, revision
from support.canaries import printed
from support.postgres_server import Server

import automigrator
from automigrator import (
    Decision,
    Event,
    Failure,
    MigrationError,
    Migrator,
    Run,
    Target,
    hookimpl,
)
from automigrator.backends.contract.record import FailedStarts, Record
from automigrator.backends.postgresql import errors
from automigrator.backends.sqlite import lock_files, transactions
from automigrator.errors import Shown
from automigrator.frozen import Frozen
from automigrator.migrations.static import commit_calls
from automigrator.printable import escaped, escaped_lines, joined
from automigrator.support import redaction
from automigrator.support.secrets import cut

FORGED = "CRITICAL forged"
HOSTILE = f"\x1b[2J\x9b2J\n{FORGED}\r\x7f\x85\u2028{FORGED}\u202e\u2066\u200b\u200f\ufeff\ud800"
NAMED = HOSTILE.replace("\ud800", "")
"""As the name of something: a name is UTF-8."""
PASSWORD = "of a guest"


class Heard:
    """What comes out of a run: sentences of events and records, reports, statuses, errors."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.wrong: list[str] = []

    @hookimpl
    def on_event(self, event: Event) -> None:
        self.told(event, one_line=True)

    def told(self, value: object, *, one_line: bool = False) -> None:
        text = str(value)
        forged = any(line.strip().startswith(FORGED) for line in text.splitlines())
        if forged or not (text if one_line else text.replace("\n", "")).isprintable():
            self.wrong.append(text)
        self.texts.append(text)

    def raised(self, error: BaseException) -> None:
        """What an error says, and what those behind it do to a terminal: they may have lines."""
        self.told(error)
        for line in printed(error).splitlines():
            if not line.replace("\t", "").isprintable():
                self.wrong.append(line)

    @property
    def tried(self) -> bool:
        """Whether the text came out at all: else nothing was tested."""
        return any("x1b[2J" in text for text in self.texts)


class Handler(logging.Handler):
    def __init__(self, heard: Heard) -> None:
        super().__init__(logging.DEBUG)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.told(record.getMessage())


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    handler = Handler(heard)
    logger = logging.getLogger("automigrator")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield heard
    logger.setLevel(before)
    logger.removeHandler(handler)
    assert heard.tried and not heard.wrong


@pytest.fixture
def target_of(make_target: Any, sqlite_url: str) -> Any:
    """`make_target`, on SQLite."""
    return partial(make_target, database=sqlite_url)


async def everything(heard: Heard, target: Target, **options: Any) -> None:
    """Every method of a Migrator, with what it returns and raises."""
    migrator = Migrator(target, mode="migrate", plugins=[heard], **options)
    for method in (migrator.check, migrator.plan, migrator.run, migrator.doctor):
        try:
            heard.told(await method())
        except Exception as error:  # noqa: BLE001 - what it says is looked at
            heard.raised(error)


def failing(upgrade: str, **more: Any) -> Callable[[Path], object]:
    return lambda folder: revision(folder, "r1", None, upgrade=upgrade, **more)


@pytest.mark.parametrize("text", [HOSTILE, "\x00\x08\t\v\f\x1c", "\u061c\u00ad\U000e0041"])
def test_a_text_is_one_line_that_no_terminal_acts_on(text: str) -> None:
    shown = escaped(text)
    assert shown.isprintable() and len(shown.splitlines()) == 1
    assert escaped(shown) == shown
    assert eval(f'"{shown}"') == text  # nothing is lost


@pytest.mark.parametrize("text", ["Größe 表\u3000数", "« données\u00a0: x »", "раз, два", "a\\nb"])
def test_letters_and_spaces_of_every_language_stay(text: str) -> None:
    assert escaped(text) == escaped_lines(text) == text


def test_our_own_lines_stay_and_no_value_begins_one() -> None:
    assert joined(["a", f"b{HOSTILE}"]).splitlines() == ["a", escaped(f"b{HOSTILE}")]
    assert escaped_lines("a\n\tb\x1b") == "a\n\tb\\x1b"


def test_every_logger_of_ours_escapes_what_its_records_are_filled_with() -> None:
    found = {getattr(module, "logger", None) for module in modules()}
    for logger in filter(None, found):
        record = logger.makeRecord(logger.name, 10, "f", 1, "%s %d", (HOSTILE, 7), None)
        assert logger.filter(record)
        assert record.getMessage() == f"{escaped(HOSTILE)} 7"


def modules() -> Iterator[ModuleType]:
    for each in pkgutil.walk_packages(automigrator.__path__, "automigrator."):
        if not each.name.startswith("automigrator.testing"):
            yield importlib.import_module(each.name)


def classes() -> Iterator[type]:
    """Every class of ours."""
    for module in modules():
        values = vars(module).values()
        yield from (c for c in values if getattr(c, "__module__", "") == module.__name__)


INTERNAL = {
    "AskError",  # caught where it is raised, each of these
    "Cancelled",
    "CrashLoopError",
    "LostError",
    "NeedsToBeAlone",
    "SideError",
    "Stopped",
    "WayDiffersError",
    "UnfitError",
    "UnprovedError",  # a reason, which is escaped with the report that has it
    "UnsafeError",
    "_ExitError",
    "_Recipe",
    "_UnclearError",
}


def test_every_error_of_ours_that_leaves_escapes_what_it_says() -> None:
    ours = {c for c in classes() if inspect.isclass(c) and issubclass(c, BaseException)}
    assert {c.__name__ for c in ours if not issubclass(c, Shown)} == INTERNAL
    for each in ours - {c for c in ours if c.__name__ in INTERNAL}:
        error = each.__new__(each, HOSTILE)
        assert str(error).replace("\n", "").isprintable(), each


PARTS = {"VersionTable", "Session", "Way"}
"""Parts of sentences, which are escaped with them."""


def test_every_value_of_ours_escapes_what_it_shows() -> None:
    values = {
        each.__name__: each
        for each in classes()
        if inspect.isclass(each) and issubclass(each, Frozen) and each.__str__ is not object.__str__
    }
    assert {"Report", "Failure", "Checkup", "Plan", "Event", "Copy", *PARTS} < set(values)
    for name in values.keys() - PARTS:
        text = str(hostile(values[name], values))
        assert text.replace("\n", "").isprintable(), name


def hostile(kind: type[Frozen], values: Mapping[str, type[Frozen]]) -> Frozen:
    """A value whose every text is hostile; it is not checked as its making would."""
    made = kind.__new__(kind)
    for name, default in kind._fields.items():
        hint = str(kind._hints[name])
        of = next((values[word] for word in re.findall(r"\w+", hint) if word in values), None)
        text = HOSTILE if "Mapping" not in hint else {HOSTILE: HOSTILE}
        filled: Any = hostile(of, values) if of is not None else text if "str" in hint else None
        if hint.startswith("tuple[tuple["):
            named = [word for word in re.findall(r"\w+", hint) if word in values]
            filled = tuple(hostile(values[word], values) for word in named)
        if filled is not None:
            vars(made)[name] = (filled,) if hint.startswith("tuple") else filled
        elif default is inspect.Parameter.empty:
            vars(made)[name] = {
                "int": 1,
                "float": 1.0,
                "bool": True,
                "Outcome": "failed",
                "TenantOutcome": "failed",
            }.get(hint)
        else:
            vars(made)[name] = default
    return made


UNITS = ("/**/", "/*", "--\n", "; ", " ", "/* */ -- x\n", 'database "', 'role "', "<class '", "a.")


@pytest.mark.parametrize("unit", UNITS)
def test_no_pattern_takes_longer_than_its_text(unit: str) -> None:
    statement, message = unit * (200_000 // len(unit)), cut(unit * 1000)
    began = time.process_time()
    transactions._OUTSIDE.match(f"{statement}x")
    commit_calls._SQL.search(statement)
    for pattern, _ in errors._BY_WORDS:
        re.search(pattern, message)
    redaction.first_line(RuntimeError(statement))
    assert time.process_time() - began < 1


# What a revision, env.py and the database's server say


async def test_what_a_revision_raises(target_of: Any, heard: Heard) -> None:
    await everything(heard, target_of(failing(f"raise RuntimeError({HOSTILE!r})")))


async def test_a_statement(target_of: Any, heard: Heard) -> None:
    upgrade = f"op.execute({f'SELECT absent, {NAMED!r} -- {NAMED}'!r})"
    await everything(heard, target_of(failing(upgrade)))


async def test_what_a_server_raises(make_target: Any, postgres_url: str, heard: Heard) -> None:
    sql = f"DO $$ BEGIN RAISE EXCEPTION E'%' , '{NAMED}' USING HINT = '{NAMED}'; END $$"
    target = make_target(failing(f"op.execute({sql!r})"), database=postgres_url)
    await everything(heard, target)


async def test_the_id_and_the_text_of_a_revision(target_of: Any, heard: Heard) -> None:
    def written(folder: Path) -> None:
        path = revision(folder, "r1", None, upgrade="raise RuntimeError('no')")
        text = path.read_text().replace("'r1'", repr(f"r1{NAMED}"))
        path.write_text(text.replace('"""r1"""', repr(f"r1 {NAMED}")))

    await everything(heard, target_of(written))


async def test_what_a_file_raises_that_cannot_be_imported(target_of: Any, heard: Heard) -> None:
    await everything(heard, target_of(failing("", header=f"raise RuntimeError({HOSTILE!r})")))


async def test_what_env_py_raises(target_of: Any, heard: Heard) -> None:
    target = target_of(linear)
    env = Path(target.config).parent / "migrations" / "env.py"
    env.write_text(f"raise RuntimeError({HOSTILE!r})\n")
    await everything(heard, target)


# What plugins say


class Noting:
    """A strategy whose note is hostile, and which raises."""

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        run.note(HOSTILE)
        raise RuntimeError(HOSTILE)


class Raising:
    @hookimpl
    def before_migrate(self) -> None:
        raise RuntimeError(HOSTILE)


class Listening:
    @hookimpl
    def on_event(self) -> None:
        raise RuntimeError(HOSTILE)


class Ending:
    @hookimpl
    def after_migrate(self, run: Run) -> None:
        run.note(HOSTILE)
        raise RuntimeError(HOSTILE)


async def test_what_a_strategy_notes_and_raises(target_of: Any, heard: Heard) -> None:
    target = target_of(failing("raise RuntimeError('no')"))
    await everything(heard, target, recovery=[Noting()])


@pytest.mark.long("Ending")
@pytest.mark.parametrize(
    "plugin", [Raising(), Listening(), Ending()], ids=lambda it: type(it).__name__
)
async def test_what_a_plugin_raises(plugin: object, target_of: Any, heard: Heard) -> None:
    migrator = Migrator(target_of(linear), mode="migrate", plugins=[heard, plugin])
    try:
        heard.told(await migrator.run())
    except Exception as error:  # noqa: BLE001 - what it says is looked at
        heard.raised(error)


# Names


@pytest.fixture
def named_database(postgres_server: Server) -> Iterator[URL]:
    """A database, and a role of that name, with hostile names."""
    name = NAMED[:20]
    postgres_server.execute(f'create role "{name}" login superuser')
    postgres_server.execute(f"alter role \"{name}\" password '{PASSWORD}'")
    postgres_server.execute(f'create database "{name}"')
    yield make_url(postgres_server.url(name))
    postgres_server.drop_all(name)
    postgres_server.execute(f'drop role "{name}"')


async def test_the_name_of_a_database_of_the_server(
    make_target: Any, named_database: URL, heard: Heard
) -> None:
    await everything(heard, make_target(linear, database=named_database))
    missing = named_database.set(database=f"y{named_database.database}")
    await everything(heard, make_target(linear, database=missing, folder="b", create=False))


class Copying:
    @hookimpl
    async def before_migrate(self, run: Run) -> None:
        await run.snapshot(how="template")


@pytest.mark.long
async def test_the_role_and_the_application_that_are_in_the_way(
    make_target: Any, named_database: URL, postgres_url: str, heard: Heard
) -> None:
    dsn = make_url(postgres_url).set(
        drivername="postgresql", username=named_database.database, password=PASSWORD
    )
    name = {"application_name": f"x{NAMED}"}
    other = await asyncpg.connect(dsn.render_as_string(hide_password=False), server_settings=name)
    try:
        target = make_target(linear, database=postgres_url)
        with pytest.raises(MigrationError) as info:
            await Migrator(target, mode="migrate", plugins=[heard, Copying()]).run()
    finally:
        await other.close()
    heard.told(info.value)
    assert "connected: pid" in str(info.value) and "user \\x1b[2J" in str(info.value)


async def test_the_names_of_files_and_tables(
    make_target: Any, tmp_path: Path, heard: Heard
) -> None:
    path = tmp_path / f"d {NAMED[:30]}.db"
    table = f"t{NAMED}"
    with closing(sqlite3.connect(path)) as database:
        database.execute(f'create table "{table}" (x)')
        database.commit()
    target = make_target(
        failing(f"op.create_table({table!r}, sa.Column('x'))"),
        database=URL.create("sqlite+aiosqlite", database=str(path)),
        baseline="base",
    )
    await everything(heard, target)
    no_baseline = make_target(database=target.application_url, folder="b")
    await everything(heard, no_baseline)


# What was left for later starts


def written(live: Path, record: Record) -> None:
    lock_files.path_of(live, lock_files.RECORD).write_text(record.dumped())
    lock = {"leader": HOSTILE, "progress": HOSTILE}
    lock_files.path_of(live, lock_files.LOCK).write_text(json.dumps(lock))


async def test_the_record_of_a_leader(target_of: Any, sqlite_url: str, heard: Heard) -> None:
    target = target_of(failing("raise RuntimeError('no')"), max_failed_starts=1)
    live = Path(make_url(sqlite_url).database or "")
    for _ in range(2):
        with suppress(Exception):
            await Migrator(target, mode="migrate").run()
    found = lock_files.record_of(live)
    assert found is not None
    failure = Failure.from_dict(found.failures[-1])._replace(
        message=HOSTILE, revision=HOSTILE, statement=HOSTILE, debris=(HOSTILE,), hints=(HOSTILE,)
    )
    for outcome in ("begun", "failed"):
        failures = (failure.to_dict(),)
        written(live, found._replace(leader=HOSTILE, outcome=outcome, failures=failures))
        await everything(heard, target)


async def test_the_holder_of_a_lock(target_of: Any, sqlite_url: str, heard: Heard) -> None:
    target = target_of(linear, lock_timeout=0.5)
    live = Path(make_url(sqlite_url).database or "")
    written(live, Record("p", "failed", HOSTILE, starts=FailedStarts()))
    sqlite3.connect(live).close()
    lock = lock_files.LockFile(live)
    assert lock.acquire()
    try:
        await everything(heard, target)
    finally:
        lock.close()


def test_a_failure_is_as_it_was_for_a_machine() -> None:
    failure = Failure("revision", HOSTILE, statement=f"SELECT 1,\n\t2 -- {HOSTILE}")
    assert failure.to_dict()["message"] == failure.message == HOSTILE
    assert len(str(failure).splitlines()) == 3
    assert "statement: SELECT 1, 2 --" in str(failure)
