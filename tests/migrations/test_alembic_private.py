"""The private names of Alembic that we rely on exist, and do what we use them for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

import alembic.context
import alembic.op
import pytest
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util.langhelpers import ModuleClsProxy
from sqlalchemy import Column, Connection, Integer, column, create_engine, inspect, table

from automigrator.migrations import alembic_private
from automigrator.migrations.history import revision_id
from automigrator.migrations.runs import proxy_trial
from automigrator.migrations.runs.inside import Inside, NeedsToBeAlone, entered

T = TypeVar("T")


@pytest.fixture
def script(tmp_path: Path) -> ScriptDirectory:
    (tmp_path / "versions").mkdir()
    for name, down in (("r1", None), ("r2", "r1")):
        text = f"revision = {name!r}\ndown_revision = {down!r}\ndef upgrade(): ...\n"
        (tmp_path / "versions" / f"{name}_.py").write_text(f"{text}def downgrade(): ...\n", "utf-8")
    return ScriptDirectory(str(tmp_path))


def test_the_steps_are_alembics_own_in_their_order(script: ScriptDirectory) -> None:
    up = alembic_private.steps(script, "heads", ())
    down = alembic_private.steps(script, "base", ("r2",), down=True)
    assert [revision_id(step) for step in up] == ["r1", "r2"]
    assert [revision_id(step) for step in down] == ["r2", "r1"]
    assert alembic_private.parents(script.get_revision("r2")) == ("r1",)
    assert alembic_private.ancestors(script, ["r2"]) == {"r1", "r2"}
    assert alembic_private.descendants(script, ["r1"]) == {"r1", "r2"}


def test_the_revisions_are_loaded_from_the_version_locations(script: ScriptDirectory) -> None:
    assert {each.revision for each in alembic_private.load_revisions(script)} == {"r1", "r2"}
    assert [Path(each).name for each in alembic_private.version_locations(script)] == ["versions"]


def test_the_version_table_is_made_as_before_the_first_revision() -> None:
    with create_engine("sqlite://").connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "heads"})
        for _ in range(2):  # it may be there
            alembic_private.ensure_version_table(context)
        assert inspect(connection).get_table_names() == ["heads"]


@pytest.mark.parametrize("mutates", [True, False])
def test_only_then_unless_alembic_is_told_to_wait(mutates: bool) -> None:
    with create_engine("sqlite://").connect() as connection:
        options = {"dont_mutate": not mutates, "fn": lambda heads, context: ()}
        MigrationContext.configure(connection, opts=options).run_migrations()
        assert inspect(connection).has_table("alembic_version") is mutates


def test_the_operations_of_a_failed_revision_are_removed() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        Operations(MigrationContext.configure(connection))._install_proxy()
        assert vars(alembic.op)["_proxy"] is not None
        alembic_private.remove_operations_proxy()
        alembic_private.remove_operations_proxy()  # there may be none
    engine.dispose()
    assert vars(alembic.op)["_proxy"] is None


@contextmanager
def operations() -> Iterator[tuple[Connection, Operations]]:
    """What is installed while revisions of a database run."""
    engine = create_engine("sqlite://")
    with (
        engine.connect() as connection,
        Operations.context(MigrationContext.configure(connection)) as installed,
    ):
        yield connection, installed
    engine.dispose()


@contextmanager
def unchanged_modules() -> Iterator[None]:
    modules = (alembic.op, alembic.context)
    before = [(dict(vars(each)), each.__class__) for each in modules]
    yield
    assert [(dict(vars(each)), each.__class__) for each in modules] == before


def as_a_run(function: Callable[[], T]) -> T:
    """Call it as code of an env.py that has others beside it."""

    def called() -> T:
        with entered(Inside(known={})):
            return function()

    return copy_context().run(called)


def test_each_run_calls_its_own_operations_and_the_application_its_own() -> None:
    with operations() as (applications, installed), unchanged_modules():
        with alembic_private.dispatched():
            assert alembic.op.get_bind() is applications
            assert vars(alembic.op.__class__)["_proxy"].fget(alembic.op) is installed
            assert as_a_run(bound) == (True, True)
            assert alembic.op.get_bind() is applications
            assert alembic.op.get_context().connection is applications
        assert alembic.op.get_bind() is applications


def bound() -> tuple[bool, bool]:
    with operations() as (connection, installed):
        return alembic.op.get_bind() is connection, installed.get_bind() is connection


def test_what_the_application_installs_beside_runs_stays_after_them() -> None:
    with EnvironmentContext(Config(), None):  # type: ignore[arg-type]
        pass  # what Alembic's first use leaves in its modules stays
    with ExitStack() as later, unchanged_modules():
        with alembic_private.dispatched():
            connection, _ = later.enter_context(operations())
            assert as_a_run(bound) == (True, True)
            context = EnvironmentContext(config := Config(), None)  # type: ignore[arg-type]
            later.enter_context(context)
            assert as_a_run(lambda: hasattr(alembic.context, "config")) is False
        assert alembic.op.get_bind() is connection
        assert alembic.context.config is config
        later.close()


def test_a_call_that_comes_too_early_says_so_as_alembic_says_it() -> None:
    with alembic_private.dispatched(), pytest.raises(NameError, match="Can't invoke function"):
        as_a_run(lambda: alembic.op.get_bind())
    with alembic_private.dispatched(), pytest.raises(AttributeError, match="no attribute 'config'"):
        as_a_run(lambda: alembic.context.config)


def test_a_call_that_comes_too_late_fails_as_it_does_without_us() -> None:
    def late() -> None:
        bound()
        alembic.op.get_bind()

    with alembic_private.dispatched(), pytest.raises(AttributeError, match="NoneType"):
        as_a_run(late)


def test_an_operation_that_a_run_registers_is_every_runs() -> None:
    def register() -> None:
        @Operations.register_operation("automigrator_note")
        class Note(MigrateOperation):
            @classmethod
            def automigrator_note(cls, operations: Operations) -> None: ...

    with alembic_private.dispatched(), pytest.raises(NeedsToBeAlone, match="automigrator_note"):
        as_a_run(register)
    assert not hasattr(Operations, "automigrator_note")


def test_the_trial_says_whether_runs_are_kept_apart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(proxy_trial, "_apart", None)
    with unchanged_modules():
        assert proxy_trial.proxies_are_apart()
    assert not caplog.records
    monkeypatch.setattr(proxy_trial, "_apart", None)
    # as another release may do it
    install = vars(ModuleClsProxy)["_install_proxy"]
    monkeypatch.setattr(Operations, "_install_proxy", install, raising=False)
    with unchanged_modules():
        assert not proxy_trial.proxies_are_apart()
    (record,) = caplog.records
    assert "this release of Alembic cannot serve several" in record.getMessage()


def test_offline_statements_are_written_as_online_mode_sends_them() -> None:
    written: list[str] = []
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True})
    alembic_private.written_by(context, written.append)
    operations = Operations(context)

    operations.execute("select '\t'")
    operations.create_table("t", Column("id", Integer, primary_key=True))
    operations.bulk_insert(table("t", column("id", Integer)), [{"id": 1}])

    assert written == [
        "select '\t'",
        "\nCREATE TABLE t (\n\tid SERIAL NOT NULL, \n\tPRIMARY KEY (id)\n)\n\n",
        "INSERT INTO t (id) VALUES (1)",
    ]
