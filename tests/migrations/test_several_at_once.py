"""Several env.py of one history run at once in a process, and each does what it would do alone."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path

import alembic.context
import alembic.op
import pytest
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.util.langhelpers import ModuleClsProxy
from sqlalchemy import create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine
from support.alembic_projects import heads, tables
from support.interleaved_tenants import R1, Tenants, Turnstile, turnstile
from support.process_state import unchanged_process

from automigrator import MigrationError, Migrator, Report
from automigrator.migrations import alembic_private
from automigrator.migrations.runs import proxy_trial

EIGHT = [*"abcdefgh"]


@pytest.fixture
def passed() -> Iterator[Turnstile]:
    with turnstile() as made:
        yield made


def outcomes(reports: list[Report | BaseException]) -> list[str]:
    return [each.outcome if isinstance(each, Report) else repr(each) for each in reports]


async def observed(tenants: Tenants) -> None:
    """Bring a tenant of which the others' migrations learn what env.py does."""
    tenants.emptied(["first"])
    assert (await tenants.brought("first")).outcome == "migrated"
    tenants.emptied(["first"])


async def repeated(
    tenants: Tenants,
    names: list[str],
    rounds: int,
    expected: object,
    meeting: Turnstile | None = None,
) -> None:
    await observed(tenants)
    if meeting is not None:
        meeting.meet = frozenset(names)
    for _ in range(rounds):
        tenants.emptied(names)
        reports = await tenants.all_brought(names)
        assert outcomes(reports) == ["migrated"] * len(names)
        assert tenants.content(names) == expected


@pytest.mark.long("60", "two-async", "two-given")
@pytest.mark.parametrize("rounds", [1, 60])
@pytest.mark.parametrize("kind", ["sync", "async", "given"])
@pytest.mark.parametrize("count", [2, 8], ids=["two", "eight"])
async def test_every_file_is_what_plain_alembic_makes_of_it(
    count: int, kind: str, rounds: int, passed: Turnstile, tmp_path: Path
) -> None:
    tenants, names = Tenants(tmp_path, kind), EIGHT[:count]
    with unchanged_process():
        await repeated(tenants, names, rounds, tenants.plainly(names), passed)
    assert passed.together == {frozenset(each) for each in combinations(names, 2)}


@pytest.mark.long("60", "eight", "two-sync")
@pytest.mark.parametrize("rounds", [1, 60])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("count", [2, 8], ids=["two", "eight"])
async def test_every_schema_is_what_plain_alembic_makes_of_it(
    count: int, kind: str, rounds: int, passed: Turnstile, tmp_path: Path, postgres_url: str
) -> None:
    tenants, names = Tenants(tmp_path, kind, postgres_url), EIGHT[:count]
    expected = tenants.plainly(names, postgres_url)
    with unchanged_process():
        await repeated(tenants, names, rounds, expected, passed)
    assert passed.together == {frozenset(each) for each in combinations(names, 2)}


@pytest.mark.long("[async")
@pytest.mark.parametrize("kind", ["given", "async"])
async def test_every_schema_may_be_migrated_by_the_one_engine_of_the_application(
    kind: str, passed: Turnstile, tmp_path: Path, postgres_url: str
) -> None:
    names = EIGHT[:3]
    expected = Tenants(tmp_path, kind, postgres_url).plainly(names, postgres_url)
    engine = create_async_engine(postgres_url)
    tenants = Tenants(tmp_path / "ours", kind, postgres_url, engine=engine)
    with unchanged_process():
        await repeated(tenants, names, 1, expected, passed)
    await engine.dispose()
    assert passed.together == {frozenset(each) for each in combinations(names, 2)}


async def test_without_what_keeps_alembic_apart_they_would_not_be(
    passed: Turnstile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants, names = Tenants(tmp_path, "sync"), EIGHT[:2]
    expected = tenants.plainly(names)
    await observed(tenants)
    monkeypatch.setattr(proxy_trial, "_apart", True)
    monkeypatch.setattr(alembic_private, "dispatched", nullcontext)
    held = passed.held["a", "filled"] = threading.Event()
    bringing = asyncio.create_task(tenants.all_brought(["a"]))
    await passed.until("a", "filled")
    reports = await tenants.all_brought(["b"])
    held.set()
    reports += await bringing
    while getattr(alembic.op, "_proxy", None) is not None:
        alembic_private.remove_operations_proxy()
    vars(alembic.context)["_proxy"] = None
    wrong = set(outcomes(reports)) != {"migrated"} or tenants.content(names) != expected
    assert wrong


@pytest.mark.long("[async")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_one_fails_and_the_others_do_not(
    kind: str, passed: Turnstile, tmp_path: Path
) -> None:
    tenants = Tenants(tmp_path, kind)
    expected = tenants.plainly(["a", "b"])
    await observed(tenants)
    passed.held["b", "begun"] = threading.Event()
    bringing = asyncio.create_task(tenants.brought("b"))
    with unchanged_process():
        await passed.until("b", "begun")
        broken, a = await asyncio.gather(
            *map(tenants.brought, ["broken", "a"]), return_exceptions=True
        )
        passed.held["b", "begun"].set()
        b = await bringing
    assert isinstance(broken, MigrationError)
    (failure,) = broken.report.targets[0].failures
    assert (failure.kind, failure.revision, failure.state) == ("revision", "r2", "clean")
    assert outcomes([a, b]) == ["migrated", "migrated"]
    assert tenants.content(["a", "b"]) == expected
    assert heads(tenants.url("broken")) == set()


@pytest.mark.long("[sync")
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_one_is_cancelled_and_the_others_are_not(
    kind: str, passed: Turnstile, tmp_path: Path
) -> None:
    tenants = Tenants(tmp_path, kind)
    expected = tenants.plainly(["a", "b"])
    await observed(tenants)
    held = passed.held["c", "filled"] = threading.Event()
    with unchanged_process():
        tasks = [asyncio.create_task(tenants.brought(each)) for each in "abc"]
        await passed.until("c", "filled")
        tasks[2].cancel()
        reports = await asyncio.gather(*tasks[:2])
        held.set()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
    assert outcomes(reports) == ["migrated", "migrated"]
    assert tenants.content(["a", "b"]) == expected
    assert tables(tenants.url("c")) == set()
    del passed.held["c", "filled"]
    assert (await tenants.brought("c")).outcome == "migrated"


NOTES = "\nop.execute(sa.text('insert into notes values (:v)').bindparams(v=str({value})))\n"

ALONE = {
    "it changes the working directory": (
        "folder = os.path.join(os.path.dirname(config.config_file_name), tenant())\n"
        "os.makedirs(folder, exist_ok=True)\n"
        "os.chdir(folder)\n",
        "__import__('os').path.basename(__import__('os').getcwd())",
    ),
    "it sets the environment variable TENANT": (
        "os.environ['TENANT'] = tenant()",
        "__import__('os').environ['TENANT']",
    ),
    "it starts threads of its own": (
        "import threading\nthread = threading.Thread(target=print)\nthread.start()\nthread.join()",
        "1",
    ),
    "it takes from sys.path": ("sys.path.remove(sys.path[-1])", "1"),
    "it listens to events of every Engine": (
        "from sqlalchemy import Engine, event\n"
        "name = tenant()\n"
        "@event.listens_for(Engine, 'before_cursor_execute', retval=True)\n"
        "def named(connection, cursor, statement, parameters, *_):\n"
        "    return statement.replace('a listener', name), parameters\n",
        "'a listener'",
    ),
    "it registers the operation note": (
        "from alembic.operations import MigrateOperation, Operations\n"
        "name = tenant()\n"
        "@Operations.register_operation('note')\n"
        "class Note(MigrateOperation):\n"
        "    @classmethod\n"
        "    def note(cls, operations):\n"
        "        return name\n",
        "op.note()",
    ),
}
"""What an env.py does that only one may do at a time, and what a revision finds of it."""


@pytest.mark.parametrize("why", ALONE)
async def test_what_cannot_be_kept_apart_runs_alone(
    why: str, passed: Turnstile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beginning, value = ALONE[why]
    tenants = Tenants(tmp_path, "sync", beginning=beginning, r1=R1 + NOTES.format(value=value))
    names = EIGHT[:4]
    expected = tenants.plainly(names)
    caplog.set_level(logging.INFO)
    with unchanged_process():
        await observed(tenants)
        await repeated(tenants, names, 1, expected)
    assert passed.together == set()
    assert f"runs alone in this process: {why}" in caplog.text


HIDES = """
import os
if tenant() == "b":
    try:
        os.chdir("/")
    except BaseException:
        pass
"""


@pytest.mark.parametrize("where", ["env.py", "revision"])
async def test_what_a_later_migration_is_the_first_to_do_is_done_again_alone(
    where: str, passed: Turnstile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the word that it must end is hidden."""
    noted = NOTES.format(value="__import__('os').getcwd() == '/'")
    if where == "env.py":
        tenants = Tenants(tmp_path, "sync", beginning=HIDES, r1=R1 + noted)
    else:
        tenants = Tenants(tmp_path, "sync", r1=R1 + HIDES + noted)
    names = EIGHT[:3]
    expected = tenants.plainly(names)
    caplog.set_level(logging.INFO)
    with unchanged_process():
        await repeated(tenants, names, 1, expected)
    assert "b: its env.py is run again, alone: it changes the working directory" in caplog.text


async def test_what_is_done_alike_is_learned_from_a_run_that_is_done_again(
    passed: Turnstile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the first of a history had less to do than those after it."""
    beginning = "if tenant() != 'first':\n    os.environ['AUTOMIGRATOR_SETTING'] = 'on'\n"
    tenants, names = Tenants(tmp_path, "sync", beginning=beginning), EIGHT[:3]
    expected = tenants.plainly(names)
    caplog.set_level(logging.INFO)
    with unchanged_process():
        await repeated(tenants, names, 2, expected, passed)
    assert "its env.py is run again, alone: it sets the environment variable" in caplog.text
    assert "runs alone in this process" not in caplog.text
    assert passed.together == {frozenset(each) for each in combinations(names, 2)}


async def test_nothing_is_committed_by_a_migration_that_must_be_alone(
    passed: Turnstile, tmp_path: Path
) -> None:
    """A revision that has committed by itself is not run a second time."""
    beyond = "if tenant() == 'b':\n    with op.get_context().autocommit_block():\n"
    beyond += "        op.execute('create table torn (id int)')\n    __import__('os').chdir('/')\n"
    tenants = Tenants(tmp_path, "sync", r1=R1 + beyond)
    await observed(tenants)
    a, b = await tenants.all_brought(["a", "b"])
    assert outcomes([a]) == ["migrated"]
    assert isinstance(b, MigrationError)
    (failure,) = b.report.targets[0].failures
    assert (failure.kind, failure.state) == ("env", "partial-within-revision")
    assert "ran beside others and must be alone" in failure.message


SAME = """
import logging
os.environ.setdefault("AUTOMIGRATOR_SETTING", "on")
if "/opt/ours" not in sys.path:
    sys.path.insert(0, "/opt/ours")
logging.getLogger("the.application").setLevel("ERROR")
logging.getLogger("the.application").addHandler(logging.NullHandler())
"""


async def test_what_every_one_does_alike_keeps_none_of_them_alone(
    passed: Turnstile, tmp_path: Path
) -> None:
    seen = "(__import__('os').environ['AUTOMIGRATOR_SETTING'], sys.path.count('/opt/ours') > 0)"
    tenants = Tenants(tmp_path, "sync", beginning=SAME, r1=R1 + NOTES.format(value=seen))
    names = EIGHT[:4]
    expected = tenants.plainly(names)
    with unchanged_process():
        await repeated(tenants, names, 2, expected, passed)
    assert passed.together >= {frozenset(each) for each in combinations(names, 2)}


async def test_alembic_in_another_thread_of_the_application_is_its_own(
    passed: Turnstile, tmp_path: Path
) -> None:
    tenants, names = Tenants(tmp_path, "sync"), EIGHT[:2]
    await observed(tenants)
    held = passed.held["a", "filled"] = threading.Event()
    engine = create_engine("sqlite://")
    with unchanged_process():
        bringing = asyncio.create_task(tenants.all_brought(names))
        await passed.until("a", "filled")
        with pytest.raises((NameError, AttributeError)):
            alembic.op.get_bind()
        with engine.connect() as connection, EnvironmentContext(config := Config(), None) as own:  # type: ignore[arg-type]
            assert (alembic.context.config, own.config) == (config, config)
            with Operations.context(MigrationContext.configure(connection)):
                alembic.op.execute("create table applications (id int)")
                assert alembic.op.get_bind() is connection
                assert inspect(connection).get_table_names() == ["applications"]
            held.set()
            assert outcomes(await bringing) == ["migrated", "migrated"]
            assert alembic.context.config is config
        assert not hasattr(alembic.context, "config")
    engine.dispose()


async def test_an_alembic_that_cannot_be_kept_apart_is_had_by_one_after_another(
    passed: Turnstile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As one would be that installs its proxies in another way."""
    monkeypatch.setattr(proxy_trial, "_apart", None)
    install = vars(ModuleClsProxy)["_install_proxy"]
    monkeypatch.setattr(Operations, "_install_proxy", install, raising=False)
    tenants, names = Tenants(tmp_path, "sync"), EIGHT[:3]
    expected = tenants.plainly(names)
    with unchanged_process():
        await repeated(tenants, names, 1, expected)
    assert passed.together == set()
    assert "cannot serve several migrations of a process at once" in caplog.text
    assert "they are run one after another" in caplog.text


async def test_who_has_not_asked_for_it_has_alembic_alone(
    passed: Turnstile, tmp_path: Path
) -> None:
    tenants = Tenants(tmp_path, "sync")
    await observed(tenants)
    held = passed.held["a", "filled"] = threading.Event()
    bringing = asyncio.create_task(tenants.brought("a"))
    await passed.until("a", "filled")
    alone = asyncio.create_task(Migrator(tenants.target("b"), mode="migrate").run())
    await asyncio.sleep(0.1)
    later = asyncio.create_task(tenants.brought("c"))  # it does not go before
    await asyncio.sleep(0.1)
    assert not {("b", "env.py"), ("c", "env.py")} & passed.reached
    held.set()
    reports = await asyncio.gather(bringing, alone, later)
    assert outcomes([*reports]) == ["migrated"] * 3


async def test_two_histories_are_never_beside_each_other(passed: Turnstile, tmp_path: Path) -> None:
    one, other = Tenants(tmp_path / "one", "sync"), Tenants(tmp_path / "other", "sync")
    await observed(one)
    await observed(other)
    reports = await asyncio.gather(one.all_brought(["a", "b"]), other.all_brought(["c", "d"]))
    assert outcomes([*reports[0], *reports[1]]) == ["migrated"] * 4
    assert passed.together <= {frozenset("ab"), frozenset("cd")}
