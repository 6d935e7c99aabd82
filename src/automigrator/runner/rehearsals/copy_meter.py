"""Measures the revisions that run on a copy, and asks how the application uses what they lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from automigrator.backends.contract.backend import Backend
from automigrator.backends.contract.meter import Meter, Relations, Usage
from automigrator.backends.contract.values import Place
from automigrator.measurement import Measurement
from automigrator.migrations.statement_meter import StatementMeter
from automigrator.rehearsal import Rehearsal
from automigrator.runner.rehearsals.findings import findings, locked, used
from automigrator.support.loggers import logger_of
from automigrator.support.redaction import first_line

logger = logger_of(__name__)

ASK_S = 5.0
"""Seconds for a question about the application's use: it may wait for whoever locks a table."""


class CopyMeter:
    """The measuring of one copy of a target."""

    def __init__(self, backend: Backend, secrets: Sequence[str]) -> None:
        self._backend, self._secrets = backend, secrets
        self._measuring: StatementMeter | None = None

    @asynccontextmanager
    async def of(self, place: Place) -> AsyncIterator[StatementMeter | None]:
        """Context manager: measure what runs there; None where nothing can be measured."""
        async with AsyncExitStack() as stack:
            meter: Meter | None = None
            try:
                meter = await stack.enter_async_context(self._backend.metering(place))
            except Exception as error:  # noqa: BLE001 - the rehearsal itself is not about it
                logger.warning("the rehearsal is not measured: %s", first_line(error))
            if meter is not None:
                self._measuring = StatementMeter(meter, self._secrets)
            yield self._measuring
            if meter is not None and self._measuring is not None:
                with suppress(Exception):  # the rehearsal itself is not about it
                    self._measuring.final_size = await meter.final_size() or 0

    async def measurement(
        self, live: Backend | None, before: Usage | None, limits: Rehearsal | None
    ) -> Measurement | None:
        """What was measured; `live` is asked how the application uses it, `before` it was asked."""
        measuring = self._measuring
        if measuring is None:
            return None
        revisions = measuring.result()
        names = locked(revisions)
        after = await usage_of(live, names) if live is not None else None
        uses, window_s, transactions = used(before, after, measuring.meter.sizes)
        return Measurement(
            revisions,
            uses,
            window_s,
            transactions,
            findings(revisions, uses, measuring.meter.advice, limits),
            measuring.spent_s,
        )


async def usage_of(backend: Backend, tables: Relations = None) -> Usage | None:
    """How the target is used; None where that cannot be asked: it only tells more."""
    try:
        async with asyncio.timeout(ASK_S):
            return await backend.usage(tables)
    except Exception as error:  # noqa: BLE001 - the rehearsal itself is not about it
        logger.debug("how the database is used: %s", first_line(error))
        return None
