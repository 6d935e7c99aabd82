"""Says what is wrong after the last start of a round: tenants, ledger, and what was left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fleet_kills.application import VARIABLE
from fleet_kills.places import Place
from fleet_kills.rounds import STRATEGIES, Round, Start, Tenant
from support.postgres_server import Server

from automigrator.fleet.control import store_of
from automigrator.fleet.fleet import PASSING

AT_HEAD = ("current", "migrated", "recovered")
FREE_S = 15.0
"""Seconds in which what was killed is gone: a statement in the server, a worker."""

Told = Mapping[str, Mapping[str, Any]]


def untold(drawn: Round, reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the reports of the last start lack: each process's own, all tenants once."""
    wrong = [str(each["raised"])[-1500:] for each in reports if "raised" in each]
    names = sorted(each.name for each in drawn.tenants)
    told = [sorted(each["name"] for each in report.get("tenants", ())) for report in reports]
    parts = [sorted(name for each in told for name in each)] if drawn.executor == "shards" else told
    wrong += [f"reported are {each}, not {names}" for each in parts if each != names]
    return wrong


def passing(reports: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a tenant failed for what says nothing about it: the next run tries it again."""
    parts = [each for report in reports for each in report.get("tenants", ())]
    return any((each.get("failure") or {}).get("kind") in PASSING for each in parts)


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Each tenant's report; of several replicas' the worst, as one that is served must be."""
    found: dict[str, Mapping[str, Any]] = {}
    for report in reports:
        for each in report.get("tenants", ()):
            known = found.get(each["name"])
            if known is None or known["outcome"] in AT_HEAD:
                found[each["name"]] = each
    return found


def tenants(
    drawn: Round,
    place: Place,
    laid: Mapping[str, str],
    known: Mapping[tuple[Start, str], str],
    told: Told,
) -> list[str]:
    """What is wrong with the tenants: each is compared with its twin, or with what was laid."""
    place.look()
    wrong = []
    for each in drawn.tenants:
        report = told.get(each.name, {"outcome": "absent"})
        outcome, dump = report["outcome"], place.dumped(each.name)
        wanted, outcomes = _wanted(drawn, each, laid, known)
        if outcome not in outcomes:
            wrong.append(f"{each} is {outcome}, not {outcomes}: {report}")
        if dump != wanted:
            wrong.append(
                f"{each} ({outcome}) is not what it should be: {_difference(wanted, dump)}"
            )
        if each.trouble and outcome in AT_HEAD:
            kept = place.kept(each.name)
            if laid[each.name] not in kept and known.get((each.start, each.trouble)) not in kept:
                wrong.append(f"{each} was purged, and its rows are nowhere")
        wrong += [f"{each}: {stray}" for stray in place.stray(each.name)]
    return wrong


def _wanted(
    drawn: Round, tenant: Tenant, laid: Mapping[str, str], known: Mapping[tuple[Start, str], str]
) -> tuple[str, tuple[str, ...]]:
    """The dump that is right, and the outcomes that are."""
    if not tenant.trouble:
        return known[tenant.start, ""], AT_HEAD
    strategies = [
        each if isinstance(each, str) else each[0] for each in STRATEGIES[tenant.strategy]
    ]
    copied = "backup-restore" in strategies
    if "purge" in strategies and drawn.kind != "schemas":
        return known["base", ""], AT_HEAD
    partial = drawn.per_migration and not copied and tenant.trouble != "damage"
    dump = known[tenant.start, tenant.trouble] if partial else laid[tenant.name]
    failed = ("failed", "quarantined")
    if "log-and-continue" not in strategies or tenant.trouble == "damage":
        return dump, failed
    # a run that has applied a part lets no application go on; after a kill the next one has not
    return dump, (("degraded", *failed) if partial and tenant.start == "r1" else ("degraded",))


def ledger(drawn: Round, control: str, told: Told) -> list[str]:
    """Where the ledger does not say what the databases say, by the last start's own looks."""
    rows = asyncio.run(_rows(control))
    wrong = []
    for each in drawn.tenants:
        outcome = told.get(each.name, {"outcome": "absent"})["outcome"]
        states = sorted(row[2] for row in rows if row[0] == each.name)
        wanted = ["done"] if outcome in AT_HEAD else ["quarantined"] if each.trouble else ["?"]
        if outcome == "degraded":
            wanted = []
        if states != wanted:
            wrong.append(f"the ledger says {states} of {each}, which is {outcome}")
    return wrong


async def _rows(control: str) -> Sequence[Sequence[Any]]:
    store = store_of(control, "fleet")
    async with store.sharing():
        return await store.rows()


def left(folder: Path, server: Server, place: Place, drawn: Round) -> list[str]:
    """Processes, sessions, locks and claims that are there although nobody is at work."""
    deadline = time.monotonic() + FREE_S
    while True:
        found = [*_processes(folder), *_sessions(server)]
        found += _claims(server) if drawn.executor == "claims" else []
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _claims(server: Server) -> list[str]:
    """Those that hold; rows of a replica that was killed go with the next start after its lease."""
    sql = (
        "select c.tenant, r.until from automigrator.fleet_claims c"
        " full join automigrator.fleet_replicas r using (round)"
        " where r.round is null or r.until > clock_timestamp()"
    )
    return [f"a claim stays: {tuple(each)}" for each in server.execute(sql, database="claims")]


def _processes(folder: Path) -> list[str]:
    wanted = f"{VARIABLE}={folder}".encode()
    found = []
    for each in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in each.read_bytes().split(b"\0"):
                found.append(f"the process {each.parent.name} is alive")
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def _sessions(server: Server) -> list[str]:
    rows = server.execute(
        "select pid, datname::text, application_name, state, left(query, 80) from pg_stat_activity"
        " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        " union all select pid, 'an advisory lock', objid::text, mode, '' from pg_locks"
        " where locktype = 'advisory'"
    )
    return [f"at the server stays {tuple(row)}" for row in rows]


def _difference(wanted: str, found: str) -> str:
    ours, theirs = set(wanted.splitlines()), set(found.splitlines())
    return f"lacks {sorted(ours - theirs)[:6]}, has {sorted(theirs - ours)[:6]}"
