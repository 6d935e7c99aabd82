"""Tenants of one application: a schema of one database each, or a database each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Pool, event, make_url
from support import alembic_projects
from support.alembic_projects import linear, query

from automigrator import MigrationError, Migrator, Target, TargetReport
from automigrator.cohort import Cohort

COUNTED = "\nimport pathlib\nwith pathlib.Path(__file__).with_name('ran').open('a') as ran:\n"
COUNTED += "    ran.write('x')\n"
"""At the beginning of an env.py: it counts how often it runs."""


class Tenants:
    """An application with Alembic's generic env.py, whose URL says which tenant is meant."""

    def __init__(
        self, root: Path, url: str, revisions: Callable[[Path], object] = linear, env: str = ""
    ) -> None:
        self.url = url.replace("+asyncpg", "+psycopg")
        self._project = alembic_projects.project(
            root, "generic", self.url, revisions=revisions, other_url=self.url
        )
        self.env = self.versions.parent / "env.py"
        self.env.write_text((env or self.env.read_text("utf-8")) + COUNTED, "utf-8")

    @property
    def versions(self) -> Path:
        return self._project.versions

    @property
    def config(self) -> Path:
        return self._project.config

    def schema(self, name: str, **options: Any) -> Target:
        """The tenant in a schema, which is made."""
        self.execute(f'create schema if not exists "{name}"')
        url = make_url(self.url).update_query_dict({"options": f"-csearch_path={name}"})
        return Target(url, self.config, name=name, **{"version_table_schema": name, **options})

    def database(self, url: str, **options: Any) -> Target:
        """The tenant in a database that is there."""
        url = url.replace("+asyncpg", "+psycopg")
        return Target(url, self.config, name=make_url(url).database, **options)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in query(self.url, sql)]

    def heads(self, schema: str) -> set[str]:
        return alembic_projects.heads(self.url, f"{schema}.alembic_version")

    def tables(self, schema: str) -> set[str]:
        """Of a schema, without the version table."""
        found = {each.partition(".")[::2] for each in alembic_projects.tables(self.url)}
        return {table for where, table in found if where == schema} - {"alembic_version"}

    @property
    def ran(self) -> int:
        """How often env.py has run since this was asked before."""
        place = self.env.with_name("ran")
        count = len(place.read_text()) if place.exists() else 0
        place.unlink(missing_ok=True)
        return count


async def brought(cohort: Cohort | None, target: Target, **options: Any) -> TargetReport:
    """What became of a target in a cohort, or by itself."""
    migrator = Migrator(target, mode="migrate", **options)
    try:
        report = await (cohort.run(migrator) if cohort is not None else migrator.run())
    except MigrationError as error:
        report = error.report
    return report.targets[0]


class Connections:
    """Context manager: counts the connections that are opened."""

    def __enter__(self) -> Connections:
        self.count = 0
        event.listen(Pool, "connect", self._opened)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Pool, "connect", self._opened)

    def _opened(self, *_: object) -> None:
        self.count += 1
