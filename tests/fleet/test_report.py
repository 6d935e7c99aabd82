"""What a person and a machine are told of a rollout."""

from __future__ import annotations

import json

from automigrator.fleet import FleetReport, TenantReport


def failed(name: str, message: str = "no such table", **more: object) -> TenantReport:
    told = {"kind": "revision", "message": message, "revision": "r2", "state": "clean"}
    return TenantReport(name, "failed", failure={**told, "advice": "repair it", **more})


def test_the_outcome_is_the_worst_of_the_tenants() -> None:
    report = FleetReport((TenantReport("a", "migrated"), TenantReport("b", "current")))
    assert (report.outcome, report.at_head) == ("migrated", True)
    report = report._replace(tenants=(*report.tenants, TenantReport("c", "quarantined")))
    assert (report.outcome, report.at_head) == ("quarantined", False)
    assert report._replace(tenants=(*report.tenants, failed("d"))).outcome == "failed"
    assert FleetReport(reason="off").outcome == "skipped"


def test_thousands_of_failing_tenants_make_a_screen() -> None:
    same = [failed(f"s{n}") for n in range(9000)]
    each = [failed(f"e{n}", f"no such table {n}") for n in range(1000)]
    told = str(FleetReport((*same, *each, TenantReport("q", "quarantined"))))
    assert len(told.splitlines()) < 50
    assert "failed: s0, s1, s2, s3, s4 and 8995 more: revision in revision r2: no such" in told
    assert "what to do: repair it" in told
    assert "quarantined, and not tried: q; repair the cause, then `automigrator fleet" in told


def test_what_others_wrote_drives_no_terminal() -> None:
    told = str(FleetReport((failed("\x1b[2Ja\nfleet: current", "x\x1b]0;y"),)))
    assert "\x1b" not in told
    assert [line for line in told.splitlines() if line.startswith("fleet: ")] == [
        told.splitlines()[0]
    ]


def test_a_machine_gets_all_of_it_and_reads_it_back() -> None:
    report = FleetReport((failed("a"), TenantReport("b", "migrated", ("r1",), ("r3",), 2)), 1.5)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["counts"] == {"migrated": 1, "failed": 1}
    assert tuple(map(TenantReport.from_dict, told["tenants"])) == report.tenants
    assert report["b"].applied == 2
