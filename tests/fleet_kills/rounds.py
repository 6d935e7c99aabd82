"""Draws rounds: what a fleet is made of, which of its tenants fail, and who is killed when."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["schemas", "databases", "files"]
Start = Literal["base", "r1", "r2"]
Trouble = Literal["", "row", "statement", "damage"]
Act = Literal["kill", "freeze", "kill worker", "freeze worker"]

EXECUTORS = ("local", "processes", "shards", "claims", "dask")
KINDS: tuple[Kind, ...] = ("schemas", "databases", "files")
WITH_WORKERS = ("processes", "dask")
"""Executors whose tenants are brought in processes that the coordinator does not run in."""

COPIED = ("backup-restore", {"snapshot": "always", "disconnect_others": True})
PURGED = ("purge", {"disconnect_others": True})
STRATEGIES = {
    "none": [],
    "backup-restore": [COPIED],
    "purge": [PURGED],
    "log-and-continue": ["log-and-continue"],
    "restore, then purge": [COPIED, PURGED],
    "restore, then continue": [COPIED, "log-and-continue"],
    "purge, then continue": [PURGED, "log-and-continue"],
}
NO_COPY = ("none", "purge", "log-and-continue", "purge, then continue")
"""For tenants in schemas: a database that is shared is not copied, and their runs would fail."""
COPY = ("backup-restore", "restore, then purge", "restore, then continue")


@dataclass(frozen=True)
class Tenant:
    """One tenant: where it starts, what makes it fail if anything does, and its strategies."""

    name: str
    start: Start
    trouble: Trouble
    strategy: str


@dataclass(frozen=True)
class Disturbance:
    """After so many seconds, something happens to a process of so many."""

    after_s: float
    act: Act
    which: float
    """From 0 to 1: the first to the last."""


@dataclass(frozen=True)
class Round:
    """A fleet and what happens to it before the start that ends by itself.

    `halves`: a revision commits in its middle, and may not run twice; all tenants are copied then.
    `disturbed`: the disturbances of each start, after which it ends by itself, or is killed where
    `ended` says so.
    """

    number: int
    executor: str
    kind: Kind
    tenants: tuple[Tenant, ...]
    per_migration: bool
    halves: bool
    replay: bool
    replicas: int
    ledger_on_server: bool
    disturbed: tuple[tuple[Disturbance, ...], ...]
    ended: tuple[bool, ...]
    gated: bool = False
    """Whether each third revision waits for a file, `gate`, in the round's folder."""

    @property
    def failing(self) -> list[Tenant]:
        return [each for each in self.tenants if each.trouble]


def drawn(seed: str, number: int) -> Round:
    """The round of that number; executors and kinds take turns."""
    chance = random.Random(f"{seed} {number}")
    executor = EXECUTORS[number % len(EXECUTORS)]
    kind = KINDS[number // len(EXECUTORS) % len(KINDS)]
    halves = kind != "schemas" and chance.random() < 0.4
    most = 14 if kind == "databases" else chance.choice((14, 14, 14, 40))
    count = chance.randint(10, most)
    failing = max(1, round(count * 0.05), 2 * (chance.random() < 0.5))
    known: tuple[str, ...] = NO_COPY if kind == "schemas" else tuple(STRATEGIES)
    strategies = COPY if halves else known
    at_fault = set(chance.sample(range(count), failing))
    tenants = []
    for index in range(count):
        start: Start = chance.choice(("base", "r1", "r2"))
        trouble: Trouble = ""
        if index in at_fault:
            start = chance.choice(("r1", "r2"))
            trouble = chance.choice(("row", "statement", *(["damage"] * (kind == "files"))))  # type: ignore[arg-type]
        tenants.append(Tenant(f"tenant{index:02}", start, trouble, chance.choice(strategies)))
    starts = chance.randint(3, 4)
    disturbed = [tuple(_disturbances(chance, executor)) for _ in range(starts)]
    return Round(
        number,
        executor,
        kind,
        tuple(tenants),
        per_migration=chance.random() < 0.5,
        halves=halves,
        replay=chance.random() < 0.2,
        replicas=replicas_of(executor, chance),
        ledger_on_server=chance.random() < 0.5,
        disturbed=tuple(disturbed),
        ended=tuple(chance.random() < 0.8 for _ in range(starts)),
    )


def replicas_of(executor: str, chance: random.Random) -> int:
    """How many processes run the fleet at once."""
    if executor == "dask":
        return 1
    return 3 if executor in ("shards", "claims") else chance.choice((1, 2, 2))


def _disturbances(chance: random.Random, executor: str) -> list[Disturbance]:
    acts: list[Act] = ["kill", "kill", "kill", "freeze"]
    if executor in WITH_WORKERS:
        acts += ["kill worker", "kill worker", "kill worker", "freeze worker"]
    return [
        Disturbance(chance.uniform(0, 2.5), chance.choice(acts), chance.random())
        for _ in range(chance.randint(2, 4))
    ]
