"""`automigrator rehearse`: a copy that a person names is migrated, and says what is to come."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from support.alembic_projects import heads, query

from automigrator.cli.findings import KINDS, SCHEMA

ADDS = 'op.add_column("users", sa.Column("nick", sa.Text))'


@pytest.fixture
def copied(application: Any, request: pytest.FixtureRequest) -> Any:
    """An application at r3, and a copy of it: `copy` is its URL. r4 is pending."""
    assert application.automigrator("run").code == 0
    application.deploy(ADDS)
    url = make_url(application.url)
    if application.kind == "sqlite":
        copy = application.folder / "copy.db"
        shutil.copy(str(url.database), copy)
        application.copy = url.set(database=str(copy)).render_as_string(hide_password=False)
        yield application
        return
    server = request.getfixturevalue("postgres_server")
    name = f"{url.database}_copy"
    server.execute(f"create database {name} template {url.database}")
    application.copy = url.set(database=name).render_as_string(hide_password=False)
    yield application
    server.drop(name)


def rehearse(application: Any, *arguments: str, **variables: str) -> Any:
    variables = {"AUTOMIGRATOR_COPY_URL": application.copy, **variables}
    return application.automigrator("rehearse", "--yes", *arguments, **variables)


def test_the_copy_is_migrated_and_the_application_is_not(copied) -> None:
    answer = rehearse(copied)
    assert answer.code == 0, answer
    assert (heads(copied.copy), heads(copied.url)) == ({"r4"}, {"r3"})
    assert "r3 -> r4" in answer.out and "r4: 0." in answer.out
    kind = {"sqlite": "blocks-writes", "postgresql": "blocks-reads"}[copied.kind]
    assert f" {kind} in r4 (" in answer.out
    assert "ALTER TABLE users ADD COLUMN nick TEXT" in answer.out
    assert "nothing was pending" in rehearse(copied).out


def test_a_limit_that_is_exceeded_is_the_exit_code(copied) -> None:
    answer = rehearse(copied, "--max-block", "0", "--json")
    assert (answer.code, answer.document["outcome"]) == (7, "refused")
    measured = answer.document["result"]["measurement"]
    assert [each["revision"] for each in measured["revisions"]] == ["r4"]
    assert [each["kind"] for each in measured["findings"]][-1] == "over-limit"


def test_a_finding_of_a_chosen_level_is_the_exit_code(copied) -> None:
    answer = rehearse(copied, "--fail-on", "note", "--format", "json")
    assert answer.code == 7 and answer.document["result"]["failure"] is None


def test_a_revision_that_fails_is_a_finding(copied) -> None:
    copied.deploy('op.execute("SELECT * FROM absent")')
    answer = rehearse(copied, "--format", "sarif")
    assert (answer.code, heads(copied.url)) == (5, {"r3"})
    (run,) = json.loads(answer.out)["runs"]
    failed = run["results"][-1]
    assert (failed["ruleId"], failed["level"]) == ("failed", "error")
    assert "absent" in failed["message"]["text"]


def test_sarif_names_the_file_and_the_line_within_the_repository(copied) -> None:
    document = json.loads(rehearse(copied, "--format", "sarif").out)
    assert (document["version"], document["$schema"]) == ("2.1.0", SCHEMA)
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert [each["id"] for each in driver["rules"]] == list(KINDS)
    (result,) = run["results"]
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    (place,) = (each["physicalLocation"] for each in result["locations"])
    uri = place["artifactLocation"]["uri"]
    line = (copied.folder / uri).read_text().splitlines()[place["region"]["startLine"] - 1]
    assert not uri.startswith(("/", "file:")) and line.strip() == ADDS


def test_markdown_has_a_table_and_nothing_in_it_is_driven_by_others(copied) -> None:
    copied.deploy(
        'op.execute("/* <img src=x> @everyone [a](b) `c` */ UPDATE users SET name = name")'
    )
    answer = rehearse(copied, "--format", "markdown")
    assert "| up to revision | time | others wait at most | grows by |" in answer.out
    for driven in ("<img", "@everyone", "[a](b)", "`c`"):
        assert driven not in answer.out


def test_a_targets_own_database_is_refused_whatever_it_is_called(copied) -> None:
    url = make_url(copied.url)
    if copied.kind == "sqlite":
        link = copied.folder / "another name.db"
        link.symlink_to(str(url.database))
        other = url.set(database=str(link))
    else:
        other = url.set(host={"127.0.0.1": "localhost"}.get(str(url.host), "127.0.0.1"))
    for each in (url, other):
        own = each.render_as_string(hide_password=False)
        answer = rehearse(copied, AUTOMIGRATOR_COPY_URL=own)
        assert (answer.code, heads(copied.url)) == (7, {"r3"})
        assert "itself, and no copy; nothing was changed" in answer.err


def test_a_target_that_cannot_be_asked_is_refused_unless_it_is_said_to_be_another(copied) -> None:
    gone = "postgresql+asyncpg://nobody@127.0.0.1:1/app"
    if copied.kind == "sqlite":
        pytest.skip("a file can be asked, or is not there")
    copied.configure(target="connect_timeout=1")
    answer = rehearse(copied, APP_URL=gone)
    assert answer.code == 7 and "(--apart)" in answer.err and heads(copied.copy) == {"r3"}
    answer = rehearse(copied, "--apart", APP_URL=gone)
    assert answer.code == 0 and heads(copied.copy) == {"r4"}
    assert "how many would wait is not known" in answer.out


def test_without_a_copy_or_without_an_answer_nothing_is_done(on_sqlite) -> None:
    answer = on_sqlite.automigrator("rehearse", "--yes")
    assert answer.code == 2 and "AUTOMIGRATOR_COPY_URL" in answer.err
    answer = on_sqlite.automigrator("rehearse", "--on", "sqlite+aiosqlite:///copy.db")
    assert answer.code == 2 and "Add --yes" in answer.err
    answer = on_sqlite.automigrator("rehearse", "--yes", "--on", "sqlite+aiosqlite:///none.db")
    assert answer.code == 7 and "does not exist" in answer.err
    assert not (on_sqlite.folder / "none.db").exists()


def test_a_password_is_taken_from_a_file_and_never_shown(on_sqlite, tmp_path: Path) -> None:
    secret = "SECRET-OF-THE-COPY"
    url = f"postgresql+asyncpg://someone:{secret}@127.0.0.1:1/copy"
    answer = on_sqlite.automigrator("rehearse", "--yes", "--on", url)
    assert answer.code == 2 and secret not in answer.err and "--on-file" in answer.err
    file = tmp_path / "copy.url"
    file.write_text(url)
    file.chmod(0o600)
    on_sqlite.configure(target="connect_timeout=1")
    answer = on_sqlite.automigrator(
        "rehearse", "--yes", "--on-file", str(file), "--apart", "--json"
    )
    assert answer.code == 5 and secret not in answer.out + answer.err


def test_rows_larger_in_the_application_than_in_the_copy_are_told(copied) -> None:
    if copied.kind == "sqlite":
        pytest.skip("PostgreSQL tells the sizes of tables")
    url = copied.url
    query(url, "insert into users select n, 'x' from generate_series(1, 20000) n returning 1")
    copied.deploy('op.execute("ALTER TABLE users ALTER COLUMN id TYPE BIGINT")')
    answer = rehearse(copied)
    assert "times as large: expect about" in answer.out, answer
