"""What an executor must do: bring tenants to head somewhere, and report each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from automigrator.fleet.report import TenantReport
from automigrator.frozen import Frozen


class Work(Frozen):
    """What travels to another process or machine besides a tenant's name; never a URL.

    `source`: where a worker finds the fleet, `"package.module:attribute"`: a `Fleet`, or a callable
    without arguments that returns one. It resolves credentials in its own configuration.
    `plan`: the digest of the history's files; a worker that has others refuses.
    `version`: automigrator's; a worker that has another refuses.
    `mode`: `"migrate"` or `"check"`.
    """

    source: str
    plan: str
    version: str
    mode: str = "migrate"


class Bringing(Protocol):
    """The fleet, as an executor sees it."""

    async def bring(self, tenant: str) -> TenantReport:
        """Bring one tenant to head in this process; a failure is a report, never an error."""

    async def work(self) -> Work:
        """Say what another process needs. Raises ConfigurationError where it cannot be found.

        In a worker it is asked as well, and the two are compared.
        """

    async def aclose(self) -> None:
        """Close the connections that tenants share; a worker calls it when it brings no more."""


class Executor(ABC):
    """Brings tenants to head. At least once: the lock of each tenant sees that it happens once.

    An executor holds no more tenants at a time than it can work on: `tenants` is asked for the next
    one when there is room, and the rollout lets it wait, or end, there. It may run again.
    """

    @abstractmethod
    def run(self, fleet: Bringing, tenants: AsyncIterator[str]) -> AsyncGenerator[TenantReport]:
        """Bring each of `tenants` that it `takes`, and yield its report, once, as soon as it ends.

        A tenant whose worker died is given to another one. Cancelled or closed, it stops what it
        began: use `contextlib.aclosing`. Raises ConfigurationError before the first tenant,
        ExecutorError where no worker is left.
        """

    def takes(self, tenant: str) -> bool:
        """Whether this run brings the tenant; others are somebody else's, and get no report.

        Whoever feeds tenants asks first, and waits for no report of those that it does not take.
        """
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the last run besides its reports, a sentence each."""
        return ()

    async def aclose(self) -> None:
        """End what it keeps from one run to the next; those of the core keep nothing."""
