"""What strangers learn from the gate: nothing that names anything, in whatever phase and form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects as projects
from support.asgi_calls import Application, Server, served

from automigrator import Decision, Failure, Migrator, Run, Target, hookimpl
from automigrator.asgi import Gate

PUBLIC = {
    "phase",
    "outcome",
    "elapsed_s",
    "done",
    "total",
    "waiting",
    "statement",
    "retry_in_s",
    "failed",
    "details",
}

NAMES = ("tenant-canary", "r1_canary", "a canary of a docstring", "canary_table", "CanaryPlugin")

UPGRADE = """
import pathlib, time
while not pathlib.Path(GO).exists():
    time.sleep(0.01)
op.execute('INSERT INTO canary_table VALUES (1)')
"""


class CanaryPlugin:
    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        raise RuntimeError("canary of a plugin")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'canary.db'}"


async def everything(server: Server) -> list[str]:
    """All that a stranger can ask for, and what is answered: bodies and headers."""
    able = {"websocket.http.response": {}}
    answers = [await server.get("/ws", type="websocket", extensions=e) for e in ({}, able)]
    for path in (
        "/",
        "/livez",
        "/readyz",
        "/metrics",
        "/.automigrator/state",
        "/.automigrator/run",
    ):
        for accept in ("*/*", "text/html"):
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                headers = {"accept": accept, "x-key": "guessed"}
                answers.append(await server.get(path, headers, method=method))
    return [f"{each.headers} {each.body!r} {each.messages}" for each in answers]


async def stream(server: Server) -> str:
    """The first event, of a stream that ends with it."""
    server.app._progress.enter("stopped")
    return (await server.get("/.automigrator/events")).body.decode()


@asynccontextmanager
async def gated(
    make_target: Callable[..., Target], tmp_path: Path, details: Any
) -> AsyncIterator[tuple[Server, Path]]:
    go = tmp_path / "go"

    def revisions(folder: Path) -> None:
        upgrade = UPGRADE.replace("GO", repr(str(go)))
        projects.revision(folder, "r1_canary", None, upgrade=upgrade)
        (file,) = folder.glob("*.py")
        file.write_text('"""a canary of a docstring"""\n' + file.read_text())

    target = make_target(revisions, name="tenant-canary")
    migrator = Migrator(target, mode="migrate", announce=False, plugins=[CanaryPlugin()])
    gate = Gate(Application(), migrator, head_start=0.0, details=details)
    async with served(gate) as server:
        yield server, go
        go.touch()


@pytest.mark.parametrize(
    "details",
    [False, lambda scope: (b"x-key", b"right") in scope["headers"]],
    ids=["nobody", "authenticated"],
)
async def test_a_stranger_learns_no_name(
    make_target: Callable[..., Target], tmp_path: Path, details: Any
) -> None:
    async with gated(make_target, tmp_path, details) as (server, go):
        state = await server.state_is("migrating")
        while state["total"] is None:
            await asyncio.sleep(0.01)
            state = await server.state_is("migrating")
        texts = await everything(server)
        assert set(state) == PUBLIC
        go.touch()
        state = await server.state_is("failed")
        assert set(state) == PUBLIC
        assert state["failed"] == "revision"
        texts += [*await everything(server), await stream(server)]
    for text in texts:
        assert "canary" not in text.lower()


async def test_who_may_see_details_finds_each_of_these_names(
    make_target: Callable[..., Target], tmp_path: Path
) -> None:
    """So that the search above would find them."""
    async with gated(make_target, tmp_path, True) as (server, go):
        go.touch()
        await server.state_is("failed")
        told, streamed = "".join(await everything(server)), await stream(server)
    for name in NAMES:
        assert name in told
        assert name in streamed
