from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from support.canaries import PASSWORD

from automigrator import ConfigurationError, Migrator, Target
from automigrator.support.redaction import said
from automigrator.target import passwords_of

PLAIN = "postgresql+asyncpg://me@host/app"
ENCODED = quote(PASSWORD, "")
GIVEN = {
    "the URL": {"database": f"postgresql+asyncpg://me:{ENCODED}@host/app"},
    "a URL object": {"database": make_url(PLAIN).set(password=PASSWORD)},
    "the URL's query": {"database": f"{PLAIN}?password={ENCODED}"},
    "a key's in the query": {"database": f"{PLAIN}?sslpassword={ENCODED}"},
    "an engine's URL": {"database": create_async_engine(f"{PLAIN}?password={ENCODED}")},
    "connect_args": {
        "database": create_async_engine(PLAIN, connect_args={"password": PASSWORD}),
    },
    "connect_args of a pool of one": {
        "database": create_async_engine(PLAIN, connect_args={"password": PASSWORD}, pool_size=1),
    },
    "migrate_with": {
        "database": PLAIN,
        "migrate_with": f"postgresql+asyncpg://owner:{ENCODED}@host/app",
    },
    "an engine to migrate with": {
        "database": PLAIN,
        "migrate_with": create_async_engine(PLAIN, connect_args={"password": PASSWORD}),
    },
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_password_is_masked_wherever_it_was_given_and_however_it_is_spelled(
    given: dict[str, Any], tmp_path: Path
) -> None:
    target = Target(config=tmp_path, **given)
    assert PASSWORD in passwords_of(target)
    for spelled in (
        PASSWORD,
        ENCODED,
        make_url(PLAIN).set(password=PASSWORD).render_as_string(False),
    ):
        text = said(RuntimeError(f"cannot use {spelled} here"), passwords_of(target))
        assert "canary" not in text and text.endswith("here")
    assert "canary" not in f"{target} {target!r} {target.url}"


def test_a_database_without_a_password_has_none(tmp_path: Path) -> None:
    engine = create_async_engine("sqlite+aiosqlite://", creator=lambda: None)
    for database in (engine, PLAIN, f"sqlite:///{tmp_path / 'app.db'}"):
        assert passwords_of(Target(database, tmp_path)) == ()


@pytest.mark.parametrize("documented", [Target, Migrator])
def test_help_names_every_option_by_itself(documented: type) -> None:
    options = [name for name in inspect.signature(documented).parameters if name != "self"]
    assert not [name for name in options if f"`{name}`" not in (documented.__doc__ or "")]


@pytest.mark.parametrize(
    ("files", "config"),
    [
        ({"alembic.ini": "[alembic]\nsqlalchemy.url = sqlite://\n"}, "alembic.ini"),
        ({"alembic.ini": "[alembic]\n# script_location = migrations\n"}, "alembic.ini"),
        ({"pyproject.toml": "[project]\nname = 'app'\n"}, "pyproject.toml"),
        ({"alembic.ini": "", "pyproject.toml": "[tool.alembic]\n"}, "alembic.ini"),
    ],
)
def test_a_configuration_that_names_no_revisions_is_refused_when_it_is_given(
    files: dict[str, str], config: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(ConfigurationError, match=f"{config}: there is no script_location"):
        Target(PLAIN, tmp_path / config)


@pytest.mark.parametrize(
    ("files", "config"),
    [
        ({"alembic.ini": "[alembic]\nScript_Location = migrations\n"}, "alembic.ini"),
        ({"alembic.ini": "[other]\nscript_location: migrations\n"}, "alembic.ini"),
        (
            {"alembic.ini": "[alembic]\n", "pyproject.toml": "tool.alembic.script_location = 'm'"},
            "alembic.ini",
        ),
        (
            {"alembic.ini": "[alembic]\nscript_location = m\n", "pyproject.toml": "[tool]\n"},
            "pyproject.toml",
        ),
    ],
)
def test_one_that_may_name_them_is_left_to_alembic(
    files: dict[str, str], config: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    assert Target(PLAIN, tmp_path / config).config == tmp_path / config
