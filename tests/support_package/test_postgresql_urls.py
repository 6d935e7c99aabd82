"""Options of a PostgreSQL URL are translated between the drivers, or named as what cannot be."""

from __future__ import annotations

import importlib.util

import pytest
from sqlalchemy import make_url

from automigrator.errors import ConfigurationError
from automigrator.support import urls
from automigrator.support.postgresql_urls import connect_args, options_of_dsn, translated

ASYNCPG, PSYCOPG, PSYCOPG2 = (f"postgresql+{each}" for each in ("asyncpg", "psycopg", "psycopg2"))


def options(url: str, drivername: str, own: str | None = None) -> dict[str, object]:
    """The query for another driver, with asyncpg's `dsn` taken apart."""
    found = translated(make_url(url), drivername, make_url(own) if own else None)
    query = dict(found.query)
    if (dsn := query.pop("dsn", None)) is not None:
        assert isinstance(dsn, str)
        query["dsn"] = options_of_dsn(dsn)  # type: ignore[assignment]
    return query  # type: ignore[return-value]


BOTH_WAYS = [
    ("sslmode=require", {"ssl": "require"}),
    ("sslmode=verify-full", {"ssl": "verify-full"}),
    ("sslrootcert=/a b&sslcrl=/c", {"dsn": {"sslrootcert": "/a b", "sslcrl": "/c"}}),
    (
        "sslcert=/c&sslkey=/k&sslpassword=p",
        {"dsn": {"sslcert": "/c", "sslkey": "/k", "sslpassword": "p"}},
    ),
    ("application_name=me", {"dsn": {"application_name": "me"}}),
    ("options=-c a.b=1 -c c=2", {"dsn": {"options": "-c a.b=1 -c c=2"}}),
    ("target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
    ("passfile=/p", {"passfile": "/p"}),
    ("krbsrvname=k", {"krbsrvname": "k"}),
    ("host=a,b&port=1,2", {"host": "a,b", "port": "1,2"}),
    ("host=/var/run/here", {"host": "/var/run/here"}),
]


@pytest.mark.parametrize(("libpq", "asyncpg"), BOTH_WAYS)
def test_an_option_is_translated_there_and_back(libpq: str, asyncpg: dict[str, object]) -> None:
    given = make_url(f"{PSYCOPG}://u@h/db").update_query_string(libpq)
    there = translated(given, ASYNCPG)
    assert options(str(given), ASYNCPG) == asyncpg
    assert translated(there, PSYCOPG) == given


@pytest.mark.parametrize(
    ("given", "drivername", "expected"),
    [
        ("host=a:1&host=b", ASYNCPG, {"host": "a,b", "port": "1,5432"}),
        ("host=a,b&port=7", ASYNCPG, {"host": "a,b", "port": "7,7"}),
        ("hostaddr=::1", ASYNCPG, {"host": "::1"}),
        ("keepalives_idle=3&connect_timeout=5", ASYNCPG, {}),
        ("channel_binding=prefer&gssencmode=disable", ASYNCPG, {}),
        ("prepare_threshold=0", PSYCOPG2, {}),
        ("prepare_threshold=0", PSYCOPG, {"prepare_threshold": "0"}),
        ("sslmode=require", PSYCOPG2, {"sslmode": "require"}),
    ],
)
def test_libpqs_own_is_spelled_out_and_what_changes_nothing_is_left_out(
    given: str, drivername: str, expected: object
) -> None:
    assert options(f"{PSYCOPG}:///db?{given}", drivername) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ssl=verify_ca", {"sslmode": "verify-ca"}),
        ("direct_tls=1", {"sslnegotiation": "direct"}),
        ("prepared_statement_cache_size=0&command_timeout=9&statement_cache_size=0", {}),
        ("dsn=postgresql://x/y%3Ftimezone%3DAsia/Tokyo", {"options": "-c timezone=Asia/Tokyo"}),
    ],
)
def test_asyncpgs_own_is_spelled_out_and_what_changes_nothing_is_left_out(
    given: str, expected: object
) -> None:
    assert options(f"{ASYNCPG}://h/db?{given}", PSYCOPG) == expected


def test_several_hosts_in_the_urls_own_place_are_taken_apart_for_asyncpg() -> None:
    given = urls.parse("postgresql://u@a,b:33/db")
    assert urls.with_async_driver(given).query == {"host": "a,b", "port": "33,33"}


@pytest.mark.parametrize("driver", [PSYCOPG, "postgresql"])
def test_the_database_user_and_password_of_a_query_become_the_urls(driver: str) -> None:
    url = urls.with_async_driver(urls.parse(f"{driver}://a:b@h/c?user=me&password=mine&dbname=db"))
    assert (url.username, url.password, url.database) == ("me", "mine", "db")
    assert not url.query


def test_a_limit_for_connecting_is_an_argument_of_asyncpg_and_no_text() -> None:
    assert connect_args(make_url("postgresql://h/db?connect_timeout=5"), ASYNCPG) == {"timeout": 5}
    assert connect_args(make_url("postgresql://h/db?connect_timeout=5"), PSYCOPG) == {}
    with pytest.raises(ConfigurationError, match="'soon'"):
        connect_args(make_url("postgresql://h/db?connect_timeout=soon"), ASYNCPG)


def test_a_url_that_names_psycopg_keeps_it() -> None:
    assert urls.with_async_driver(urls.parse(f"{PSYCOPG}://h/db")).drivername == PSYCOPG


@pytest.mark.parametrize(
    "option",
    [
        *("channel_binding=require", "require_auth=scram-sha-256", "requirepeer=postgres"),
        *("gssencmode=require", "sslrootcert=system", "sslcrldir=/d", "hostaddr=::1"),
        *("service=s", "replication=database", "sslsni=0", "sslcertmode=require", "unheard_of=1"),
    ],
)
def test_what_asyncpg_cannot_be_told_is_named_and_psycopg_taken_where_it_is_there(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = urls.parse(f"postgresql://h/db?{option}")
    assert urls.with_async_driver(url) == url.set(drivername=PSYCOPG)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=option.partition("=")[0]):
        urls.with_async_driver(url)


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("PGREQUIREAUTH=scram-sha-256", None),
        ("PGCHANNELBINDING=require", None),
        ("PGHOSTADDR=::1", None),
        ("PGSERVICE=s", None),
        ("PGSSLROOTCERT=system", None),
        ("PGCHANNELBINDING=prefer", {}),
        ("PGSSLMODE=require", {}),  # asyncpg reads it as well
        ("PGREQUIRESSL=1", {"ssl": "require"}),
        ("PGOPTIONS=-c a.b=1", {"dsn": {"options": "-c a.b=1"}}),
    ],
)
def test_what_libpq_alone_reads_in_the_environment_is_told_to_asyncpg_or_psycopg_is_taken(
    variable: str, found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    url = urls.parse("postgresql+psycopg2://u@h/db")
    taken = urls.with_async_driver(url)
    assert taken.drivername == (PSYCOPG if found is None else ASYNCPG)
    if found is not None:
        assert options(str(url), ASYNCPG) == found
        return
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=f"{name}|sslrootcert=system"):
        urls.with_async_driver(url)


@pytest.mark.parametrize(
    ("given", "drivername", "named"),
    [
        (f"{ASYNCPG}://h/db?servicefile=/f", PSYCOPG, "servicefile"),
        (f"{ASYNCPG}://h/db?ssl=true", PSYCOPG, "ssl=true"),
        (f"{ASYNCPG}://h/db?server_settings=x", PSYCOPG2, "server_settings"),
        (f"{ASYNCPG}://h/db?sslmode=require", ASYNCPG, "sslmode"),
        (f"{ASYNCPG}://h/db?ssl=on", ASYNCPG, "ssl=on"),
        (f"{PSYCOPG}://h/db?options=a&options=b", ASYNCPG, "options twice"),
        (f"{PSYCOPG}://h/db?sslmode=require", "postgresql+pg8000", "sslmode"),
    ],
)
def test_what_cannot_be_translated_is_named(given: str, drivername: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        translated(make_url(given), drivername)


@pytest.mark.parametrize(
    ("own", "added"),
    [
        ("u@h/db?options=-c a.b%3D1", {"options": "-c a.b=1"}),
        ("u@h/db?sslmode=require", {"sslmode": "require"}),
        ("u@elsewhere/db?sslmode=disable", {}),
        ("u@elsewhere/other?options=-c a.b%3D1", {}),
        ("u@h/db?host=elsewhere&service=s&passfile=/p", {}),
    ],
)
def test_the_configurations_own_options_are_added_where_they_are_this_databases(
    own: str, added: object
) -> None:
    assert options(f"{ASYNCPG}://h/db", PSYCOPG, f"{PSYCOPG}://{own}") == added


def test_how_the_server_is_proved_is_the_targets_word() -> None:
    own = f"{PSYCOPG}://h/db?sslmode=disable&sslrootcert=/mine"
    assert options(f"{ASYNCPG}://h/db?ssl=require", PSYCOPG, own) == {"sslmode": "require"}


def test_secrets_in_asyncpgs_dsn_are_never_rendered() -> None:
    url = urls.with_async_driver(urls.parse("postgresql://u@h/db?sslpassword=can%2Fary"))
    assert url.drivername == ASYNCPG
    assert "can" not in urls.rendered(url)
    assert "can/ary" in set(urls.secrets_of(url))
