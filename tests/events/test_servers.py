"""What a person sees of a start under the servers that are installed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import server_starts as starts

every_server = pytest.mark.parametrize("server", starts.installed())
longer = pytest.mark.long("uvicorn", "gunicorn", "aiohttp", "Quart", "Sanic")


def ours(lines: list[str]) -> list[str]:
    """Those of automigrator, without those that say on a slow machine that it is alive."""
    said = [line for line in lines if line.startswith("automigrator: ")]
    return [line for line in said if not re.search(r"\b\d+ s: ", line)]


@every_server
@longer
def test_a_migration_is_a_line_a_step_and_the_next_start_says_nothing(
    server: str, tmp_path: Path
) -> None:
    deployment = starts.Deployment(tmp_path)
    said = ours(deployment.lines(server))
    assert [line.partition(" in ")[0] for line in said] == [
        "automigrator: app: database created",
        "automigrator: app: attempt 1, revisions pending: 2",
        "automigrator: app: revision r1 done",
        "automigrator: app: revision r2 done",
        "automigrator: app: migrated, base -> r2",
    ]
    assert ours(deployment.lines(server)) == []


@every_server
@longer
def test_a_failure_says_each_fact_once_and_shows_none_of_our_frames(
    server: str, tmp_path: Path
) -> None:
    deployment = starts.Deployment(tmp_path)
    deployment.deploy(starts.BROKEN)
    lines = deployment.lines(server)
    text = "\n".join(lines)
    for once in ("statement: SELECT * FROM absent", "state: clean (", "what to do: "):
        assert text.count(once) == starts.PRINTED.get(server, 1), text
    assert "direct cause" not in text and "automigrator/runner" not in text


@every_server
@pytest.mark.long
def test_a_wait_says_for_whom(server: str, tmp_path: Path) -> None:
    lines = starts.while_another_migrates(starts.Deployment(tmp_path), server, 6.0)
    assert [e for e in ours(lines) if "waiting for the migration lock, held by process" in e]
