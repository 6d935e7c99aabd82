"""Draws pairs, has them run, and judges each: equal, both failed, refused, or different."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from faithful.pairs import Pair
from sqlalchemy import make_url
from support.postgres_server import Server

Verdict = Literal["equal", "on purpose", "both failed", "refused", "ours only", "different"]
ROLE = "am_faithful"
TESTS = Path(__file__).parents[1]


class Worker:
    """A process that runs pairs, and the databases that they get."""

    def __init__(self, root: Path, server: Server) -> None:
        self.root, self.server = root, server
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faithful.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "TZ": "Asia/Tokyo"},
        )

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def run(self, pair: Pair) -> dict[str, Any]:
        """Both sides' answers, and what each left."""
        folder = self.root / uuid.uuid4().hex[:12]
        with self._urls(pair, folder) as urls:
            task: dict[str, Any] = {"given": pair.given}
            for side, (ini, application, look) in zip(("plain", "ours"), urls, strict=True):
                pair.write(folder / side, ini)
                task[side] = (str(folder / side), application, look)
            stdin, stdout = self.process.stdin, self.process.stdout
            assert stdin is not None and stdout is not None
            print(json.dumps(task), file=stdin, flush=True)
            answer: dict[str, Any] = json.loads(stdout.readline())
        shutil.rmtree(folder)
        return answer

    @contextmanager
    def _urls(self, pair: Pair, folder: Path) -> Iterator[list[tuple[str, str, str]]]:
        drivers = {"sqlite": ("aiosqlite", "pysqlite"), "postgresql": ("asyncpg", "psycopg")}
        driver, looking = drivers[pair.database]
        names = []
        found = []
        for side in ("plain", "ours"):
            folder.joinpath(side).mkdir(parents=True)
            if pair.database == "sqlite":
                url = make_url(f"sqlite:///{folder / side / 'app.db'}")
            else:
                names.append(f"am_faithful_{uuid.uuid4().hex[:10]}")
                self.server.execute(f'create database "{names[-1]}" owner {ROLE}')
                url = make_url(self.server.url(names[-1])).set(username=ROLE)
            given = pair.database if pair.given == "sync text" else f"{pair.database}+{driver}"
            found.append(
                tuple(
                    url.set(drivername=name).render_as_string(hide_password=False)
                    for name in (pair.driver, given, f"{pair.database}+{looking}")
                )
            )
        try:
            yield found  # type: ignore[misc]  # three each
        finally:
            for name in names:
                self.server.drop(name)


def prepared(server: Server) -> None:
    """Make the role that owns the databases: no superuser, whom no policy holds."""
    server.execute(
        f"do $$ begin create role {ROLE} login nosuperuser; "
        "exception when duplicate_object then null; end $$"
    )


def judged(pair: Pair, answer: dict[str, Any]) -> tuple[Verdict, str]:
    """The verdict, and why."""
    plain, ours = answer["plain"], answer["ours"]
    why = _careless(ours)
    if why:
        return "different", why
    if "failed" not in plain and not plain["left"].get("schema"):
        plain["failed"] = "it committed nothing, and said nothing"
    if "failed" in ours and "failed" in plain:
        return _both_failed(pair, plain, ours)
    if "failed" in ours:
        clean = not ours["left"].get("schema") and ours.get("state") == "clean"
        said = f"{ours.get('kind')}: {ours['failed']}"
        return ("refused" if clean else "different"), said
    if "failed" in plain:
        return "ours only", plain["failed"]
    for part in plain["left"]:
        if plain["left"][part] != ours["left"].get(part):
            why = _difference(part, plain["left"][part], ours["left"].get(part))
            return ("on purpose" if _children_kept(pair, plain, ours) else "different"), why
    return "equal", ""


def _children_kept(pair: Pair, plain: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Plain Alembic loses the children of a SQLite table that batch mode makes anew."""
    enforced = "foreign keys" in (pair.option, pair.session)
    if pair.database != "sqlite" or pair.body != "a parent made anew" or not enforced:
        return False
    kept = {**ours["left"], "rows": {**ours["left"]["rows"], "posts": []}}
    return kept == {**plain["left"], "rows": {**plain["left"]["rows"], "posts": []}}


def _careless(ours: dict[str, Any]) -> str:
    if ours.get("hung") or ours.get("raised"):
        return str(ours["failed"])
    if ours["process"]:
        return f"the process was left with another {', '.join(ours['process'])}"
    return ""


def _both_failed(pair: Pair, plain: dict[str, Any], ours: dict[str, Any]) -> tuple[Verdict, str]:
    """On SQLite plain Alembic leaves half a revision, and we do not, on purpose."""
    if pair.database == "sqlite" or plain["left"] == ours["left"]:
        return "both failed", plain["failed"]
    if not plain["left"].get("schema") and not str(ours.get("drive")).startswith("own"):
        return "ours only", f"{plain['failed']}; ours had a connection, and failed later"
    if not ours["left"].get("schema") and ours.get("state") == "clean":
        return "both failed", f"{plain['failed']}; and ours changed nothing"
    return "different", _difference("schema", plain["left"], ours["left"])


def _difference(part: str, plain: Any, ours: Any) -> str:
    if isinstance(plain, dict) and isinstance(ours, dict):
        names = sorted(name for name in {*plain, *ours} if plain.get(name) != ours.get(name))
        return f"{part} of {names[0]}: {plain.get(names[0])} and {ours.get(names[0])}"[:600]
    return f"{part}: {plain} and {ours}"[:600]
