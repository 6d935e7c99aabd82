"""A user's project with one revision under test, and what each tool's tests say of it."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pytest_automigrator.releases import digests
from sabotage.mistakes import TABLES, Case, Revision
from support import alembic_projects

OURS, OTHERS = "pytest-automigrator", ("pytest-alembic", "pytest-mrt")
TOOLS = (OURS, *OTHERS)

_MODULES = {"test_ours": OURS, "test_alembic": "pytest-alembic", "test_mrt": "pytest-mrt"}

_TESTS = {
    OURS: "from pytest_automigrator.tests import *\n",
    "pytest-alembic": "from pytest_alembic.tests import *\n"
    "from pytest_alembic.tests.experimental import test_downgrade_leaves_no_trace\n",
    "pytest-mrt": "from pytest_mrt.default_tests import *\n",
}
"""Every test that a tool has ready, the experimental one included."""

_CONFTEST = """
import os
import pytest
from pytest_mrt import MRTConfig

def pytest_configure(config):
    config._mrt_config = MRTConfig(
        alembic_ini="alembic.ini", db_url=os.environ["MRT"], target_metadata="shop.models:metadata"
    )

@pytest.fixture
def alembic_engine(at_revision):
    return at_revision("base").engine
"""

_ENV = """
from alembic import context
from sqlalchemy import engine_from_config, pool

from shop.models import metadata

config = context.config
options = {"target_metadata": metadata, "compare_server_default": True, "compare_type": True}


connectable = config.attributes.get("connection")
if connectable is None:
    section = config.get_section(config.config_ini_section)
    connectable = engine_from_config(section, prefix="sqlalchemy.", poolclass=pool.NullPool)
with connectable.connect() as connection:
    context.configure(connection=connection, **options)
    with context.begin_transaction():
        context.run_migrations()
"""

_PRELOADED = ("alembic.command", "asyncpg", "psycopg", "hypothesis", "pytest_automigrator.state")
_PRELOADED += ("automigrator.runner.pipeline", "sqlalchemy.ext.asyncio", "typer", "rich.table")

_OFF = " ".join(
    f"-p no:{name}"
    for name in ("anyio", "asyncio", "cacheprovider", "hypothesispytest", "timeout", "xdist")
)
"""Plugins that nothing here needs."""

_COLUMNS = """
    sa.Column("id", sa.Integer, primary_key=True),{keys}
    sa.Column("name", sa.String(50), nullable=False),  # {w}
    sa.Column("note", sa.Text),
    sa.Column("amount", sa.Integer, nullable=False, server_default="0"),
    sa.Column("active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("code", sa.String(20), nullable=False),
    sa.Column("account_id", sa.Integer),
    sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], "fk_{w}", ondelete="CASCADE"),
    sa.UniqueConstraint("code", name="uq_{w}_code"),
"""
_ACCOUNTS = '"accounts", {}sa.Column("id", sa.Integer, primary_key=True)'

_MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
sa.Table({accounts})


def table(name, *columns, without=(), more=()):
    kept = [each for each in columns if getattr(each, "name", None) not in without]
    return sa.Table(name, metadata, *kept, *more)


"""


@dataclass
class Verdict:
    """What the tests of a tool said: a line for each thing, and the seconds that they took."""

    lines: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Seconds of this process and of those that it starts; the server's are not counted."""


def processes(count: int) -> ProcessPoolExecutor:
    """So many at once, a new one for each session: forks of one that has imported it all."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *filter(find_spec, _PRELOADED)])
    return ProcessPoolExecutor(count, context, max_tasks_per_child=1)


def lay(folder: Path, case: Case, revision: Revision, tools: Sequence[str] = TOOLS) -> None:
    """Make the project; its first revision was released, the second is `revision`."""
    versions = folder / "migrations" / "versions"

    def revisions(place: Path) -> None:
        name = case.table
        made = [
            f"op.create_table({_ACCOUNTS.format('')})",
            f"op.create_table({name!r},{_columns(case)})",
            f"op.create_index({_index(case)}, {name!r}, ['code', 'name'], unique=True)",
        ]
        dropped = [f"op.drop_table({name!r})", "op.drop_table('accounts')"]
        alembic_projects.revision(
            place, "r1", None, upgrade="\n".join(made), downgrade="\n".join(dropped)
        )

    alembic_projects.project(
        folder, "generic", "sqlite://", revisions=revisions, other_url="sqlite:///unused.db"
    )
    (folder / "migrations" / "env.py").write_text(_ENV)
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "models.py").write_text(_models(case, revision))
    _release(folder, versions)
    alembic_projects.revision(
        versions,
        "r2",
        "r1",
        upgrade=case.filled(revision.up),
        downgrade=case.filled(revision.down),
        imports=revision.imports,
    )
    if revision.sibling:
        alembic_projects.revision(versions, "r2_too", "r1")
    for name, (old, new) in revision.files.items():
        text = (folder / name).read_text()
        assert case.filled(old) in text, (name, old)
        (folder / name).write_text(text.replace(case.filled(old), case.filled(new)))
    for module, tool in _MODULES.items():
        if tool in tools:
            (folder / f"{module}.py").write_text(_TESTS[tool])
    if tools == TOOLS:
        (folder / "conftest.py").write_text(_CONFTEST)


def _columns(case: Case) -> str:
    keys = "".join(
        f'\n    sa.Column("{key}", sa.Integer, primary_key=True, server_default="2000"),'
        for key in TABLES[case.table]
    )
    return _COLUMNS.format(keys=keys, w=case.word)


def _index(case: Case) -> str:
    return repr(f"ux_{case.word}")


def _models(case: Case, revision: Revision) -> str:
    more = ", ".join(map(case.filled, revision.more))
    return (
        f"{_MODELS.format(accounts=_ACCOUNTS.format('metadata, '))}"
        f"T = table({case.table!r},{_columns(case)}"
        f"    without={revision.without!r},\n    more=[{more}],\n)\n"
        f"sa.Index({_index(case)}, T.c.code, T.c.name, unique=True)\n"
        f"{case.filled(revision.models)}\n"
    )


def _release(folder: Path, versions: Path) -> None:
    paths = {path.stem.rstrip("_"): str(path) for path in versions.glob("r*.py")}
    (folder / "alembic.lock").write_text(json.dumps({"revisions": digests(paths)}))


def judged(folder: Path, case: Case, postgres: str = "", mrt: str = "") -> Mapping[str, Verdict]:
    """Run the tests of all tools in one session of pytest, in this process; what each of them says.

    `postgres`: a role's URL, default: SQLite. `mrt`: that of pytest-mrt's database.
    """
    ini = ["[pytest]", f"addopts = {_OFF}", "mrt_default_tests = false"]
    if postgres:
        ini += ["automigrator_database = postgresql", f"automigrator_postgresql = {postgres}"]
    (folder / "pytest.ini").write_text("\n".join(ini) + "\n")
    os.chdir(folder)
    os.environ.update(MRT=mrt, AUTOMIGRATOR_PYTEST_CACHE=str(folder))
    listener, printed = _Listener(case), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        code = pytest.main(["-q", "--tb=short", f"--rootdir={folder}"], [listener])
    assert code in (0, 1), printed.getvalue()[-3000:]
    return listener.verdicts


class _Listener:
    """A plugin for pytest: hears how each test ends, and what it costs."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.verdicts = {tool: Verdict() for tool in TOOLS}

    def _of(self, nodeid: str) -> Verdict:
        return self.verdicts[_MODULES[Path(nodeid.partition("::")[0]).stem]]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        began, spent = time.perf_counter(), sum(os.times()[:4])
        result = yield
        verdict = self._of(item.nodeid)
        verdict.seconds += time.perf_counter() - began
        verdict.cpu_s += sum(os.times()[:4]) - spent
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            verdict, name = self._of(report.nodeid), report.nodeid.partition("::")[2]
            verdict.failed.add(name)
            lines = report.longreprtext.splitlines()
            verdict.lines |= {f"{name}: {_settled(line, self._case)}" for line in lines}


def _settled(line: str, case: Case) -> str:
    """Without what differs from one run to the next: the table, numbers, made values."""
    line = line.replace(case.table, "T").replace(case.word, "T")
    return re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "#", line.strip())


def encoded(verdicts: Mapping[str, Verdict]) -> str:
    """As a line for a file."""
    return json.dumps({tool: asdict(each) for tool, each in verdicts.items()}, default=sorted)


def decoded(line: str) -> dict[str, Verdict]:
    """The reverse of `encoded`."""
    found = {tool: Verdict(**each) for tool, each in json.loads(line).items()}
    for each in found.values():
        each.lines, each.failed = set(each.lines), set(each.failed)
    return found


def is_caught(bad: Verdict, good: Verdict) -> bool:
    """Whether a tool fails for the mistake, and says something that it does not say without it."""
    return bool(bad.failed - good.failed) or bool(bad.failed and bad.lines - good.lines)
