"""A fixed share of the tenants for each of several processes that know nothing of each other."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.contract import Bringing, Executor
from automigrator.fleet.executors.lanes import as_they_come, bring_here
from automigrator.fleet.executors.processes import at_least_one
from automigrator.fleet.report import TenantReport

INDEX_VARIABLE, COUNT_VARIABLE = "JOB_COMPLETION_INDEX", "AUTOMIGRATOR_SHARDS"
"""Kubernetes sets the first in each pod of an indexed Job."""


class Shards(Executor):
    """Brings the tenants of one shard; each of the others needs a process of its own.

    A tenant belongs to a shard by a hash of its name, the same everywhere and in every release.
    Nobody takes over a shard whose process died: what starts it again is the orchestrator's.

    `index`: this process's shard, from 0; default: JOB_COMPLETION_INDEX in the environment.
    `count`: the number of shards; default: AUTOMIGRATOR_SHARDS.
    `inner`: the executor that brings them; default: this process.
    `tasks`: tenants at a time, where there is no `inner`; default 8.

    Raises ConfigurationError.
    """

    def __init__(
        self,
        index: int | None = None,
        count: int | None = None,
        *,
        inner: Executor | None = None,
        tasks: int = 8,
    ) -> None:
        self.count = at_least_one(
            "count", _of_environment(COUNT_VARIABLE) if count is None else count
        )
        self.index = _of_environment(INDEX_VARIABLE) if index is None else index
        if not 0 <= self.index < self.count:
            raise ConfigurationError(
                f"there are {self.count} shards, from 0 to {self.count - 1}, and the index is "
                f"{self.index}; nothing was changed. Give {COUNT_VARIABLE} the number of "
                "completions"
            )
        self.inner = inner
        self.tasks = at_least_one("tasks", tasks)
        self._others: set[str] = set()

    def takes(self, tenant: str) -> bool:
        """Whether the tenant belongs to this shard; those of others are counted."""
        ours = shard_of(tenant, self.count) == self.index
        if not ours:
            self._others.add(tenant)
        return ours

    @property
    def notes(self) -> tuple[str, ...]:
        """Which shard it was, and how many tenants were left to others."""
        which = f"shard {self.index} of {self.count} (0 to {self.count - 1})"
        others = len(self._others)
        return (f"{which}: {others} tenants belong to other shards and are not in this report",)

    async def run(
        self, fleet: Bringing, tenants: AsyncIterator[str]
    ) -> AsyncGenerator[TenantReport]:
        """Bring each of `tenants` that belongs to this shard."""
        ours = self._ours(tenants)
        if self.inner is not None:
            work = self.inner.run(fleet, ours)
        else:
            work = as_they_come(partial(bring_here, fleet, ours, self.tasks))
        async with aclosing(work) as reports:
            async for report in reports:
                yield report

    async def _ours(self, tenants: AsyncIterator[str]) -> AsyncIterator[str]:
        async for tenant in tenants:
            if self.takes(tenant):
                yield tenant


def shard_of(tenant: str, count: int) -> int:
    """The shard, from 0, that a tenant belongs to."""
    digest = hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) % count


def _of_environment(variable: str) -> int:
    text = os.environ.get(variable, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigurationError(
            f"{variable} is {text!r} and should be a number; nothing was changed. Kubernetes sets "
            f"{INDEX_VARIABLE} in an indexed Job, and its manifest sets {COUNT_VARIABLE}; or pass "
            "index= and count="
        )
    return int(text)
