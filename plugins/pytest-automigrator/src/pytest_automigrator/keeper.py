"""Stops the PostgreSQL server when nobody uses it any more; a script of its own.

    keeper.py <keeper's lock> <users' lock> <user's id or -> <group's id> <command to stop it>

Every user holds a shared lock, which the kernel takes from who is killed.
"""

import fcntl
import os
import subprocess
import sys
from typing import Any


def main(own: str, users: str, user: str, group: str, *stop: str) -> None:
    """Wait for the last user's end."""
    mine = os.open(own, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another one waits already
    theirs = os.open(users, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(theirs, fcntl.LOCK_EX)
    whom: dict[str, Any] = (
        {} if user == "-" else {"user": int(user), "group": int(group), "extra_groups": []}
    )
    quiet = subprocess.DEVNULL
    subprocess.run(stop, stdin=quiet, stdout=quiet, stderr=quiet, check=False, **whom)


if __name__ == "__main__":
    main(*sys.argv[1:])
