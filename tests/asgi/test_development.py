"""The button of the development page: who may press it, and what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects as projects
from support.asgi_calls import Application, Server

from automigrator import Decision, Failure, Migrator, Run, Target, hookimpl
from automigrator.asgi import Gate, development

MakeTarget = Callable[..., Target]
RUN = "/.automigrator/run"
HOST = "127.0.0.1:8000"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'app.db'}"


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
async def server(
    make_target: MakeTarget,
    app: Application,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> AsyncIterator[Server]:
    """One whose gate waits for the button; `scope["token"]` is what the terminal showed."""
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    migrator = Migrator(make_target(), announce=False)
    server: Any = Server(Gate(app, migrator, development=True))
    await server.start()
    await server.state_is("pending")
    server.token = capfd.readouterr().err.split()[-1]
    yield server
    await server.stop()


def pressed(server: Any, **changed: str) -> dict[str, str]:
    """The headers of a browser of this machine whose user has pressed the button."""
    usual = {
        "host": HOST,
        "origin": f"http://{HOST}",
        "sec-fetch-site": "same-origin",
        "x-automigrator-token": server.token,
        "content-length": "0",
    }
    return {**usual, **{key.replace("_", "-"): value for key, value in changed.items()}}


def heads(database_url: str) -> set[str]:
    return projects.heads(database_url.replace("+aiosqlite", ""))


async def test_pending_revisions_wait_for_the_button(
    server: Server, app: Application, database_url: str
) -> None:
    assert heads(database_url) == set()
    answer = await server.get(RUN, pressed(server), method="POST")
    assert (answer.status, answer.json) == (202, {"running": True})
    await server.ready()
    assert heads(database_url) == {"r3"}
    assert app.calls == ["started"]


async def test_one_run_at_a_time(server: Server) -> None:
    first = await server.get(RUN, pressed(server), method="POST")
    second = await server.get(RUN, pressed(server), method="POST")
    assert (first.status, second.status) == (202, 409)


FOREIGN = [
    ({"x_automigrator_token": "guessed"}, 403),
    ({"x_automigrator_token": ""}, 403),
    ({"x_automigrator_token": "\xff"}, 403),
    ({"origin": "http://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": ""}, 403),
    ({"origin": "http://localhost:8000"}, 403),
    ({"sec_fetch_site": "cross-site"}, 403),
    ({"sec_fetch_site": "same-site"}, 403),
    ({"sec_fetch_site": "none"}, 403),
    ({"origin": f"https://{HOST}"}, 403),
    ({"host": "evil.example"}, 421),
    ({"host": "127.0.0.1:8001"}, 421),
    ({"host": ""}, 421),
    ({"host": "127.0.0.1.:8000"}, 421),
    ({"host": "127.0.0.1:8000@evil.example"}, 421),
    ({"host": "l\xf6calhost:8000"}, 421),
    ({"host": "[::ffff:127.0.0.1]:8000"}, 421),
    ({"host": "0.0.0.0:8000"}, 421),
    ({"x_forwarded_for": "10.0.0.7"}, 403),
    ({"forwarded": "for=10.0.0.7"}, 403),
    ({"x_real_ip": "10.0.0.7"}, 403),
    ({"via": "1.1 proxy"}, 403),
    ({"X_Forwarded_Host": "127.0.0.1"}, 403),
    ({"x_original_forwarded_for": "10.0.0.7"}, 403),
    ({"cf_connecting_ip": "10.0.0.7"}, 403),
    ({"true_client_ip": "10.0.0.7"}, 403),
    ({"content_length": "9"}, 400),
]


@pytest.mark.parametrize(("changed", "status"), FOREIGN, ids=str)
async def test_whoever_is_not_at_this_machine_runs_nothing(
    server: Server, database_url: str, changed: dict[str, str], status: int
) -> None:
    answer = await server.get(RUN, pressed(server, **changed), method="POST")
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await server.get("/.automigrator/state")).json["phase"] == "pending"
    assert heads(database_url) == set()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_only_post_runs_anything(server: Server, database_url: str, method: str) -> None:
    answer = await server.get(RUN, pressed(server), method=method)
    assert answer.status == 405
    assert heads(database_url) == set()


async def test_the_token_is_never_in_a_url(server: Any) -> None:
    query = f"token={server.token}".encode()
    answer = await server.get(RUN, pressed(server), method="POST", query_string=query)
    assert answer.status == 400


async def test_no_page_shows_the_token(server: Any) -> None:
    for path in ("/", "/readyz", "/.automigrator/state"):
        page = await server.get(path, {"accept": "text/html", "host": HOST})
        assert server.token.encode() not in page.body


@pytest.mark.parametrize(
    "scope",
    [
        {"server": ("0.0.0.0", 8000)},
        {"server": ("192.168.1.7", 8000)},
        {"server": ("/run/app.sock", None)},
        {"server": None},
        {"server": ("::ffff:127.0.0.1", 8000), "client": ("::ffff:127.0.0.1", 4711)},
        {"client": ("192.168.1.9", 4711)},
        {"client": None},
    ],
    ids=str,
)
async def test_off_loopback_nothing_is_answered(server: Server, scope: Any) -> None:
    """Neither the page, whose revisions are for developers, nor the button."""
    for path, method in ((RUN, "POST"), ("/", "GET"), ("/.automigrator/events", "GET")):
        answer = await server.get(path, pressed(server), method=method, **scope)
        assert answer.status == 403
        assert b"r1" not in answer.body


async def test_a_rebound_name_is_refused_before_anything_is_routed(server: Server) -> None:
    for path in ("/", "/livez", "/.automigrator/state", RUN):
        assert (await server.get(path, {"host": "rebound.example:8000"})).status == 421


@pytest.mark.parametrize(
    "more",
    [
        [(b"host", b"evil.example")],
        [(b"HOST", HOST.encode())],
        [(b"origin", b"http://evil.example")],
        [(b"x_forwarded_for", b"10.0.0.7")],
        [(b"X-FORWARDED-FOR", b"10.0.0.7")],
        [(b"sec-fetch-site", b"same-origin")],
        [(b"x-automigrator-token", b"guessed")],
    ],
    ids=str,
)
async def test_a_header_that_comes_twice_or_in_disguise_is_no_other_one(
    server: Any, database_url: str, more: list[tuple[bytes, bytes]]
) -> None:
    once = [(k.encode(), v.encode()) for k, v in pressed(server).items()]
    for headers in ([*once, *more], [*more, *once]):
        answer = await server.get(RUN, method="POST", raw_headers=headers)
        assert answer.status in (403, 421)
    assert heads(database_url) == set()


async def test_a_page_over_tls_has_an_origin_of_its_own(server: Any) -> None:
    headers = pressed(server, origin=f"https://{HOST}")
    answer = await server.get(RUN, headers, method="POST", scheme="https")
    assert answer.status == 202


async def test_a_rebound_name_opens_no_websocket(server: Server) -> None:
    answer = await server.get(RUN, {"host": "rebound.example:8000"}, type="websocket")
    assert answer.messages == [
        {"type": "websocket.close", "code": 1008, "reason": "in development the host is localhost"}
    ]


async def test_a_websocket_presses_no_button(server: Any, database_url: str) -> None:
    answer = await server.get(RUN, pressed(server), type="websocket")
    assert answer.messages[0]["code"] == 1013
    assert heads(database_url) == set()


async def test_the_token_is_compared_in_constant_time(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    digest = development.hmac.compare_digest
    monkeypatch.setattr(
        development.hmac, "compare_digest", lambda *both: compared.append(both) or digest(*both)
    )
    await server.get(RUN, pressed(server, x_automigrator_token="guessed"), method="POST")
    assert compared == [(b"guessed", server.token.encode())]


async def test_the_token_is_in_no_log_and_another_one_in_each_gate(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await server.get(RUN, pressed(server), method="POST")
    await server.ready()
    assert server.token not in caplog.text
    assert len({development.Button().token for _ in range(100)}) == 100


async def test_ipv6_and_localhost_are_this_machine_too(server: Server) -> None:
    for host in ("localhost:8000", "[::1]:8000"):
        assert (await server.get("/livez", {"host": host})).status == 200
    loopback = {"server": ("::1", 8000), "client": ("::1", 4711)}
    assert (await server.get("/livez", {"host": "[::1]:8000"}, **loopback)).status == 200


async def test_afterwards_the_application_is_reached_by_any_name(
    server: Server, app: Application
) -> None:
    await server.get(RUN, pressed(server), method="POST")
    await server.ready()
    answer = await server.get("/users", {"host": "app.test", "x-forwarded-for": "10.0.0.7"})
    assert answer.body == b"the application"


async def test_a_page_that_came_before_anything_was_known_shows_the_button_later(
    make_target: MakeTarget, app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    migrator = Migrator(make_target(), announce=False)
    server = Server(Gate(app, migrator, development=True, head_start=0))
    await server.start()
    page = await server.get("/", {"accept": "text/html", "host": HOST})
    assert b'"phase": "pending"' not in page.body and f'"run": "{RUN}"'.encode() in page.body
    await server.state_is("pending")
    await server.stop()


async def test_nothing_pending_needs_no_button(
    make_target: MakeTarget, app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    migrator = Migrator(make_target(), announce=False)
    await migrator.run(mode="migrate")
    server = Server(Gate(app, migrator, development=True))
    await server.start()
    await server.ready()
    await server.stop()
    assert app.calls == ["started", "ended"]


async def test_what_was_asked_for_needs_no_button(
    make_target: MakeTarget, app: Application, database_url: str
) -> None:
    migrator = Migrator(make_target(), mode="migrate", announce=False)
    server = Server(Gate(app, migrator, development=True))
    await server.start()
    await server.ready()
    await server.stop()
    assert heads(database_url) == {"r3"}


@pytest.mark.parametrize("pending", [True, False])
async def test_what_a_killed_process_has_left_is_not_for_a_button(
    make_target: MakeTarget,
    app: Application,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pending: bool,
) -> None:
    """To undo it may put an older copy back: a run that was asked for in earnest does."""
    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    migrator = Migrator(make_target(), announce=False)
    if not pending:
        await migrator.run(mode="migrate")
    (tmp_path / "app.db").touch()
    journal = tmp_path / "app.db.automigrator-journal.json"
    journal.write_text("{")
    server = Server(Gate(app, migrator, development=True))
    await server.start()
    state = await server.state_is("failed")
    await server.stop()
    assert state["reason"] == "migrations are needed; nothing was changed"
    assert journal.read_text() == "{"
    assert app.calls == []


class Discarding:
    """A strategy that would rebuild the database."""

    effect = "discarding"
    asked = 0

    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision | None:
        Discarding.asked += 1
        return None


async def test_a_button_asks_no_strategy(
    make_target: MakeTarget,
    app: Application,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Strategies purge, and put older copies back; in-house hooks are asked as ever."""

    class House:
        asked = 0

        @hookimpl
        def on_failure(self, run: Run, failure: Failure) -> Decision | None:
            House.asked += 1
            return None

    def broken(folder: Path) -> None:
        projects.revision(folder, "r1", None, upgrade="op.execute('INSERT INTO no VALUES (1)')")

    monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
    target = make_target(broken)
    migrator = Migrator(target, announce=False, recovery=[Discarding()], plugins=[House()])
    server: Any = Server(Gate(app, migrator, development=True))
    await server.start()
    await server.state_is("pending")
    server.token = capfd.readouterr().err.split()[-1]
    await server.get(RUN, pressed(server), method="POST")
    await server.state_is("failed")
    await server.stop()
    assert (House.asked, Discarding.asked) == (1, 0)
    assert migrator.report is not None
    assert migrator.report.outcome == "failed"
