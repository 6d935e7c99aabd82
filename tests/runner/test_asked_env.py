"""A start with nothing to do that has to run env.py says how to spare that."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from automigrator import Migrator, Target

pytestmark = pytest.mark.long("postgresql")

Make = Callable[..., Target]


async def said(target: Target, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the second start says of env.py."""
    await Migrator(target, mode="migrate").run()
    caplog.clear()
    with caplog.at_level(logging.INFO, "automigrator"):
        assert (await Migrator(target, mode="migrate").run()).outcome == "current"
    return [each for each in caplog.messages if "env.py was run to learn that" in each]


async def test_the_log_names_the_table_to_give(
    make_target: Make, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = make_target(kind="version_table")
    (line,) = await said(target, caplog)
    assert line.startswith(f"{target.name}: nothing is to do; env.py was run")
    schema = ", version_table_schema='meta'" if database_url.startswith("postgresql") else ""
    assert f"Target(version_table='my_versions'{schema}) spares" in line and "target_of()" in line


async def test_nothing_is_said_where_it_is_given(
    make_target: Make, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    schema = "meta" if database_url.startswith("postgresql") else None
    given = {"version_table": "my_versions", "version_table_schema": schema}
    assert await said(make_target(kind="version_table", **given), caplog) == []


async def test_nothing_is_said_where_env_py_proves_it(
    make_target: Make, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await said(make_target(), caplog) == []
