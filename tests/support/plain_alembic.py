"""The application's own command line: `python -m alembic`, in a process forked for it alone."""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

_PRELOADED = ["alembic.command", "alembic.config", "sqlalchemy.ext.asyncio"]
_PRELOADED += ["aiosqlite", "asyncpg", "psycopg", "logging.config"]


def upgraded(
    config: Path,
    *options: str,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """How `alembic -c config … upgrade head` ended in the folder of the ini, and what it said."""
    command = ["-c", str(config), *options, "upgrade", "head"]
    task = {"command": command, "cwd": str(config.parent), "env": dict(os.environ)}
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{json.dumps(task)}\n")
    server.stdin.flush()
    ended = subprocess.CompletedProcess(command, *json.loads(server.stdout.readline()))
    if check:
        assert ended.returncode == 0, ended.stderr
    return ended


@functools.cache
def _server() -> subprocess.Popen[str]:
    """It has imported what each command line would: half a second and more."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, __file__], start_new_session=True, **pipes)
    atexit.register(process.communicate)
    return process


def _serve() -> None:
    """Fork for every task; the child goes on where the loop ends, and ends as Python does."""
    del sys.path[0]  # the folder of this file
    for name in _PRELOADED:
        import_module(name)
    gc.freeze()  # or every child's collections would copy the pages of all these modules
    for line in sys.stdin:
        task = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                for place, file in enumerate((open(os.devnull, "rb"), out, err)):  # noqa: SIM115
                    os.dup2(file.fileno(), place)
                break
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read().decode("utf-8", "replace"))
        print(json.dumps([code, *said]), flush=True)
    else:
        return
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["env"])
    sys.path.insert(0, task["cwd"])
    sys.argv[1:] = task["command"]
    runpy.run_module("alembic", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
