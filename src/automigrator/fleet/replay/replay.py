"""The replay of a fleet: which histories are proved, and what a tenant's run does with that."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from automigrator.fleet.replay.plan import Plan, UnsafeError
from automigrator.fleet.replay.player import Player, Told
from automigrator.fleet.replay.proof import UnprovedError, prove
from automigrator.fleet.replay.rendering import named_in, rendered
from automigrator.fleet.replay.scan import scanned
from automigrator.migrations.execution import Execution
from automigrator.runner.inspection import Finding
from automigrator.runner.replays import Play
from automigrator.runner.state import RunState
from automigrator.support.concurrency import in_thread
from automigrator.support.loggers import logger_of

logger = logger_of(__name__)

TRIES = 3
"""Tenants that may fail to prove anything of a plan before it is given up."""


class Key(NamedTuple):
    """What a proof is for."""

    digest: str
    heads: tuple[str, ...] | None
    pending: tuple[str, ...]
    server: tuple[Any, ...]
    """Its driver, host and port: another server may be of another version."""
    version_table: str
    named: bool
    """Whether the statements name the tenant."""


@dataclass(slots=True, eq=False)
class Proof:
    """What is known of one key."""

    plan: Plan | None = None
    proved: bool = False
    refusal: str = ""
    """Why nothing of it is replayed; empty as long as something may be."""
    tries: int = 0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Replay:
    """Applies pending revisions without env.py, where that is proved to give the same.

    One object serves all tenants of a rollout, each in a Migrator of its own whose `replay` it is:
    the first tenant at some heads proves, on copies of itself, what the others at those heads are
    given. Whatever cannot be proved is run by Alembic.
    """

    def __init__(self) -> None:
        self._proofs: defaultdict[Key, Proof] = defaultdict(Proof)

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why something was not replayed, one sentence each."""
        return tuple(dict.fromkeys(each.refusal for each in self._proofs.values() if each.refusal))

    async def completed(self, state: RunState, finding: Finding) -> Finding | None:
        """See `Replays`."""
        found = await self._key(state, finding)
        proof = self._proofs.get(found[0]) if found is not None else None
        if proof is None or proof.plan is None or not proof.proved:
            return None
        one = proof.plan.one_transaction
        contexts = tuple(replace(each, one_transaction=one) for each in finding.contexts)
        return finding._replace(contexts=contexts)

    async def prepared(self, state: RunState, finding: Finding) -> Play | None:
        """See `Replays`."""
        found = await self._key(state, finding)
        if found is None:
            return None
        key, tenant = found
        proof = self._proofs[key]
        async with proof.busy:  # the others wait for the one that proves
            if not proof.refusal and not proof.proved:
                await self._prove(state, finding, proof, key.heads, tenant)
        reason = proof.refusal
        if proof.plan is not None and proof.proved:
            try:
                return partial(_play, state, proof.plan.of(tenant))
            except UnsafeError as unsafe:
                reason = str(unsafe)
        if reason:
            state.run.note(f"run by Alembic, not replayed: {reason}")
        return None

    async def _key(self, state: RunState, finding: Finding) -> tuple[Key, str | None] | None:
        """The key of a tenant's pending revisions, and its name; None: nothing can be replayed."""
        session, backend = state.session, state.backend
        if len(finding.contexts) != 1 or not finding.pending or session.place.in_place:
            return None
        if finding.unversioned or state.target.bootstrap is not None:
            return None
        (context,) = finding.contexts
        history = await session.history()
        digest = await in_thread(partial(history.digest, finding.pending))
        tenant = named_in(state.target, context.table.schema)
        heads = finding.sight.heads.get(context.table)
        url, name = backend.access.url, context.table.name
        server = (url.drivername, url.host, url.port, url.query.get("host"))
        return Key(digest, heads, finding.pending, server, name, tenant is not None), tenant

    async def _prove(
        self,
        state: RunState,
        finding: Finding,
        proof: Proof,
        heads: tuple[str, ...] | None,
        tenant: str | None,
    ) -> None:
        migration, (context,) = await state.migration(), finding.contexts
        name = state.run.name
        try:
            with state.at("proving that the pending revisions may be replayed", "env"):
                if proof.plan is None:
                    found = await in_thread(partial(scanned, migration.history, finding.pending))
                    if found:
                        raise UnsafeError("; ".join(map(str, found[:3])))
                    plan = await rendered(migration, context.table, heads, tenant)
                    if plan.revisions != finding.pending:
                        raise UnsafeError("env.py's offline mode runs other revisions")
                    proof.plan = plan
                await prove(state, proof.plan, tenant)
        except UnsafeError as unsafe:
            proof.refusal = str(unsafe)
            logger.info("%s: not replayed: %s", name, unsafe)
        except UnprovedError as unproved:
            proof.tries += 1
            state.run.note(f"run by Alembic, not replayed: {unproved}")
            if proof.tries >= TRIES:
                proof.refusal = f"no tenant could prove it: {unproved}"
        else:
            proof.proved = True
            logger.info("%s: proved that %d revisions may be replayed", name, len(finding.pending))


async def _play(state: RunState, plan: Plan, execution: Execution) -> None:
    told = Told(state.started, state.done, state.server_says)
    await Player(await state.migration(), plan, execution, told).play()
