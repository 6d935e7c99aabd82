"""No tenant of a fleet is wrong, whoever is killed or frozen at what moment; see docs/kills.md.

`nox -s fleet-kills` draws rounds, appends each result to a file, and goes on from there.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fleet_kills import judge
from fleet_kills.arena import Found, played
from fleet_kills.rounds import EXECUTORS, KINDS, Round, Tenant, drawn
from support import postgres_server
from support.campaigns import Results, spread
from support.postgres_server import Server
from support.table import Row, Table

pytestmark = pytest.mark.plugins

ROUNDS = int(os.environ.get("AUTOMIGRATOR_FLEET_KILLS", 0))
"""How many in all; set by `nox -s fleet-kills`."""
SEED = os.environ.get("AUTOMIGRATOR_SEED", "1")
LEAST_KILLS_A_ROUND = 4
TABLE = Table(
    "kills.md",
    "nox -s fleet-kills -- --write-table",
    (
        "executor",
        "tenants are",
        "rounds",
        "tenants",
        "of them failing",
        "kills",
        "freezes",
        "wrong",
    ),
)


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    """One for each round that goes on: its sessions and locks are all of that round."""
    with ExitStack() as stack:
        started = [postgres_server.stoppable() for _ in range(2 if ROUNDS else 1)]
        yield [stack.enter_context(each)[0] for each in started]


@pytest.mark.long
def test_no_tenant_is_wrong(
    tmp_path: Path, servers: list[Server], request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("distributed")
    results = Results("AUTOMIGRATOR_FLEET_KILLS_RESULTS", SEED)

    def run(server: Server, number: int) -> None:
        what = drawn(SEED, number)
        try:
            found = played(tmp_path / str(number), what, server)
        except Exception:  # noqa: BLE001 - the others are played
            found = Found(wrong=[traceback.format_exc()])
        verdict = "wrong" if found.wrong else "right"
        results.note(number, verdict, **asdict(found), round=asdict(what))

    spread(results, ROUNDS or 1, servers, run)
    rows = [results.rows[number] for number in sorted(results.rows)]
    wrong = [f"{SEED} {row['number']}: {each}" for row in rows for each in row["wrong"]]
    kills = sum(row["kills"] for row in rows)
    print(f"{len(rows)} rounds, {kills} kills: {dict(Counter(results.verdicts.values()))}")
    assert not wrong, "\n".join(wrong)
    assert kills >= (LEAST_KILLS_A_ROUND * ROUNDS or 1)
    if request.config.getoption("--write-table"):
        TABLE.write(table(rows))


def table(rows: list[dict[str, Any]]) -> list[Row]:
    """The results by executor and kind of tenants, and all of them."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        tenants = row["round"]["tenants"]
        counts = {
            "rounds": 1,
            "tenants": len(tenants),
            "failing": sum(bool(each["trouble"]) for each in tenants),
            "kills": row["kills"],
            "freezes": row["freezes"],
            "wrong": len(row["wrong"]),
        }
        for key in ((row["round"]["executor"], row["round"]["kind"]), ("**in all**", "")):
            found.setdefault(key, Counter()).update(counts)
    columns = ("rounds", "tenants", "failing", "kills", "freezes", "wrong")
    order = [(name, kind) for name in EXECUTORS for kind in KINDS] + [("**in all**", "")]
    return [
        (*key, *(f"{found[key][column]:,}" for column in columns)) for key in order if key in found
    ]


class TestTheJudge:
    """It sees what is wrong."""

    SOUND, FAILING = Tenant("tenant00", "r1", "", "none"), Tenant("tenant01", "r1", "row", "none")
    WHAT = Round(0, "local", "schemas", (SOUND, FAILING), False, False, False, 1, False, (), ())
    TOLD: ClassVar[dict[str, Any]] = {
        "tenant00": {"outcome": "migrated"},
        "tenant01": {"outcome": "quarantined"},
    }
    DUMPS: ClassVar[dict[str, str]] = {"tenant00": "at head", "tenant01": "laid"}

    def judged(self, told: dict[str, Any], dumps: dict[str, str]) -> list[str]:
        known = {("r1", ""): "at head", ("r1", "row"): "at r2", ("base", ""): "empty, at head"}
        laid = {"tenant01": "laid"}
        place: Any = Laid(dumps)
        return judge.tenants(self.WHAT, place, laid, known, told)

    def test_all_is_right(self) -> None:
        assert self.judged(self.TOLD, self.DUMPS) == []

    @pytest.mark.parametrize("name", ["tenant00", "tenant01"])
    def test_a_tenant_that_is_another(self, name: str) -> None:
        (wrong,) = self.judged(self.TOLD, {**self.DUMPS, name: "at r2"})
        assert "is not what it should be" in wrong

    @pytest.mark.parametrize(
        ("name", "outcome"), [("tenant00", "failed"), ("tenant01", "degraded"), ("tenant00", None)]
    )
    def test_a_report_that_is_not_so(self, name: str, outcome: str | None) -> None:
        told = {**self.TOLD, name: {"outcome": outcome}}
        (wrong,) = self.judged(told, self.DUMPS)
        assert f"is {outcome}, not" in wrong

    def test_a_tenant_that_nobody_reports(self) -> None:
        assert judge.untold(self.WHAT, [{"tenants": [{"name": "tenant01"}]}])
        assert not judge.untold(self.WHAT, [{"tenants": [{"name": each} for each in self.TOLD]}])


class Laid:
    """A place that was read."""

    def __init__(self, dumps: dict[str, str]) -> None:
        self.dumped = dumps.__getitem__

    def look(self) -> None: ...

    def kept(self, name: str) -> list[str]:
        return []

    stray = kept
