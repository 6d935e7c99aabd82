"""Whether what is migrated in this context may run beside others of the same history."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

may_be_beside: ContextVar[bool] = ContextVar("automigrator_beside_others", default=False)


@contextmanager
def beside_others() -> Iterator[None]:
    """Context manager: what this task migrates may be beside others of the same history.

    For a cohort, whose targets have one history. Where Alembic cannot be kept apart, or the
    history's env.py does what only one at a time may do, they are one after another all the same.
    """
    token = may_be_beside.set(True)
    try:
        yield
    finally:
        may_be_beside.reset(token)
