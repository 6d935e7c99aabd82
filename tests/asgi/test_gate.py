"""The gate, called as a server calls it, over real SQLite files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import alembic_projects as projects
from support.asgi_calls import Application, Server, served

from automigrator import ConfigurationError, Decision, Failure, Migrator, Run, Target, hookimpl
from automigrator.asgi import Gate

MakeTarget = Callable[..., Target]

BROKEN = "op.execute('INSERT INTO absent VALUES (1)')"


def broken(folder: Path) -> None:
    projects.revision(folder, "broken_one", None, upgrade=BROKEN)


class Continuing:
    @hookimpl
    def on_failure(self, run: Run, failure: Failure) -> Decision:
        return Decision.CONTINUE


GateOf = Callable[..., Gate]


class TestWhileItMigrates:
    async def test_the_server_binds_and_only_the_liveness_check_succeeds(
        self, gate_of: GateOf
    ) -> None:
        app = Application()
        async with served(gate_of(app)) as server:
            assert server.said == [{"type": "lifespan.startup.complete"}]
            alive, ready = await server.get("/livez"), await server.get("/readyz")
            page = await server.get("/anything", {"accept": "application/json"})
            assert (alive.status, alive.json) == (200, {"alive": True})
            assert (ready.status, ready.json["ready"]) == (503, False)
            assert ready.json["outcome"] is None
            assert page.status == 503
            assert app.calls == []
            await server.ready()
            assert (await server.get("/readyz")).json["outcome"] == "migrated"

    async def test_a_program_gets_a_problem_and_a_browser_a_page(self, gate_of: GateOf) -> None:
        async with served(gate_of(Application())) as server:
            program = await server.get("/api", {"accept": "*/*"})
            browser = await server.get("/", {"accept": "text/html,*/*;q=0.8"})
        assert program.headers["content-type"] == "application/problem+json"
        assert program.headers["retry-after"] == browser.headers["retry-after"] == "5"
        problem = program.json
        assert (problem["status"], problem["title"]) == (503, "Service Unavailable")
        assert browser.headers["content-type"] == "text/html; charset=utf-8"
        assert browser.body.startswith(b"<!doctype html>")
        nonce = browser.headers["content-security-policy"].partition("nonce-")[2][:20]
        assert nonce.partition("'")[0].encode() in browser.body

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            ("", "application/problem+json"),
            ("application/json", "application/problem+json"),
            ("text/html;q=0.1, application/json", "application/problem+json"),
            ("text/html;q=junk", "application/problem+json"),
            ("application/xhtml+xml", "text/html; charset=utf-8"),
            ("application/json;q=0.5, text/html", "text/html; charset=utf-8"),
        ],
    )
    async def test_the_client_s_preference_counts(
        self, gate_of: GateOf, accept: str, kind: str
    ) -> None:
        async with served(gate_of(Application())) as server:
            answer = await server.get("/", {"accept": accept})
        assert answer.headers["content-type"] == kind

    async def test_only_the_head_is_sent_where_only_that_was_asked_for(
        self, gate_of: GateOf
    ) -> None:
        async with served(gate_of(Application())) as server:
            answer = await server.get("/", method="HEAD")
        assert (answer.status, answer.body) == (503, b"")
        assert int(answer.headers["content-length"]) > 0

    async def test_every_answer_forbids_what_a_page_of_another_could_do(
        self, gate_of: GateOf
    ) -> None:
        async with served(gate_of(Application())) as server:
            page = await server.get("/<script>", {"accept": "text/html", "host": "<evil>"})
            answers = [await server.get(path) for path in ("/livez", "/readyz", "/x")]
        for answer in answers:
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        for answer in (page, *answers):
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert b"<script>" not in answer.body.replace(b"<script nonce", b"")
            assert b"evil" not in answer.body
        policy = page.headers["content-security-policy"]
        for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"):
            assert rule in policy
        assert "unsafe" not in policy

    async def test_a_health_path_matches_exactly(self, gate_of: GateOf) -> None:
        async with served(gate_of(Application())) as server:
            for path in ("/livez/", "/LIVEZ", "//livez", "/livez/x", "/x/livez"):
                assert (await server.get(path)).status == 503

    async def test_the_paths_are_options(self, gate_of: GateOf) -> None:
        gate = gate_of(Application(), livez="/up", readyz=None, prefix="/_m")
        async with served(gate) as server:
            assert (await server.get("/up")).status == 200
            assert (await server.get("/livez")).status == 503
            assert (await server.get("/_m/state")).json["phase"] == "migrating"
            await server.state_is("ready", "/_m")
            assert (await server.get("/readyz")).body == b"the application"

    async def test_a_path_below_a_root_is_found(self, gate_of: GateOf) -> None:
        app = Application()
        async with served(gate_of(app), root_path="/api") as server:
            assert (await server.get("/api/livez")).status == 200
            await server.ready("/api/readyz")
            assert (await server.get("/api/livez")).json == {"alive": True}
            assert (await server.get("/api/users")).body == b"the application"

    async def test_a_websocket_is_told_to_come_again(self, gate_of: GateOf) -> None:
        async with served(gate_of(Application())) as server:
            plain = await server.get("/ws", type="websocket")
            able = {"websocket.http.response": {}}
            answered = await server.get("/ws", type="websocket", extensions=able)
        assert [(each["type"], each["code"]) for each in plain.messages] == [
            ("websocket.close", 1013)
        ]
        assert [each["type"] for each in answered.messages] == [
            "websocket.http.response.start",
            "websocket.http.response.body",
        ]
        assert (answered.status, answered.headers["retry-after"]) == (503, "5")

    async def test_no_other_kind_of_connection_comes_through(self, gate_of: GateOf) -> None:
        app = Application()
        async with served(gate_of(app)) as server:
            with pytest.raises(ConfigurationError, match="telnet"):
                await server.get("/", type="telnet")
        assert app.calls == []

    async def test_a_server_without_a_lifespan_begins_with_the_first_request(
        self, gate_of: GateOf
    ) -> None:
        app = Application()
        server = Server(gate_of(app))
        assert (await server.get("/")).status == 503
        await server.ready()
        assert (await server.get("/users")).body == b"the application"
        assert app.calls == ["started", "/users"]

    def test_a_client_with_a_loop_for_each_request_is_served_where_there_is_nothing_to_do(
        self, gate_of: GateOf
    ) -> None:
        """A test client that is no context manager."""
        app = Application()
        server = Server(gate_of(app, mode="skip", head_start=30.0))
        for _ in range(2):
            assert asyncio.run(server.get("/users")).body == b"the application"
        assert app.calls == ["started", "/users", "/users"]

    async def test_the_server_s_end_stops_the_migration(self, gate_of: GateOf, url: str) -> None:
        app = Application()
        async with served(gate_of(app)) as server:
            await server.state_is("migrating")
        assert server.said[-1] == {"type": "lifespan.shutdown.complete"}
        assert app.calls == []
        assert projects.heads(url.replace("+aiosqlite", "")) == set()


class TestAfterwards:
    async def test_the_application_starts_and_serves_after_the_migration(
        self, gate_of: GateOf, url: str
    ) -> None:
        app = Application()
        async with served(gate_of(app)) as server:
            await server.ready()
            assert projects.heads(url.replace("+aiosqlite", "")) == {"r1"}
            assert (await server.get("/users")).body == b"the application"
            assert (await server.get("/livez")).json == {"alive": True}
            assert (await server.get("/.automigrator/state")).json["phase"] == "ready"
        assert app.calls == ["started", "/users", "ended"]

    async def test_requests_have_what_the_lifespan_left_for_them(self, gate_of: GateOf) -> None:
        app = Application(state={"pool": 7})
        server = Server(gate_of(app))
        await server.start()
        old = dict(server.state)  # a connection that was open before
        await server.ready()
        await server.get("/users", state=old)
        await server.stop()
        assert app.seen == [{"pool": 7}]

    async def test_an_application_without_a_lifespan_serves_too(self, gate_of: GateOf) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        async with served(gate_of(app)) as server:
            await server.ready()
            assert (await server.get("/")).status == 204

    async def test_it_can_be_started_again(self, gate_of: GateOf) -> None:
        app = Application()
        gate = gate_of(app)
        for _ in range(2):
            async with served(gate) as server:
                await server.ready()
                await server.get("/users")
        assert app.calls == ["started", "/users", "ended"] * 2

    async def test_a_start_with_nothing_to_do_is_over_before_the_server_binds(
        self, make_target: MakeTarget
    ) -> None:
        migrator = Migrator(make_target(), mode="migrate", announce=False)
        await migrator.run()
        app = Application()
        async with served(Gate(app, migrator, head_start=30.0)) as server:
            assert app.calls == ["started"]
            assert (await server.get("/users")).status == 200

    async def test_a_start_with_something_to_do_does_not_use_its_head_start(
        self, gate_of: GateOf
    ) -> None:
        async with served(gate_of(Application(), head_start=30.0)) as server:
            assert (await server.get("/readyz")).status == 503

    async def test_a_run_that_was_not_asked_for_opens_the_gate(
        self, gate_of: GateOf, monkeypatch: pytest.MonkeyPatch, url: str
    ) -> None:
        monkeypatch.delenv("RUN_MIGRATIONS", raising=False)
        async with served(gate_of(Application(), mode=None)) as server:
            await server.ready()
        assert projects.tables(url.replace("+aiosqlite", "")) == set()


class TestFailure:
    async def test_it_stays_with_the_reason_for_those_who_may_see_it(self, gate_of: GateOf) -> None:
        app = Application()
        async with served(gate_of(app, broken)) as server:
            state = await server.state_is("failed")
            assert "absent" in state["reason"]
            problem = (await server.get("/")).json
            assert (await server.get("/livez")).status == 200
        assert problem["status"] == 503
        assert problem["detail"] == "The application could not be started."
        assert app.calls == []

    async def test_nobody_sees_names_or_errors_unless_that_is_asked_for(
        self, gate_of: GateOf
    ) -> None:
        async with served(gate_of(Application(), broken, details=False)) as server:
            await server.state_is("failed")
            for path in ("/", "/readyz", "/.automigrator/state"):
                for accept in ("application/json", "text/html"):
                    answer = await server.get(path, {"accept": accept})
                    assert b"absent" not in answer.body
                    assert b"broken_one" not in answer.body

    @pytest.mark.parametrize("kind", ["sync", "async", "raising", "careless"])
    async def test_a_callable_says_who_sees_them(self, gate_of: GateOf, kind: str) -> None:
        def sync(scope: Any) -> bool:
            return (b"x-key", b"1") in scope["headers"]

        async def awaited(scope: Any) -> bool:
            return sync(scope)

        def raising(scope: Any) -> bool:
            raise RuntimeError

        def careless(scope: Any) -> Any:
            return "False"

        details = {"sync": sync, "async": awaited, "raising": raising, "careless": careless}[kind]
        async with served(gate_of(Application(), broken, details=details)) as server:
            await server.state_is("failed")
            stranger = await server.get("/.automigrator/state")
            known = await server.get("/.automigrator/state", {"x-key": "1"})
        assert "reason" not in stranger.json
        assert ("reason" in known.json) is (kind in ("sync", "async"))

    async def test_serve_starts_the_application_on_the_old_schema(self, gate_of: GateOf) -> None:
        app = Application()
        async with served(gate_of(app, broken, on_failure="serve")) as server:
            await server.ready()
            assert (await server.get("/users")).status == 200

    @pytest.mark.parametrize(
        ("options", "outcome"),
        [
            ({"more": {"plugins": [Continuing()]}}, "degraded"),
            ({"on_failure": "serve"}, "failed"),
        ],
    )
    async def test_everybody_is_told_that_it_serves_on_the_old_schema(
        self, gate_of: GateOf, options: Any, outcome: str
    ) -> None:
        gate = gate_of(Application(), broken, details=False, **options)
        async with served(gate) as server:
            await server.ready()
            ready = (await server.get("/readyz")).json
            state = (await server.get("/.automigrator/state")).json
        behind = "The application is ready, but a database is not at the revision that it expects."
        assert ready == {"ready": True, "outcome": outcome, "reason": behind}
        assert (state["phase"], state["outcome"], state["details"]) == ("ready", outcome, False)

    async def test_serve_stays_where_a_database_is_half_migrated(self, gate_of: GateOf) -> None:
        def half(folder: Path) -> None:
            upgrade = (
                "with op.get_context().autocommit_block():\n"
                "    op.execute('CREATE TABLE half (id INTEGER)')\n" + BROKEN
            )
            projects.revision(folder, "r1", None, upgrade=upgrade)

        app = Application()
        async with served(gate_of(app, half, on_failure="serve")) as server:
            await server.state_is("failed")
        assert app.calls == []

    async def test_serve_stays_where_a_killed_process_has_left_half_a_migration(
        self, gate_of: GateOf, tmp_path: Path
    ) -> None:
        app = Application()
        gate = gate_of(app, broken, on_failure="serve")
        journal = tmp_path / "app.db.automigrator-journal.json"
        journal.write_text("{")
        (tmp_path / "app.db").touch()
        async with served(gate) as server:
            await server.state_is("failed")
        assert app.calls == []

    async def test_what_may_be_over_soon_is_tried_again(self, gate_of: GateOf, url: str) -> None:
        app = Application()
        gate = gate_of(app, mode="check", retry_every=0.05)
        async with served(gate) as server:
            await server.state_is("failed")
            other = Migrator(*gate._migrator.targets, mode="migrate", announce=False)
            await other.run()
            await server.ready()
        assert app.calls == ["started", "ended"]

    async def test_a_revision_that_fails_is_not_tried_again(self, gate_of: GateOf) -> None:
        async with served(gate_of(Application(), broken, retry_every=0.01)) as server:
            await server.state_is("failed")
            await asyncio.sleep(0.1)
            assert (await server.get("/.automigrator/state")).json["phase"] == "failed"

    async def test_a_wrong_environment_fails_the_start(
        self, gate_of: GateOf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RUN_MIGRATIONS", "perhaps")
        server = Server(gate_of(Application(), mode=None))
        await server.start()
        (said,) = server.said
        assert said["type"] == "lifespan.startup.failed"
        assert "perhaps" in said["message"]


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"on_failure": "hope"}, "stay, exit or serve"),
            ({"livez": "livez"}, "no path"),
            ({"prefix": "/"}, "no path"),
            ({"livez": "/h", "readyz": "/h"}, "two answers for the path /h"),
            ({"retry_every": 0}, "seconds"),
            ({"head_start": -1}, "seconds"),
            ({"retry_after": 0.5}, "whole seconds"),
            ({"details": "no"}, "details='no' is not True, False or a callable"),
            ({"development": "0"}, "development='0' is not True or False"),
        ],
    )
    def test_a_wrong_option_is_refused(
        self, gate_of: GateOf, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=words):
            gate_of(Application(), **options)


async def test_metrics_are_answered_at_all_times_where_they_are_asked_for(gate_of: GateOf) -> None:
    async with served(gate_of(Application(), metrics="/metrics")) as server:
        before = await server.get("/metrics")
        await server.ready()
        after = await server.get("/metrics")
    assert before.headers["content-type"].startswith("text/plain")
    assert b"\nautomigrator_ready 0.0\n" in before.body
    assert b"\nautomigrator_ready 1.0\n" in after.body
    assert b'automigrator_runs_total{outcome="migrated"}' in after.body
