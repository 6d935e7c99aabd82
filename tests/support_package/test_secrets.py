"""A secret is masked however it is spelled, and a text that somebody else wrote costs no time."""

from __future__ import annotations

import html
import json
import shlex
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from automigrator import Target
from automigrator.support import redaction, secrets, urls
from automigrator.target import passwords_of

OWN = "p%t's \"é\\/@ w:d+9"
"""A password with everything that some language writes differently."""
FOREIGN = "hunter2hunter2"

SPELLED = {
    "plain": OWN,
    "quoted": quote(OWN, ""),
    "quoted, with slashes": quote(OWN),
    "as a form": quote_plus(OWN),
    "in lower-case hex": quote(OWN, "").replace("%C3%A9", "%c3%a9").replace("%2F", "%2f"),
    "for an ini": quote(OWN, "").replace("%", "%%"),
    "plain, for an ini": OWN.replace("%", "%%"),
    "repr": repr(OWN)[1:-1],
    "JSON": json.dumps(OWN)[1:-1],
    "JSON as it is": json.dumps(OWN, ensure_ascii=False)[1:-1],
    "SQL": OWN.replace("'", "''"),
    "shell": shlex.quote(OWN)[1:-1],
    "repr of bytes": repr(OWN.encode())[2:-1],
    "in Latin-1": quote(OWN.encode("latin-1"), ""),
    "quoted twice": quote(quote(OWN, ""), ""),
    "ASCII": ascii(OWN)[1:-1],
    "a name in SQL": OWN.replace('"', '""'),
    "E'' in SQL": OWN.replace("\\", "\\\\").replace("'", "''"),
    "a .pgpass": OWN.replace("\\", "\\\\").replace(":", "\\:"),
    "HTML": html.escape(OWN),
    "base64": b64encode(OWN.encode()).decode(),
}


def lower_hex(text: str) -> str:
    return "".join(
        f"%{part[:2].lower()}{part[2:]}" if number else part
        for number, part in enumerate(text.split("%"))
    )


SPELLED["in lower-case hex"] = lower_hex(quote(OWN, ""))


@pytest.mark.parametrize("how", SPELLED)
def test_the_targets_own_password_is_masked_however_it_is_spelled(how: str) -> None:
    assert secrets.scrubbed(f"it said <{SPELLED[how]}>", OWN) == "it said <***>"


@pytest.mark.parametrize("end", ["", "…", "..."])
def test_a_password_that_was_cut_short_is_masked(end: str) -> None:
    assert secrets.scrubbed(f"it said {OWN[:9]}{end}", OWN) == f"it said ***{end}"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{FOREIGN}@h/d",
        f"postgresql://me:a@{FOREIGN}@h/d",
        f"postgresql://me:a {FOREIGN} b@h/d",
        f"postgresql://me:a/{FOREIGN}@h/d",
        f"postgresql://:{FOREIGN}@h/d",
        f"me:a@{FOREIGN}@h",
        f"postgresql://{FOREIGN * 2}@h/d",
        f"postgresql://{FOREIGN * 2}:@h/d",
        f"?api_key={FOREIGN}",
        f"?key={FOREIGN}&x=1",
        f"apikey: {FOREIGN}",
        f"PRAGMA key = '{FOREIGN}'",
        f"PRAGMA rekey='{FOREIGN}'",
        f"PRAGMA hexkey {FOREIGN}",
        f"password=b'{FOREIGN}'",
        f"{{'password': b'{FOREIGN}'}}",
        f'{{"db_password": "{FOREIGN}"}}',
        f"password: {FOREIGN}",
        f"  db_password = {FOREIGN}",
        f"PGPASSWORD={FOREIGN}",
        f"Authorization: Bearer {FOREIGN}",
        f"Authorization: Basic {FOREIGN}",
        f"'authorization': 'Token {FOREIGN}'",
        f"psql --password {FOREIGN}",
        f"psql --db-password={FOREIGN}",
        f"ALTER ROLE me PASSWORD '{FOREIGN}'",
        f"ALTER ROLE me PASSWORD E'{FOREIGN}'",
        f"IDENTIFIED BY '{FOREIGN}'",
        f"X-Amz-Signature={FOREIGN}",
        f"X-Amz-Security-Token={FOREIGN}&",
        f"aws_secret_access_key={FOREIGN}",
        f"sslpassword={FOREIGN}",
        f"dsn='host=h password={FOREIGN}'",
        f"odbc_connect=DRIVER=x;PWD={FOREIGN};",
        f"options=-c app.token={FOREIGN}",
        f"passphrase='{FOREIGN}",
        f"('password', '{FOREIGN}')",
        f"set_config('app.password', '{FOREIGN}', false)",
        f"SET app.token TO '{FOREIGN}'",
        f"the password is '{FOREIGN}'",
        f'password "{FOREIGN}"',
        f"<password>{FOREIGN}</password>",
        f"password => {FOREIGN}",
        f"password := '{FOREIGN}'",
        f"db_pass: |\n  {FOREIGN}",
        f"pw={FOREIGN}",
        f"PGPASSWORD: {FOREIGN}",
        f"Cookie: session={FOREIGN}",
        f"it sent Bearer {FOREIGN}",
        f"//me:{FOREIGN}@h/d",
        f"https://h/x?sig={FOREIGN}&se=1",
        f"AccountKey={FOREIGN};",
        f"PASSWORD $${FOREIGN}$$",
        f"PASSWORD $x${FOREIGN}$x$",
        f"SCRAM-SHA-256$4096:{FOREIGN}$a:b",
        f"CONNECTION 'host=h password=''{FOREIGN}'''",
        f"eyJhbGciOiJIUzI1NiJ9.{FOREIGN}.x",
        f"-----BEGIN PRIVATE KEY-----\n{FOREIGN}\n-----END PRIVATE KEY-----",
    ],
)
def test_what_is_named_as_a_secret_is_masked(text: str) -> None:
    told = secrets.scrubbed(f"it failed: {text}")
    assert FOREIGN not in told
    assert "***" in told


@pytest.mark.parametrize(
    "text",
    [
        "log-and-continue passes: the database is damaged",
        'password authentication failed for user "app"',
        "FATAL: no pg_hba.conf entry for host 10.0.0.1, user app",
        'duplicate key value violates unique constraint "users_key"',
        "column tokens.id does not exist",
        "postgresql+asyncpg://app@localhost:5432/app",
        "no such table: pass_through",
        "Can't locate revision identified by 'nope'",
        "in line 3: see https://docs.sqlalchemy.org/20/e3q8",
        "run alembic --config alembic.ini upgrade head",
    ],
)
def test_what_is_no_secret_is_told(text: str) -> None:
    assert secrets.scrubbed(text) == text


@pytest.mark.parametrize("given", ["app", "app_ow", "production"])
def test_a_mask_does_not_tell_a_password_that_is_part_of_a_name(given: str, tmp_path: Path) -> None:
    target = Target(f"postgresql://app_owner:{given}@host/production_app", tmp_path)
    text = "database production_app of role app_owner"
    assert secrets.scrubbed(text, *passwords_of(target)) == text
    assert given not in secrets.scrubbed(f"password={given}", *passwords_of(target))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me@h/d?password={FOREIGN}",
        f"postgresql://{FOREIGN * 2}@h/d",
        f"postgresql://me@h/d?dsn=postgresql://me:{FOREIGN}@h/d",
        f"postgresql://me@h/d?conninfo=host%3Dh%20password%3D{FOREIGN}",
        f"postgresql://me@h/d?options=-capp.token%3D{FOREIGN}",
        f"postgresql://me@h/d?server_settings=app.secret%3D{FOREIGN}",
        f"mssql+aioodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3D{FOREIGN}",
    ],
)
def test_a_secret_in_a_url_is_not_rendered_and_is_masked_in_texts(url: str) -> None:
    parsed = urls.parse(url)
    assert FOREIGN not in urls.rendered(parsed)
    assert FOREIGN not in secrets.scrubbed(f"it said {FOREIGN * 2}", *urls.secrets_of(parsed))


@pytest.mark.parametrize(
    "arguments",
    [
        {"password": FOREIGN},
        {"sslpassword": FOREIGN.encode()},
        {"server_settings": {"app.token": FOREIGN}},
        {"headers": {"Authorization": FOREIGN}},
        {"dsn": f"postgresql://me:{FOREIGN}@h/d"},
        {"conninfo": f"host=h password='{FOREIGN}'"},
    ],
)
async def test_what_an_engine_is_given_is_masked(
    arguments: dict[str, object], tmp_path: Path
) -> None:
    engine = create_async_engine("postgresql+asyncpg://me@h/d", connect_args=arguments)
    assert FOREIGN not in secrets.scrubbed(
        f"it said {FOREIGN}", *passwords_of(Target(engine, tmp_path))
    )


DSN = f"postgresql://me:{FOREIGN}@h/d"
TOKEN, AUTHOR = FOREIGN, "me"


async def by_a_global() -> object:
    return DSN, AUTHOR


async def by_a_token() -> object:
    return TOKEN


def by_a_variable() -> Callable[[], Any]:
    password = FOREIGN

    async def connect() -> object:
        return password

    return connect


@pytest.mark.parametrize(
    "options",
    [
        {"async_creator": by_a_global},
        {"async_creator": by_a_variable()},
        {"async_creator": partial(by_a_token, password=FOREIGN)},
        {"connect_args": {"password": by_a_token}},
    ],
    ids=["a global", "a variable", "a partial", "a password that is a function"],
)
async def test_what_an_engines_own_function_connects_with_is_masked(
    options: dict[str, Any], tmp_path: Path
) -> None:
    engine = create_async_engine("postgresql+asyncpg://me@h/d", **options)
    known = passwords_of(Target(engine, tmp_path))
    assert secrets.scrubbed(f"me said {FOREIGN}", *known) == "me said ***"


@pytest.mark.long(
    "invalid input", "PRIVATE KEY", "--password", "[token", "PRAGMA key", "password='", '["]'
)
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part",
    [
        *("pass", "://a:", "<class '", "invalid input syntax for ", "password='", "a.", "token "),
        *("--password ", "PRAGMA key ", "'x", '"', "-----BEGIN PRIVATE KEY-----", "a:", "@", " "),
    ],
)
def test_a_long_text_is_answered_in_time(part: str) -> None:
    """What takes a millisecond for 20 kB must not take hours for some megabytes."""
    text = part * 1_000_000
    error = ValueError(text)
    assert len(redaction.said(error, [OWN])) < 2 * secrets.LIMIT
    redaction.hide_secrets(error, [OWN])
    assert len(str(error)) < 2 * secrets.LIMIT
