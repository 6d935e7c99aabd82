"""A PgBouncer in front of the tests' server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url
from support import postgres_server

BINARY = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@contextmanager
def pooled(
    url: str, folder: Path, mode: str, alias: str = "", *, others: bool = False
) -> Iterator[str]:
    """The URL of the same database through a pooler in this mode.

    With `alias` the pooler knows the database by that name, and no other one unless `others`.
    """
    assert BINARY is not None
    direct = make_url(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    users = folder / "users"
    place = f"host={direct.host} port={direct.port}"
    entries = [f"{alias} = {place} dbname={direct.database}"] if alias else []
    entries += [f"* = {place}"] if others or not alias else []
    users.write_text(f'"{direct.username}" "{direct.password or ""}"\n')
    (folder / "ini").write_text(
        f"""
[databases]
{chr(10).join(entries)}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = {"plain" if direct.password else "trust"}
auth_file = {users}
pool_mode = {mode}
default_pool_size = 5
"""
    )
    user = postgres_server.unprivileged()
    if user:
        for each in (folder, *folder.iterdir()):
            os.chown(each, user["user"], user["group"])
    with (folder.with_suffix(".log")).open("wb") as log:
        process = subprocess.Popen(
            [BINARY, folder / "ini"],
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            **user,
        )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        url = direct.set(host="127.0.0.1", port=port, database=alias or direct.database)
        yield url.render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(10)
