"""Brings the tenants of a fleet on the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import distributed
from distributed import Client
from distributed.security import Security

from automigrator.errors import ConfigurationError, ExecutorError
from automigrator.fleet.executors import outcomes
from automigrator.fleet.executors.contract import Bringing, Executor, Work
from automigrator.fleet.executors.feed import Feed
from automigrator.fleet.executors.lanes import Tell, as_they_come
from automigrator.fleet.report import TenantReport
from automigrator.support.concurrency import shielded, started
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import said
from automigrator_dask import worker
from automigrator_dask.addresses import ensure_safe

logger = logger_of("automigrator.fleet")

_LOOK_S = 1.0
"""Seconds between two looks at who the workers are."""


class DaskExecutor(Executor):
    """Brings tenants on a Dask cluster: as many at a time as its workers have threads.

    What travels is a tenant's name, and the module path, plan and release of the fleet. Each worker
    has this package and the fleet's module installed, and finds credentials in its own
    configuration. Dask gives the tenants of a lost worker to another one; a frozen worker is lost
    after the scheduler's `distributed.scheduler.worker-ttl`, 5 minutes by default.

    `cluster`: the scheduler's address, or a Client: its address and security are used.
    `tls_ca_file`, `tls_client_cert`, `tls_client_key`: files for `tls://`; default: Dask's own
    configuration. `wait_s`: seconds to wait for a worker where there is none, and for the answer of
    each whether its fleet is the same; default 60.
    `stop_s`: seconds for the statements under way when a run is stopped; default 30.
    `speculate_s`: seconds after which a tenant is given to a second worker as well; default: never.

    Raises ConfigurationError, for an address that is neither encrypted nor on this machine, too.
    """

    def __init__(
        self,
        cluster: str | Client,
        *,
        tls_ca_file: str | None = None,
        tls_client_cert: str | None = None,
        tls_client_key: str | None = None,
        wait_s: float = 60.0,
        stop_s: float = 30.0,
        speculate_s: float | None = None,
    ) -> None:
        files = {
            "tls_ca_file": tls_ca_file,
            "tls_client_cert": tls_client_cert,
            "tls_client_key": tls_client_key,
        }
        given = {name: file for name, file in files.items() if file is not None}
        if isinstance(cluster, Client):
            if given or cluster.scheduler is None:
                raise ConfigurationError(
                    "a Client that is connected has its own security: give an address with files"
                )
            self.address, self.security = cluster.scheduler.address, cluster.security
        else:
            self.address, self.security = cluster, Security(**given)
        ensure_safe(self.address, self.security)
        self.wait_s, self.stop_s, self.speculate_s = wait_s, stop_s, speculate_s

    async def run(
        self, fleet: Bringing, tenants: AsyncIterator[str]
    ) -> AsyncGenerator[TenantReport]:
        """Bring each of `tenants`, and yield its report as soon as it ends."""
        work = await fleet.work()
        try:
            client = await Client(
                self.address,
                security=self.security,
                asynchronous=True,
                set_as_default=False,
                timeout=self.wait_s,
            )
        except (OSError, TimeoutError) as error:
            raise ExecutorError(
                f"the Dask scheduler at {self.address} does not answer: {said(error, ())}; nothing "
                "was changed. Start it, or correct the address"
            ) from error
        async with client:
            rollout = _Rollout(self, client, work)
            async with aclosing(as_they_come(partial(rollout.bring_all, tenants))) as reports:
                async for report in reports:
                    yield report


class _Rollout:
    """One run on a cluster."""

    def __init__(self, options: DaskExecutor, client: Client, work: Work) -> None:
        self.options, self.client = options, client
        self.work = dict(vars(work))
        self.name = uuid.uuid4().hex
        self._threads: dict[str, int] = {}
        """Of the workers that agree, by address."""
        self._refused: dict[str, str] = {}
        self._looked = -_LOOK_S
        self._alone_since: float | None = None
        self._submitted = 0
        self._doubled = False
        """Whether a tenant was given to two workers: the second may still be at it."""

    async def bring_all(self, tenants: AsyncIterator[str], tell: Tell) -> None:
        await self._agree()
        feed = Feed(tenants)
        running: dict[asyncio.Future[TenantReport], str] = {}
        taking: asyncio.Future[str | None] | None = None
        try:
            while True:
                if taking is None and len(running) < sum(self._threads.values()):
                    taking = started(feed.take())
                waits: set[asyncio.Future[Any]] = {*running, *([taking] if taking else ())}
                await asyncio.wait(
                    waits, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED
                ) if waits else await asyncio.sleep(_LOOK_S)
                if taking is not None and taking.done():
                    tenant, taking = taking.result(), None
                    if tenant is None:
                        return
                    running[started(self._bring(tenant))] = tenant
                for each in [each for each in running if each.done()]:
                    tell(each.result())
                    feed.done(running.pop(each))
                await self._look()
        finally:
            for left in running:
                left.cancel()
            if taking is not None:
                taking.cancel()
            await feed.aclose()
            if running or self._doubled:
                await shielded(self._stop())

    async def _agree(self) -> None:
        """Ask every worker whether it has the same fleet. Raises ConfigurationError."""
        while not self._threads:
            await self._look()  # which raises after a while
            await asyncio.gather(*(self._ask(address) for address in list(self._threads)))
            if not self._threads:
                await asyncio.sleep(_LOOK_S)

    async def _ask(self, address: str) -> None:
        """Ask one worker; one that is silent or lost is left out. Raises ConfigurationError."""
        asking = self.client.run(verified, self.work, workers=[address], on_error="return")
        try:
            async with asyncio.timeout(self.options.wait_s):
                answer = (await asking).get(address)
        except TimeoutError:
            silent = f"the worker {address} does not answer within {self.options.wait_s:g} s"
            logger.warning("%s; it gets no tenant", silent)
            self._refused[address] = silent
            self._threads.pop(address, None)
            return
        if isinstance(answer, OSError) or answer is None:
            logger.warning("the worker %s is lost", address)
            self._threads.pop(address, None)
            return
        if isinstance(answer, BaseException):
            answer = (
                f"the worker {address} cannot be asked: {said(answer, ())}; nothing was "
                "changed. Install automigrator-dask, and the fleet's module, on every worker"
            )
        if answer:
            raise ConfigurationError(answer)

    async def _look(self) -> None:
        """See who the workers are. Raises ConfigurationError, and ExecutorError without any."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        threads: dict[str, int] = await self.client.nthreads()
        for address in threads:
            ensure_safe(address, self.options.security, "a worker")
        self._threads = {
            address: number for address, number in threads.items() if address not in self._refused
        }
        if self._threads:
            self._alone_since = None
            return
        self._alone_since = self._alone_since or now
        all_refuse = bool(threads) and self._refused.keys() >= threads.keys()
        if all_refuse or now - self._alone_since >= self.options.wait_s:
            raise self._nobody()

    def _nobody(self) -> ExecutorError:
        why = "; ".join(self._refused.values()) or f"none came within {self.options.wait_s:g} s"
        return ExecutorError(
            f"no worker is left in the cluster at {self.options.address}: {why}. Tenants that were "
            "reported are done, the others were not begun, or are repaired by the next run. Start "
            "workers, and run the fleet again"
        )

    async def _bring(self, tenant: str) -> TenantReport:
        while True:
            answer = await self._answered(tenant)
            if isinstance(answer, TenantReport):
                return answer
            address = answer["worker"]
            self._refused[address] = answer["refused"]
            self._threads.pop(address, None)
            logger.warning("a worker that came later refuses: %s", answer["refused"])
            while not self._threads:  # noqa: ASYNC110 - the look raises after a while
                await asyncio.sleep(_LOOK_S)

    async def _answered(self, tenant: str) -> Any:
        """What a worker answers, or the report where none could."""
        futures = [self._submit(tenant, sorted(self._threads) if self._refused else None)]
        try:
            if self.options.speculate_s is not None:
                done = started(_over(futures))
                await asyncio.wait({done}, timeout=self.options.speculate_s)
                if not done.done():
                    busy = await self.client.processing()
                    theirs = {at for at, keys in busy.items() if futures[0].key in keys}
                    if others := sorted(set(self._threads) - theirs):
                        self._doubled = True
                        futures.append(self._submit(tenant, others))
                done.cancel()
            future = await _over(futures)
            if future.status != "finished":
                return self._failed(tenant, await _error_of(future))
            answer = await future
        finally:
            for each in futures:
                each.release()
        if "refused" in answer:
            return answer
        if "report" not in answer:
            return outcomes.failed(tenant, "its worker was told to stop", "run the fleet again")
        return outcomes.read(answer["report"], tenant)

    def _submit(self, tenant: str, workers: list[str] | None) -> distributed.Future:
        self._submitted += 1
        key = f"automigrator-{self.name}-{self._submitted}"
        return self.client.submit(
            worker.bring, self.work, tenant, self.name, key=key, workers=workers, pure=False
        )

    def _failed(self, tenant: str, error: BaseException) -> TenantReport:
        if isinstance(error, distributed.KilledWorker):
            return outcomes.failed(
                tenant,
                f"{error.allowed_failures + 1} workers were lost while they migrated it",
                "look for what kills them: memory, a revision's own code; then run the fleet "
                "again, which repairs what is half done",
            )
        if self.client.status != "running" or not isinstance(error, Exception):
            raise ExecutorError(
                f"the Dask scheduler at {self.options.address} is gone. Tenants that were reported "
                "are done, the others were not begun, or are repaired by the next run. Start the "
                "cluster, and run the fleet again"
            )
        message = f"its task failed on the cluster: {said(error, ())}"
        return outcomes.failed(tenant, message, "see the logs of the workers, and run it again")

    async def _stop(self) -> None:
        """Stop what is under way on every worker that answers."""
        with suppress(Exception):
            async with asyncio.timeout(self.options.stop_s):
                await self.client.run(stopped, self.name, self.options.stop_s, on_error="ignore")


async def verified(told: dict[str, str], dask_worker: Any) -> str:
    """Run on a worker: why it refuses a work, or nothing."""
    return await asyncio.to_thread(worker.check, told, dask_worker.address)


async def stopped(run: str, limit_s: float) -> None:
    """Run on a worker: stop what is under way of a run."""
    await asyncio.to_thread(worker.stop, run, limit_s)


async def _over(futures: list[distributed.Future]) -> distributed.Future:
    """The first future that is finished, or else the last one that failed."""
    waits = {started(_error_of(each)): each for each in futures}
    left: set[asyncio.Future[Any]] = set(waits)
    try:
        while True:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                if waits[each].status == "finished" or not left:
                    return waits[each]
    finally:
        for each in left:
            each.cancel()


async def _error_of(future: distributed.Future) -> BaseException:
    """Wait for a future's end; its error, if it has one."""
    return await future.exception()  # type: ignore[no-any-return]
