"""Gates within applications, within each other, and beside each other in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount
from support import alembic_projects as projects
from support.asgi_calls import Application, served

from automigrator import Migrator, Target
from automigrator.asgi import Gate

GateOf = Callable[..., Gate]


def heads(folder: Path, name: str = "app.db") -> set[str]:
    return projects.heads(f"sqlite:///{folder / name}")


async def test_a_gate_that_is_mounted_begins_with_its_first_request(
    gate_of: GateOf, tmp_path: Path
) -> None:
    """No framework starts what is mounted; its health checks are below the mount."""
    app = Application()
    outer = Starlette(routes=[Mount("/shop", gate_of(app))])
    async with served(outer) as server:
        assert heads(tmp_path) == set()
        assert (await server.get("/shop/users")).status == 503
        assert (await server.get("/shop/livez")).status == 200
        await server.ready("/shop/readyz")
        assert (await server.get("/shop/users")).body == b"the application"
        assert (await server.get("/livez")).status == 404
    assert heads(tmp_path) == {"r1"}


async def test_a_gate_within_a_gate_migrates_second(
    gate_of: GateOf, make_target: Callable[..., Target], tmp_path: Path
) -> None:
    app = Application()
    second = make_target(database=f"sqlite+aiosqlite:///{tmp_path / 'two.db'}", folder="two")
    inner = Gate(app, Migrator(second, mode="migrate", announce=False), livez="/in", readyz="/rd")
    async with served(gate_of(inner)) as server:
        assert (await server.get("/users")).status == 503
        await server.ready()
        await server.ready("/rd")
        assert (await server.get("/users")).body == b"the application"
        assert (heads(tmp_path), heads(tmp_path, "two.db")) == ({"r1"}, {"r3"})
    assert app.calls == ["started", "/users", "ended"]


async def test_two_gates_of_one_migrator_serve_both(gate_of: GateOf) -> None:
    """An application on two ports."""
    apps = [Application(), Application()]
    first = gate_of(apps[0])
    second = Gate(apps[1], first._migrator, head_start=0.0)
    async with served(first) as one, served(second) as two:
        await one.ready()
        await two.ready()
    assert [each.calls for each in apps] == [["started", "ended"]] * 2
