"""An ini is read as `configparser` reads it, and a plain one without it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.alembic_projects import project

from automigrator.migrations.static.ini import options_of, plain

HERE = "/srv/the app"

LINES = st.one_of(
    st.sampled_from(
        [
            "[alembic]",
            "[alembic]]",
            "[other] ; x",
            "[DEFAULT]",
            "[]",
            "",
            " ",
            "# a comment",
            " ; another",
            "script_location = %(here)s/migrations",
            "Script_Location:here",
            "here = elsewhere",
            "file_template = %%(rev)s_%%(slug)s",
            "x = %(y)s",
            "x = 100%",
            "y",
            "= z",
            "y =",
            "    continued",
            "a = b ; c",
            "u = a:b=c",
            "\ufeffv = 1",
        ]
    ),
    st.text("[]ah= :%()s;#\t\x0c\x1c\u2028", max_size=12),
)


def by_configparser(text: str, section: str) -> dict[str, str] | None:
    """None where it raises, for any option of the section."""
    parser = configparser.ConfigParser({"here": HERE})
    try:
        parser.read_string(text)
        found = dict(parser[section]) if parser.has_section(section) else {}
    except configparser.Error:
        return None
    return found


def agree(text: str) -> bool:
    found = plain(text, "alembic", HERE)
    return found is None or by_configparser(text, "alembic") in (found, {**found, "here": HERE})


@given(st.lists(LINES, max_size=8).map("\n".join))
def test_a_plain_ini_has_the_options_that_configparser_finds(text: str) -> None:
    assert agree(text)


@pytest.mark.parametrize(
    "lines",
    [
        "a = b\n  c = d",
        "a = b\nA = c",
        "A = b",
        "a = b\n[alembic]\nc = d",
        "a = b\n[DEFAULT]\nc = d",
        "[a]b]\nc = d",
        "a = 100%",
        "a = %%(here)s %(here)s",
        "here = x\na = %(here)s",
        "a:b=c\nd=e:f",
        "[]\na = b",
        "a",
        "= a",
        "a =",
    ],
)
def test_so_has_one_that_looks_plain(lines: str) -> None:
    assert agree(f"[alembic]\n{lines}") and agree(lines)


@pytest.mark.parametrize("template", ["generic", "async", "pyproject"])
def test_those_of_alembics_own_templates_are_plain(template: str, tmp_path: Path) -> None:
    project(tmp_path, template, "sqlite://")
    ini = (tmp_path / "alembic.ini").read_text()
    assert plain(ini, "alembic", str(tmp_path)) is not None


def test_any_other_ini_is_read_by_configparser(tmp_path: Path) -> None:
    ini = tmp_path / "alembic.ini"
    ini.write_text("[DEFAULT]\nroot = app\n[alembic]\nlist = a\n  b\nplace = %(root)s/%(here)s\n")
    options = options_of(ini, "alembic")
    assert (options["list"], options["place"]) == ("a\nb", f"app/{tmp_path}")
    assert "absent" not in options and options_of(ini, "other") == {}
    assert options_of(tmp_path / "absent.ini", "alembic") == {}


def test_a_folder_with_a_percent_sign_is_left_to_configparser() -> None:
    assert plain("[alembic]\na = %(here)s", "alembic", "/50%") is None
