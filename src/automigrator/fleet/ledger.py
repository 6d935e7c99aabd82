"""What a fleet remembers of its tenants: which are done, which failed, which are quarantined.

It is a help, never a proof: a tenant counts as done when a look at its database says so.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Literal, Protocol, get_args

from automigrator.errors import ConfigurationError
from automigrator.failure import KINDS
from automigrator.fleet.report import TenantReport
from automigrator.fleet.tenants import why_no_name
from automigrator.frozen import Frozen
from automigrator.support import json_object
from automigrator.support.concurrency import shielded
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

State = Literal["done", "failed", "quarantined"]

ANY = ""
"""The plan of a quarantine that an operator has ordered: it holds whatever the files are."""

FLUSH_S, FLUSH_ROWS = 0.5, 200
"""Seconds, and number of rows, for which what a look would show again is kept back."""

KEPT_S = 30 * 24 * 60 * 60.0
"""Seconds for which entries of files that this deployment does not have are kept: others may."""

_LONGEST = 4000
"""Characters of what is kept of a failure."""

logger = logger_of("automigrator.fleet")

Before = Callable[[], Awaitable[None]]

Row = tuple[str, str, str, float, str]
"""Tenant, plan, state, time, and what was told, as they are stored."""


class Entry(Frozen):
    """What was written of one tenant, under one plan.

    `at`: seconds since the epoch. `failure`: as in a `TenantReport`.
    """

    tenant: str
    plan: str
    state: State
    at: float = 0.0
    failure: Mapping[str, Any] | None = None

    @property
    def why(self) -> str:
        """Why it is quarantined, in a line."""
        if self.failure is None:
            return "ordered by an operator" if self.plan == ANY else "it failed"
        return TenantReport(self.tenant, "failed", failure=self.failure).headline


class Store(Protocol):
    """Where rows are kept; every method is whole or not at all."""

    durable: bool
    where: str
    """The place, for people."""

    async def open(self, first: Before) -> None:
        """Make what is missing, after `first` has returned.

        Raises RefusedError where the place is not ours, and what `first` raises.
        """

    async def rows(self) -> Sequence[Row]:
        """Every row of the fleet, whatever somebody may have written there."""

    async def write(self, rows: Sequence[Row]) -> None:
        """Put each row in the place of the one of its tenant and plan."""

    async def forget(self, tenant: str, state: str) -> bool:
        """Delete a tenant's rows of a state; whether there was one."""

    async def paused(self) -> bool:
        """Whether somebody has paused the fleet."""

    async def pause(self, paused: bool) -> None:
        """Pause the fleet, or let it go on."""

    async def prune(self, plans: Collection[str], before: float) -> None:
        """Delete what was written of other plans before a time."""

    def sharing(self) -> AbstractAsyncContextManager[None]:
        """Context manager: keep one connection for what follows."""


class Memory:
    """A store that ends with the process."""

    durable, where = False, "this process's memory"

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._paused = False

    async def open(self, first: Before) -> None: ...

    async def rows(self) -> Sequence[Row]:
        return list(self._rows.values())

    async def write(self, rows: Sequence[Row]) -> None:
        self._rows |= {row[:2]: row for row in rows}

    async def forget(self, tenant: str, state: str) -> bool:
        found = [key for key, row in self._rows.items() if key[0] == tenant and row[2] == state]
        for key in found:
            del self._rows[key]
        return bool(found)

    async def paused(self) -> bool:
        return self._paused

    async def pause(self, paused: bool) -> None:
        self._paused = paused

    async def prune(self, plans: Collection[str], before: float) -> None:
        rows = self._rows.items()
        self._rows = {key: row for key, row in rows if key[1] in plans or row[3] >= before}

    def sharing(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class Ledger:
    """The entries of one fleet, read when a run begins, and written while it goes on.

    What a later look shows anyway is written some rows at a time; a quarantine at once.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.problem = ""
        """Why something could not be written, in a sentence; empty where all is."""
        self._known: dict[tuple[str, str], Entry] = {}
        self._kept: dict[tuple[str, str], Entry] = {}
        self._turn = asyncio.Lock()
        self._written_at = 0.0

    async def open(self, first: Before) -> None:
        """Make and read the ledger; a row that cannot be read is passed over, and told.

        `first` is awaited before anything is made where there is no ledger yet.
        """
        await self.store.open(first)
        self._known, corrupt = {}, 0
        for row in await self.store.rows():
            try:
                entry = _entry(row)
            except (ValueError, TypeError):
                corrupt += 1
            else:
                self._known[entry.tenant, entry.plan] = entry
        if corrupt:
            logger.warning(
                "%d rows of the fleet's ledger in %s cannot be read and are passed over",
                corrupt,
                self.store.where,
            )

    def of(self, tenant: str, plan: str) -> Entry | None:
        """What is known of a tenant: an operator's order, else what was written of this plan."""
        return self._known.get((tenant, ANY)) or self._known.get((tenant, plan))

    def quarantined(self) -> list[Entry]:
        """The entries of tenants in quarantine, whatever their plans."""
        return [each for each in self._known.values() if each.state == "quarantined"]

    async def note(
        self, tenant: str, plan: str, state: State, failure: Mapping[str, Any] | None = None
    ) -> None:
        """Write what became of a tenant; an error is kept as `problem`, and stops nothing."""
        entry = Entry(tenant, plan, state, time.time(), failure)
        known = self._known.get((tenant, plan))
        if state == "done" and known is not None and known.state == "done":
            return
        self._known[tenant, plan] = self._kept[tenant, plan] = entry
        overdue = time.monotonic() - self._written_at > FLUSH_S
        if state != "done" or overdue or len(self._kept) >= FLUSH_ROWS:
            await self.flush()

    async def flush(self) -> None:
        """Write what was kept back."""
        async with self._turn:
            entries, self._kept = list(self._kept.values()), {}
            self._written_at = time.monotonic()
            if not entries:
                return
            # in one order everywhere: two replicas must not wait for each other
            rows = sorted(map(_row, entries))
            try:
                await shielded(self.store.write(rows))
            except Exception as error:  # noqa: BLE001 - tenants matter more than notes about them
                self._kept = {(each.tenant, each.plan): each for each in entries} | self._kept
                self.problem = (
                    f"the ledger in {self.store.where} cannot be written ({first_line(error)}): "
                    "the next run looks at every tenant again"
                )
                logger.warning("%s", self.problem)
            else:
                self.problem = ""

    async def prune(self, plans: Collection[str]) -> None:
        """Forget what was written of other files than these, and an operator's, long ago."""
        try:
            await self.store.prune({ANY, *plans}, time.time() - KEPT_S)
        except Exception as error:  # noqa: BLE001 - the next run does it
            logger.debug("old entries of the ledger stay: %s", first_line(error))

    async def release(self, tenant: str) -> bool:
        """End a tenant's quarantine; whether there was one."""
        for key in [key for key, e in self._known.items() if key[0] == tenant]:
            if self._known[key].state == "quarantined":
                del self._known[key]
                self._kept.pop(key, None)
        return await self.store.forget(tenant, "quarantined")

    async def order(self, tenant: str) -> None:
        """Quarantine a tenant until an operator ends it. Raises what writing raises."""
        entry = Entry(tenant, ANY, "quarantined", time.time())
        await self.store.write([_row(entry)])
        self._known[tenant, ANY] = entry

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Context manager: a run, after which all is written."""
        async with self.store.sharing():
            try:
                yield
            finally:
                await shielded(self.flush())

    def ensure_durable(self, what: str) -> None:
        """Raise ConfigurationError where another process would know nothing of it."""
        if not self.store.durable:
            raise ConfigurationError(
                f"{what} needs a ledger that other processes see, and this fleet keeps its own in "
                "memory; nothing was done. Give it one: Fleet(control=...), the URL of a database "
                "that is no tenant's, or of a SQLite file"
            )


def _row(entry: Entry) -> Row:
    told = {} if entry.failure is None else {"failure": dict(entry.failure)}
    text = json.dumps(told)
    if len(text) > _LONGEST:
        failure = {**told["failure"], "message": str(told["failure"].get("message"))[:1000]}
        text = json.dumps({"failure": {**failure, "advice": ""}})
    return entry.tenant, entry.plan, entry.state, entry.at, text


def _entry(row: Sequence[Any]) -> Entry:
    """Read a row that others may have written. Raises ValueError and TypeError."""
    tenant, plan, state, at, text = row
    if why_no_name(tenant) or state not in get_args(State) or not isinstance(plan, str):
        raise ValueError("no entry of ours")
    told = json_object.parsed(text)
    failure = told.get("failure") if isinstance(told, dict) else None
    if failure is not None and not (
        isinstance(failure, dict)
        and failure.get("kind") in KINDS
        and all(isinstance(each, str | None) for each in failure.values())
    ):
        raise ValueError("no failure of ours")
    return Entry(tenant, plan, state, float(at), failure)
