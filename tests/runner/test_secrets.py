"""What an application logs of an error that nobody handled: no password, no row; see canaries."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import linear, revision
from support.canaries import PASSWORD, ROW, printed
from support.notes_application import Application

from automigrator import (
    ConfigurationError,
    MigrationError,
    Migrator,
    RefusedError,
    Run,
    Target,
    hookimpl,
)

pytestmark = pytest.mark.long("in a group", "given_to_the_engine", "postgresql-alone")

Make = Callable[..., Target]

INSERTS = f"""
notes = sa.table("notes", sa.column("id"), sa.column("text"))
op.get_bind().execute(notes.insert(), {{"id": 100, "text": "{ROW}"}})
"""
TWICE = INSERTS * 2
IN_A_GROUP = f"""
errors = []
try:
    {TWICE.strip().replace(chr(10), chr(10) + "    ")}
except Exception as error:
    errors.append(error)
raise ExceptionGroup("several", errors)
"""


@pytest.mark.parametrize("body", [TWICE, IN_A_GROUP], ids=["alone", "in a group"])
async def test_rows_are_in_no_line_of_the_traceback(body: str, notes: Application) -> None:
    notes.deploy(body)
    with pytest.raises(MigrationError) as caught:
        await notes.start()
    assert ROW not in printed(caught.value)
    assert "IntegrityError" in printed(caught.value)
    assert "INSERT INTO notes" in str(caught.value)


def says(text: str) -> Callable[[Path], None]:
    def revisions(folder: Path) -> None:
        linear(folder, 1)
        error = f"RuntimeError({text!r})"
        revision(
            folder, "r2", "r1", upgrade=f"error = {error}\nerror.add_note({text!r})\nraise error"
        )

    return revisions


async def test_passwords_are_in_no_line_of_the_traceback(
    make_target: Make, postgres_url: str
) -> None:
    url = make_url(postgres_url)
    url = url.set(password=url.password or PASSWORD)
    given, spelled = str(url.password), quote(str(url.password), "")
    text = f"no {given} nor {spelled}, postgresql://{spelled}@h/d, PGPASSWORD='{ROW}'"
    target = make_target(says(text), database=url)
    with pytest.raises(MigrationError) as caught:
        await Migrator(target, mode="migrate").run()
    told = printed(caught.value)
    assert [secret for secret in (given, spelled, ROW) if secret in told] == []
    assert "no *** nor ***, postgresql://***@h/d, PGPASSWORD=***" in told


async def test_a_password_given_to_the_engine_is_in_no_line_of_the_traceback(
    make_target: Make, postgres_url: str
) -> None:
    plain = make_url(postgres_url).set(password=None)
    given = make_url(postgres_url).password or PASSWORD
    engine = create_async_engine(plain, connect_args={"password": given})
    target = make_target(says(f"no {given}"), database=engine)
    with pytest.raises(MigrationError) as caught:
        await Migrator(target, mode="migrate").run()
    await engine.dispose()
    assert "RuntimeError: no ***" in printed(caught.value)


class Purges:
    """Logs what the act raised, as a plugin may."""

    effect = "discarding"
    told = ""

    @hookimpl
    async def on_failure(self, run: Run) -> None:
        with pytest.raises(RefusedError) as caught:
            await run.recreate_database(set_aside=False)
        self.told = printed(caught.value)


async def test_an_error_of_an_act_shows_a_plugin_no_row(tmp_path: Path, sqlite_url: str) -> None:
    purges, notes = Purges(), Application(tmp_path, sqlite_url)
    notes.deploy(TWICE)
    with pytest.raises(MigrationError):
        await notes.start(purges)
    assert "IntegrityError" in purges.told and ROW not in purges.told


@pytest.mark.parametrize("ask", [Migrator.check, Migrator.plan, Migrator.doctor, Migrator.clear])
async def test_an_error_of_a_look_tells_no_password(
    ask: Callable[[Migrator], Any], make_target: Make, sqlite_url: str
) -> None:
    def load() -> None:
        raise RuntimeError(f"PASSWORD={PASSWORD}")

    target = make_target(database=sqlite_url, load=load)
    try:
        told = str(await ask(Migrator(target)))
    except Exception as error:  # noqa: BLE001 - whatever it is
        told = printed(error)
    assert PASSWORD not in told


RAISES = f"""
raise sa.exc.DBAPIError("SELECT :x", {{"x": "{ROW}"}}, Exception("told\\nDETAIL: {ROW}"))
"""


@pytest.mark.parametrize(
    "where", [{"header": RAISES}, {"upgrade": RAISES}], ids=["imported", "rendered"]
)
async def test_a_revision_that_raises_what_a_driver_said_tells_a_plan_no_row(
    where: dict[str, str], make_target: Make, sqlite_url: str
) -> None:
    def revisions(folder: Path) -> None:
        revision(folder, "r1", None, **where)  # type: ignore[arg-type]

    target = make_target(revisions, database=sqlite_url)
    with pytest.raises(Exception, match="Exception: told") as caught:
        await Migrator(target).plan(sql=True)
    assert ROW not in printed(caught.value)


@pytest.mark.parametrize("host", ["host:port", "h@st:54:32"])
def test_a_url_that_cannot_be_parsed_is_not_repeated(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="%40") as caught:
        Target(f"postgresql://me:{PASSWORD}@{host}{ROW}/app", tmp_path)
    assert caught.value.__context__ is None


async def test_the_tracebacks_are_in_the_log_at_debug_without_rows(
    tmp_path: Path, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Application(tmp_path, sqlite_url)
    notes.deploy(TWICE)
    with caplog.at_level(logging.DEBUG, "automigrator"), pytest.raises(MigrationError):
        await notes.start()
    (raised,) = [each for each in caplog.records if each.getMessage().endswith("what was raised")]
    assert raised.levelno == logging.DEBUG and raised.exc_info is not None
    error = raised.exc_info[1]
    assert error is not None and "IntegrityError" in printed(error) and ROW not in printed(error)
