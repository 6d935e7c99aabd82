"""Alembic projects of every kind that applications have, and a look at what became of them."""

from __future__ import annotations

import asyncio
import io
import sqlite3
import textwrap
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from alembic import command
from alembic.config import Config
from sqlalchemy import make_url
from support.environments import ENVIRONMENTS

TEMPLATES = {
    "generic": "Alembic's own generic template: a sync engine from the ini's URL.",
    "async": "Alembic's own async template: `asyncio.run` of an async engine from the ini's URL.",
    "pyproject": "Alembic's own pyproject template: generic, configured by `[tool.alembic]`.",
    "pyproject_async": "Alembic's own pyproject_async template: async, by `[tool.alembic]`.",
    "multidb": "Alembic's own multidb template: two databases, each in a section of the ini.",
}
"""Kinds whose env.py is byte for byte the one Alembic ships."""

KINDS = {
    **TEMPLATES,
    **{name: environment.about for name, environment in ENVIRONMENTS.items()},
    "script_directory": "No ini at all: the script directory is the configuration.",
}
"""Every kind of project, with what is peculiar to its env.py."""

ASYNC = frozenset({"async", "pyproject_async", "cookbook_async", "create_task", "script_directory"})
"""Kinds whose own way to the database is an async driver."""

POSTGRESQL_ONLY = frozenset({"schemas"})

_SAME_ENV = {"script_directory": "cookbook_async"}
_SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_PLACEHOLDER = "driver://user:pass@localhost/dbname"


@dataclass(frozen=True, slots=True)
class Project:
    """What a test passes to a Target, and where its revision files are.

    `options` are further arguments for the Target; `version_tables` is where plain Alembic keeps
    its heads, `tables` where the tables of `linear` go, both as `tables()` names them.
    """

    config: Path
    versions: Path
    options: dict[str, Any] = field(default_factory=dict)
    version_tables: tuple[str, ...] = ("alembic_version",)
    tables: tuple[str, ...] = ("users", "posts")


def revision(
    folder: Path,
    id: str,
    down: str | tuple[str, ...] | None,
    *,
    upgrade: str = "",
    downgrade: str = "pass",
    branch_labels: str | tuple[str, ...] | None = None,
    depends_on: str | tuple[str, ...] | None = None,
    header: str = "",
    imports: str = "",
) -> Path:
    """Write a revision file; `upgrade` and `downgrade` are bodies, `header` is module code."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f'"""{id}"""',
        "import sqlalchemy as sa\nfrom alembic import op",
        textwrap.dedent(imports).strip(),
        f"revision = {id!r}\ndown_revision = {down!r}",
        f"branch_labels = {branch_labels!r}\ndepends_on = {depends_on!r}",
        textwrap.dedent(header).strip(),
        f"def upgrade() -> None:\n{_body(upgrade)}",
        f"def downgrade() -> None:\n{_body(downgrade)}",
    ]
    path = folder / f"{id}_.py"
    path.write_text("\n\n".join(filter(None, lines)) + "\n", "utf-8")
    return path


def linear(folder: Path, n: int = 3) -> None:
    """r1 creates users, r2 posts (its children), r3 adds a column; each further one a table."""
    bodies = [
        (
            """
            op.create_table(
                "users",
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("name", sa.String(50), nullable=False),
            )
            """,
            'op.drop_table("users")',
        ),
        (
            """
            op.create_table(
                "posts",
                sa.Column("id", sa.Integer, primary_key=True),
                sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id", ondelete="CASCADE")),
                sa.Column("body", sa.Text, nullable=False),
            )
            """,
            'op.drop_table("posts")',
        ),
        (
            'op.add_column("users", sa.Column("email", sa.String(200), nullable=True))',
            'op.drop_column("users", "email")',
        ),
    ]
    for number in range(4, n + 1):
        table = f"t{number}"
        bodies.append(
            (
                f'op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True))',
                f'op.drop_table("{table}")',
            )
        )
    for number, (upgrade, downgrade) in enumerate(bodies[:n], 1):
        down = f"r{number - 1}" if number > 1 else None
        revision(folder, f"r{number}", down, upgrade=upgrade, downgrade=downgrade)


def project(
    root: Path,
    kind: str,
    url: str,
    *,
    revisions: Callable[[Path], object] = linear,
    other_url: str | None = None,
) -> Project:
    """Make a project for the database of `url` whose configuration points at `other_url`.

    Without `other_url` the configuration keeps the placeholder of Alembic's templates.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    scripts = root / "migrations"
    template = kind if kind in TEMPLATES else "async" if kind in ASYNC else "generic"
    ini, pyproject = root / "alembic.ini", root / "pyproject.toml"
    root.mkdir(parents=True, exist_ok=True)
    quiet = Config(ini, toml_file=pyproject, cmd_opts=Namespace(quiet=True))
    with redirect_stdout(io.StringIO()):  # not all of it is quiet
        command.init(quiet, str(scripts), template=template)
    elsewhere = other_url or f"sqlite+aiosqlite:///{root / 'elsewhere.db'}"
    if kind not in TEMPLATES:
        env = ENVIRONMENTS[_SAME_ENV.get(kind, kind)].text
        env = env.replace("<other url>", with_sync_driver(elsewhere))
        (scripts / "env.py").write_text(env, "utf-8")
    if other_url is not None:
        written = other_url if kind in ASYNC else with_sync_driver(other_url)
        # two databases of a multidb project are never the same: its second stays a file
        second = f"sqlite:///{root / 'engine2.db'}"
        text = ini.read_text("utf-8").replace(f"{_PLACEHOLDER}2", second)
        ini.write_text(text.replace(_PLACEHOLDER, written.replace("%", "%%")), "utf-8")
    versions = scripts / "versions"
    if kind == "replaces_version_locations":
        versions = root / "revisions"
    revisions(versions)
    if kind == "multidb":
        _for_two_engines(versions)
    return _described(kind, url, root, versions)


def configure(project: Project, **options: str) -> None:
    """Set options in the `[alembic]` section of the project's ini."""
    text = project.config.read_text("utf-8")
    lines = "\n".join(f"{key} = {value}" for key, value in options.items())
    project.config.write_text(text.replace("[alembic]\n", f"[alembic]\n{lines}\n", 1), "utf-8")


def with_sync_driver(url: str) -> str:
    """The same database through the driver that a sync application uses."""
    parsed = make_url(url)
    parsed = parsed.set(drivername=_SYNC_DRIVERS[parsed.get_backend_name()])
    return parsed.render_as_string(hide_password=False)


def tables(url: str) -> set[str]:
    """Every table, on PostgreSQL with its schema where that is not public; none when absent."""
    if make_url(url).get_backend_name() == "sqlite":
        sql = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
    else:
        sql = (
            "select case schemaname when 'public' then '' else schemaname || '.' end || tablename "
            "from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
        )
    return {str(row[0]) for row in query(url, sql)}


def heads(url: str, version_table: str = "alembic_version") -> set[str]:
    """The rows of a version table; none when it is absent."""
    if version_table not in tables(url):
        return set()
    return {str(row[0]) for row in query(url, f"select version_num from {version_table}")}


def contents(url: str) -> dict[str, list[Any]]:
    """The rows of every table, its version table included, comparable before and after."""
    return {
        table: sorted(map(repr, map(tuple, query(url, f"select * from {table}"))))
        for table in sorted(tables(url))
    }


def query(url: str, sql: str) -> Sequence[Any]:
    """Rows over a connection of its own without SQLAlchemy; may be called inside a loop."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        if not path.exists():
            return []
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
    dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)

    async def fetched() -> Sequence[Any]:
        server = await asyncpg.connect(dsn)
        try:
            return list(await server.fetch(sql))
        finally:
            await server.close()

    # a thread of its own: the caller may be inside a running loop
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(fetched())).result()


def _described(kind: str, url: str, root: Path, versions: Path) -> Project:
    config = root / ("pyproject.toml" if kind.startswith("pyproject") else "alembic.ini")
    if kind == "multidb":
        return Project(config, versions, {"name": "engine1"})
    if kind == "script_directory":
        config.unlink()
        return Project(root / "migrations", versions)
    if kind == "version_table":
        schema = "meta." if make_url(url).get_backend_name() == "postgresql" else ""
        return Project(config, versions, version_tables=(f"{schema}my_versions",))
    if kind == "schemas":
        owners = ("tenant_a", "tenant_b")
        return Project(
            config,
            versions,
            version_tables=tuple(f"{o}.alembic_version" for o in owners),
            tables=tuple(f"{o}.{t}" for o in owners for t in ("users", "posts")),
        )
    return Project(config, versions)


def _for_two_engines(versions: Path) -> None:
    """Give every revision what multidb's script template would have: a function per engine."""
    for path in versions.glob("*.py"):
        text = path.read_text("utf-8")
        for name in ("upgrade", "downgrade"):
            text = text.replace(f"def {name}()", f"def {name}_engine1()")
            text += (
                f"\n\ndef {name}(engine_name: str) -> None:\n"
                f'    globals()["{name}_%s" % engine_name]()\n'
                f"\n\ndef {name}_engine2() -> None:\n    pass\n"
            )
        path.write_text(text, "utf-8")


def _body(text: str) -> str:
    return textwrap.indent(textwrap.dedent(text).strip() or "pass", "    ")
