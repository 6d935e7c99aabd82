"""The processes of one start of the application: what one of them has tried, none repeats."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "AUTOMIGRATOR_START"
"""The environment variable that names the start; each start has a name of its own."""


def this_start() -> str:
    """The name of the start that this process belongs to; empty where nobody gave it one."""
    return os.environ.get(VARIABLE, "")


@contextmanager
def one_start() -> Iterator[None]:
    """Context manager: this process and those that it starts within are one start."""
    if this_start():
        yield
        return
    os.environ[VARIABLE] = uuid.uuid4().hex
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
