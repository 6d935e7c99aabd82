"""The names of databases of ours need no quotes, and those of earlier releases still count."""

from __future__ import annotations

import re

import pytest

from automigrator.backends.postgresql.names import Ours, among, name_beside

STAMP = "20260101T120000000001Z"
ODD = ["App", "my-app", "2024", 'a"b', "a b", "ж" * 31, "☃" * 21, "x" * 63, "X" * 40]


@pytest.mark.parametrize("live", ["app", "_a1", *ODD])
def test_a_name_needs_no_quotes_and_leads_back_to_its_database(live: str) -> None:
    name = name_beside(live, "snapshot", STAMP)

    assert re.fullmatch("[a-z_][a-z0-9_]{0,62}", name)
    assert among([name], live) == [Ours(name, "snapshot", STAMP)]
    assert among([name], f"{live}_2") == among([name], live[:-1] + "y") == []


def test_the_name_of_a_plain_database_is_the_beginning() -> None:
    name = name_beside("app", "undone", STAMP)
    assert name == "app__automigrator_undone_20260101t120000000001z"


OLD = {
    "app": f"app__automigrator_snapshot_{STAMP}",
    "My-App": f"My-App__automigrator_snapshot_{STAMP}",
    "X" * 40: f"XXXXXX_f43d748d92__automigrator_snapshot_{STAMP}",
}


@pytest.mark.parametrize("live", OLD)
def test_the_name_that_an_earlier_release_gave_still_counts(live: str) -> None:
    assert among([OLD[live]], live) == [Ours(OLD[live], "snapshot", STAMP)]


def test_old_and_new_names_are_in_the_order_of_their_times() -> None:
    older = "app__automigrator_snapshot_20260101T120000000001Z"
    newer = "app__automigrator_snapshot_20260101t120000000002z"
    assert [each.name for each in among([newer, older], "app")] == [older, newer]


def test_databases_whose_names_differ_in_what_needs_quotes_are_told_apart() -> None:
    assert len({name_beside(each, "side", "s1") for each in ("a-b", "a b", "A_B", "a_b")}) == 4
