"""A small fleet for executors to work on: a SQLite file, or a PostgreSQL schema, for each tenant.

What a tenant does is told by the beginning of its name: `broken` fails in its second revision,
`slow` waits there for a gate, `deadly` kills its process, and `raising` makes its fleet raise.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import URL, make_url

from automigrator._version import __version__
from automigrator.errors import MigrationError
from automigrator.fleet.executors.contract import Work
from automigrator.fleet.report import TenantReport
from automigrator.migrator import Migrator
from automigrator.report import Report
from automigrator.target import Target
from automigrator.testing.databases import CANARY

VARIABLE = "AUTOMIGRATOR_TEST_TENANTS"
"""The environment variable with the fleet's folder: a worker finds all else there."""

SOURCE = "automigrator.testing.executors.tenants:of_environment"

HEAD = "r2"

_ENV = """
from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]
if schema:
    connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{schema}"'))
    connection.execute(text(f'SET search_path = "{schema}"'))
    connection.commit()
context.configure(connection=connection, version_table_schema=schema)
with context.begin_transaction():
    context.run_migrations()
"""

_FIRST = """
import os
import sqlalchemy as sa
from alembic import op

revision, down_revision = "r1", None


def upgrade():
    op.create_table("steps", sa.Column("process", sa.Integer))
    op.execute(f"INSERT INTO steps VALUES ({os.getpid()})")


def downgrade():
    pass
"""

_SECOND = """
from alembic import context, op

revision, down_revision = "r2", "r1"


def upgrade():
    op.execute("INSERT INTO steps VALUES (0)")
    context.config.attributes["misbehave"](op.execute)


def downgrade():
    pass
"""


class Tenants:
    """The fleet of a folder, as an executor sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        told = json.loads((folder / "tenants.json").read_text("utf-8"))
        self._server: str | None = told["server"]
        self.plan = hashlib.sha256((folder / "history" / "env.py").read_bytes()).hexdigest()
        self.version = __version__
        self.source = SOURCE

    @classmethod
    def make(cls, folder: Path, url: URL | None) -> Tenants:
        """Lay out a fleet: of SQLite files, or of schemas in the PostgreSQL database of `url`."""
        versions = folder / "history" / "versions"
        versions.mkdir(parents=True)
        (folder / "files").mkdir()
        (folder / "history" / "env.py").write_text(_ENV, "utf-8")
        (versions / "r1.py").write_text(_FIRST, "utf-8")
        (versions / "r2.py").write_text(_SECOND, "utf-8")
        server = None if url is None else url.render_as_string(hide_password=False)
        told = {"server": server, "token": CANARY}
        (folder / "tenants.json").write_text(json.dumps(told), "utf-8")
        return cls(folder)

    async def aclose(self) -> None:
        """Nothing is shared."""

    async def bring(self, tenant: str) -> TenantReport:
        """Bring one tenant to head, and note when that begins and ends."""
        self._note("begin", tenant)
        how = "cancelled"
        try:
            if tenant.startswith("raising"):
                raise RuntimeError(f"cannot reach postgresql://fleet:{CANARY}@server/{tenant}")
            migrator = Migrator(self._target(tenant), announce=False, stop_on_signals=False)
            try:
                report = await migrator.run(mode="migrate")
            except MigrationError as error:
                report = error.report
            how = report.outcome
            return _reported(tenant, report)
        except Exception:
            how = "raised"
            raise
        finally:
            self._note(how, tenant)

    async def work(self) -> Work:
        """What a worker needs: nothing that is secret."""
        return Work(self.source, self.plan, self.version)

    def url(self, tenant: str) -> URL:
        """Where a tenant is."""
        if self._server is not None:
            return make_url(self._server)
        file = self.folder / "files" / f"{tenant}.db"
        return URL.create("sqlite+aiosqlite", database=str(file))

    def schema(self, tenant: str) -> str | None:
        """The schema of a tenant; None where it has a file of its own."""
        return tenant if self._server is not None else None

    def open_gate(self) -> None:
        """Let the `slow` go on."""
        self._gate.touch()

    def notes(self) -> list[tuple[str, str, int]]:
        """What began and ended, of which tenant, in which process, in order."""
        if not self._journal.exists():
            return []
        lines = [line.split(" ") for line in self._journal.read_text("utf-8").splitlines()]
        return [(what, tenant, int(process)) for what, tenant, process in lines]

    async def noted(self, what: str, tenant: str, *, elsewhere: bool = False) -> int:
        """Wait until something is noted of a tenant; the last process that did."""
        while True:
            for noted, name, process in reversed(self.notes()):
                if (noted, name) == (what, tenant) and (process != os.getpid() or not elsewhere):
                    return process
            await asyncio.sleep(0.02)

    def under_way(self) -> set[tuple[str, int]]:
        """The tenants, and where, that began and did not end."""
        open_: set[tuple[str, int]] = set()
        for what, tenant, process in self.notes():
            (open_.add if what == "begin" else open_.discard)((tenant, process))
        return open_

    @property
    def _gate(self) -> Path:
        return self.folder / "gate"

    @property
    def _journal(self) -> Path:
        return self.folder / "journal"

    def _note(self, what: str, tenant: str) -> None:
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{what} {tenant} {os.getpid()}\n")

    def _target(self, tenant: str) -> Target:
        schema = self.schema(tenant)
        behaviour = _Behaviour(tenant, self._gate)
        return Target(
            self.url(tenant),
            self.folder / "history",
            name=tenant,
            attributes={"schema": schema, "misbehave": behaviour},
            version_table_schema=schema,
        )


class _Behaviour:
    """What a tenant's second revision does; `execute` runs a statement."""

    def __init__(self, tenant: str, gate: Path) -> None:
        self._tenant, self._gate = tenant, gate

    def __call__(self, execute: object) -> None:
        assert callable(execute)
        if self._tenant.startswith("broken"):
            execute("SELECT * FROM absent")
        if self._tenant.startswith("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        while self._tenant.startswith("slow") and not self._gate.exists():
            execute("SELECT 1")  # a cancellation is noticed here
            time.sleep(0.02)


def of_environment() -> Tenants:
    """The fleet of this process's own configuration."""
    return Tenants(Path(os.environ[VARIABLE]))


def _reported(tenant: str, report: Report) -> TenantReport:
    (target,) = report.targets
    failure = target.failures[-1].to_dict() if target.failures else None
    outcomes: Sequence[str] = ("current", "migrated", "recovered", "degraded", "failed")
    assert target.outcome in outcomes, target.outcome
    return TenantReport(
        tenant,
        target.outcome,  # type: ignore[arg-type]  # one of these
        before=target.before,
        after=target.after,
        applied=len(target.applied),
        seconds=target.elapsed_s,
        attempts=target.attempts,
        failure=failure,
        notes=target.notes,
    )
