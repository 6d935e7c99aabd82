"""The SQL that makes an empty database what another one is, as pg_dump writes it."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path

from automigrator.backends.postgresql.dump import programs
from automigrator.backends.postgresql.names import SCHEMA_OF_OURS
from automigrator.errors import RefusedError

_OPTIONS = (
    *("-Fp", "--no-password", "--no-subscriptions", "-N", SCHEMA_OF_OURS),
    # whoever runs it owns what it makes, as with the revisions
    *("--no-owner", "--no-tablespaces", "--encoding=UTF8"),
    *("--inserts", "--rows-per-insert=500"),
)

_SETTINGS = """\
SELECT pg_catalog.set_config('automigrator.path', pg_catalog.current_setting('search_path'), true);
SET LOCAL check_function_bodies = false;
SET LOCAL client_min_messages = warning;
SET LOCAL standard_conforming_strings = on;
SET LOCAL xmloption = content;
SET LOCAL intervalstyle = postgres;
SET LOCAL row_security = off;
SELECT pg_catalog.set_config('search_path', '', true);
"""
"""What pg_dump sets for the session, and only for the transaction here; limits of time are ours."""

_PATH_BACK = """
SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('automigrator.path'), true);
"""

_FIRST, _LAST = "\n--\n-- Name: ", "\n--\n-- PostgreSQL database dump complete\n--\n"
"""Around what pg_dump says of the database: its settings, and commands of psql."""


async def script(clients: Path, env: Mapping[str, str], conninfo: str) -> tuple[str, ...]:
    """Dump a database; `clients` is the programs' folder. Raises RefusedError."""
    program = clients / "pg_dump"
    started = programs.started(program, *_OPTIONS, "-d", conninfo, env=env, stdout=PIPE)
    async with started as child, asyncio.TaskGroup() as both:
        assert child.stdout is not None
        out, said = both.create_task(child.stdout.read()), programs.first_error(child)
        words = await said
        if await child.wait() != 0:
            raise RefusedError(f"{program} failed: {words}; nothing was written")
    text = out.result().decode()
    begin, end = text.find(_FIRST), text.rfind(_LAST)
    return (_SETTINGS + text[begin:end] + _PATH_BACK,) if 0 <= begin < end else ()
