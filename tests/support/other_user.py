"""Be another user of the operating system for a while, within the tests' own process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NOBODY = 65534


@contextmanager
def being_nobody() -> Iterator[None]:
    """Context manager: be the user nobody in this process, which has loaded all that it needs."""
    if os.geteuid() != 0:
        pytest.skip("needs root, who may become another user")
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
