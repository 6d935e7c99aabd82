"""The fleet of a round, as each of its processes finds it: coordinators, and their workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet_kills.rounds import STRATEGIES

from automigrator import Migrator
from automigrator.fleet import Fleet, Tenant, databases, files, schemas

VARIABLE = "AUTOMIGRATOR_TEST_KILLS"
"""The environment variable with the round's folder; also how processes of it are found."""

SOURCE = "fleet_kills.application:fleet"

LEASE_S = 15.0
"""Of a tenant's lock on PostgreSQL; the default would take minutes."""

CLAIMED_S = 6.0
"""The lease of a replica's claims."""


class Mixed(Fleet):
    """A fleet whose tenants have strategies of their own."""

    strategies: dict[str, str]

    def migrator_of(self, tenant: Tenant) -> Migrator:
        recovery = STRATEGIES[self.strategies[tenant.name]]
        return super().migrator_of(
            tenant._replace(target=tenant.target._replace(recovery=recovery))
        )


def fleet(executor: Any = None) -> Mixed:
    """The fleet of this process's folder."""
    from automigrator.backends.postgresql.locking import advisory

    advisory.LEASE_S = LEASE_S
    told = json.loads((Path(os.environ[VARIABLE]) / "fleet.json").read_text("utf-8"))
    found: Any
    if told["kind"] == "files":
        found = files(told["place"], told["ini"])
    elif told["kind"] == "schemas":
        found = schemas(told["place"], told["ini"], like="tenant%", x=["tenant={schema}"])
    else:
        found = databases(told["place"], config=told["ini"], like="tenant%")
    made = Mixed(
        found,
        mode="migrate",
        concurrency=4,
        executor=executor,
        control=told["control"],
        source=SOURCE,
        replay=told["replay"],
    )
    made.strategies = told["strategies"]
    return made


def run(folder: Path, executor: Any, out: Path) -> None:
    """A coordinator: run the fleet, and write its report to `out`; all that it says goes beside."""
    os.environ[VARIABLE] = str(folder)
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    out.with_suffix(".begun").touch()
    try:
        report = asyncio.run(fleet(executor).run()).to_dict()
    except BaseException:  # noqa: BLE001 - the judge is told
        traceback.print_exc()
        report = {"raised": traceback.format_exc()}
    out.with_suffix(".tmp").write_text(json.dumps(report), "utf-8")
    out.with_suffix(".tmp").rename(out)


def executor_of(name: str, index: int, server: str, cluster: str) -> Any:
    """What the replica of that index gives its fleet as `executor`."""
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "processes": lambda: {"workers": 2, "tasks": 2, "silent_s": 10.0, "stop_s": 5.0},
        "shards": lambda: {"index": index, "count": 3, "tasks": 3},
        "claims": lambda: {"control": server, "lease_s": CLAIMED_S, "poll_s": 0.5, "tasks": 2},
        "dask": lambda: {"cluster": cluster, "stop_s": 5.0, "wait_s": 120.0},
    }
    return None if name == "local" else (name, options[name]())


def main() -> None:
    """A coordinator by itself, as its input says: for where a fork cannot be, another host say."""
    told = json.load(sys.stdin)
    run(Path(told["folder"]), tuple(told["executor"]), Path(told["out"]))
