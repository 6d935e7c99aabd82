"""One pair of runs: an application's project, drawn from the axes, for plain Alembic and for us."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import indent

from faithful.dimensions import (
    BODIES,
    BOTH,
    CONFIGURE,
    DRIVERS,
    FIRST,
    GIVEN,
    OPTIONS,
    SESSIONS,
    SHAPES,
)

ENV = """\
import asyncio
import concurrent.futures
import threading
from alembic import context
from sqlalchemy import create_engine, event, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

config = context.config


def made():
    engine = {create}(config.get_main_option("sqlalchemy.url"){arguments})
    sync = getattr(engine, "sync_engine", engine)
{listeners}
    return engine


def run(connection):
{session}
    context.configure(connection=connection{configure})
    with context.begin_transaction():
        context.run_migrations()

{online}
"""
REVISION = """\
from datetime import datetime, timezone
import sqlalchemy as sa
from alembic import op
{imports}
revision, down_revision = {revision!r}, {down!r}


def upgrade():
{code}


def downgrade():
    pass
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """The values of the axes, by their names."""

    database: str
    shape: str
    option: str
    session: str
    configure: str
    driver: str
    given: str
    body: str

    def __str__(self) -> str:
        return " | ".join(str(value) for value in asdict(self).values())

    def write(self, folder: Path, url: str) -> None:
        """Write the project; `url` leads to its database, with the driver that the pair names."""
        shape, option, body = SHAPES[self.shape], OPTIONS[self.option], BODIES[self.body]
        versions = folder / "migrations" / "versions"
        versions.mkdir(parents=True)
        (folder / "alembic.ini").write_text(
            "[alembic]\nscript_location = %(here)s/migrations\n"
            f"sqlalchemy.url = {url.replace('%', '%%')}\n"
        )
        env = ENV.format(
            create="create_async_engine" if shape.is_async else "create_engine",
            arguments=f", {option.arguments}" if option.arguments else "",
            listeners=indent(option.listeners.strip(), "    "),
            session=indent(SESSIONS[self.session][0], "    "),
            configure=CONFIGURE[self.configure],
            online=shape.code.format(engine="made()"),
        )
        (folder / "migrations" / "env.py").write_text(env)
        for revision, down, code, imports in (
            ("r1", None, FIRST, ""),
            ("r2", "r1", body.code, body.imports),
            ("r3", "r2", 'op.create_table("last", sa.Column("id", sa.Integer))', ""),
        ):
            text = REVISION.format(
                imports=imports, revision=revision, down=down, code=indent(code.strip(), "    ")
            )
            (versions / f"{revision}_.py").write_text(text)


def drawn(seed: str) -> Pair:
    """A pair in which every value is for the others."""
    rng = random.Random(seed)
    database = rng.choice(BOTH)
    shape = rng.choice(list(SHAPES))
    kind = "async" if SHAPES[shape].is_async else "sync"
    body = rng.choice(
        [name for name, each in BODIES.items() if database in each.on and each.only in ("", kind)]
    )
    options = [
        name for name, each in OPTIONS.items() if database in each.on and each.only in ("", kind)
    ]
    option = rng.choice(options) if rng.random() < 0.7 else "plain"
    session = "nothing"
    if rng.random() < 0.5:
        session = rng.choice([name for name, each in SESSIONS.items() if database in each[1]])
    for need in BODIES[body].needs:
        axis, _, name = need.partition(" ")
        option = name if axis == "option" else option
        session = name if axis == "session" else session
    configure = rng.choice(list(CONFIGURE)) if rng.random() < 0.4 else ""
    driver = rng.choice(DRIVERS[database, kind])
    return Pair(database, shape, option, session, configure, driver, rng.choice(GIVEN), body)
