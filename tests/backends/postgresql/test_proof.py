"""What arguments to connect prove of the server, and which of two prove less."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from sqlalchemy import create_engine

from automigrator.backends.model_engine import arguments_of, as_arguments
from automigrator.backends.postgresql.proof import proof_of, weaker


def lacks(application: dict[str, Any], own: dict[str, Any], driver: str = "asyncpg") -> str:
    engine = create_engine("postgresql+psycopg://h/db", connect_args=own)
    return weaker(proof_of(application, driver), arguments_of(engine), engine.dialect.driver)


@pytest.fixture(autouse=True)
def nobodys_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGCHANNELBINDING", "PGREQUIREAUTH"):
        monkeypatch.delenv(name, raising=False)


LIBPQ = "psycopg"


@pytest.mark.parametrize(
    ("application", "driver", "own", "what"),
    [
        ({"ssl": "require"}, "asyncpg", {}, "TLS is not required"),
        ({"ssl": "require"}, "asyncpg", {"sslmode": "prefer"}, "TLS is not required"),
        ({"ssl": "verify-ca"}, "asyncpg", {"sslmode": "require"}, "certificate is not verified"),
        ({"ssl": "verify_full"}, "asyncpg", {"sslmode": "verify-ca"}, "the host name is not"),
        ({"ssl": True}, "asyncpg", {"sslmode": "require"}, "certificate is not verified"),
        (
            {"dsn": "postgresql:///?sslmode=verify-full"},
            "asyncpg",
            {"sslmode": "require"},
            "certificate is not verified",
        ),
        (
            {"sslmode": "verify-full", "sslrootcert": "/mine"},
            LIBPQ,
            {"sslmode": "verify-full", "sslrootcert": "system"},
            "trusts other certificates",
        ),
        (
            {"sslmode": "verify-full", "sslrootcert": "/r", "sslcrl": "/c"},
            LIBPQ,
            {"sslmode": "verify-full", "sslrootcert": "/r"},
            "revoked",
        ),
        ({"channel_binding": "require"}, LIBPQ, {"sslmode": "require"}, "channel_binding=require"),
        ({"conninfo": "channel_binding=require"}, LIBPQ, {}, "channel_binding=require"),
        ({"require_auth": "scram-sha-256"}, LIBPQ, {}, "require_auth"),
        ({"require_auth": "!password"}, LIBPQ, {"require_auth": "!md5"}, "require_auth"),
        ({"gssencmode": "require"}, LIBPQ, {}, "gssencmode=require"),
        ({"requirepeer": "postgres"}, LIBPQ, {}, "requirepeer=postgres"),
        ({"service": "mine"}, LIBPQ, {}, "service=mine"),
        ({"sslcertmode": "require"}, LIBPQ, {}, "sslcertmode=require"),
        ({"ssl_min_protocol_version": "TLSv1.3"}, LIBPQ, {}, "protocol_version=TLSv1.3"),
    ],
)
def test_what_proves_less_is_said(
    application: dict[str, Any], driver: str, own: dict[str, Any], what: str
) -> None:
    assert what in lacks(application, own, driver)


@pytest.mark.parametrize(
    ("application", "driver", "own"),
    [
        ({}, "asyncpg", {}),
        ({"ssl": False}, "asyncpg", {}),
        ({"ssl": "prefer"}, "asyncpg", {"sslmode": "disable"}),
        ({"ssl": "require"}, "asyncpg", {"sslmode": "require"}),
        ({"ssl": "require"}, "asyncpg", {"sslmode": "verify-full", "sslrootcert": "system"}),
        ({"ssl": True}, "asyncpg", {"sslmode": "verify-full", "sslrootcert": "system"}),
        ({"ssl": "require"}, "asyncpg", {"host": "/var/run/postgresql"}),
        ({"host": "/var/run/postgresql", "ssl": "require"}, "asyncpg", {}),
        ({"channel_binding": "prefer"}, LIBPQ, {}),
        ({"require_auth": "!password"}, LIBPQ, {"require_auth": "scram-sha-256,md5"}),
        ({"require_auth": "md5,scram-sha-256"}, LIBPQ, {"require_auth": "scram-sha-256"}),
        ({"timeout": 3, "server_settings": {"a.b": "c"}}, "asyncpg", {"connect_timeout": 9}),
        ({"sslcert": "/c", "sslkey": "/k", "keepalives": 1}, LIBPQ, {}),
    ],
)
def test_what_proves_as_much_is_taken(
    application: dict[str, Any], driver: str, own: dict[str, Any]
) -> None:
    assert lacks(application, own, driver) == ""


def test_what_the_environment_says_counts_for_the_drivers_that_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    assert lacks({"ssl": "require"}, {}) == ""
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    assert lacks({"channel_binding": "require"}, {}, LIBPQ) == ""
    assert lacks({}, {"channel_binding": "disable"}, "asyncpg") == ""
    assert "channel_binding" in lacks({}, {"channel_binding": "disable"}, LIBPQ)


def test_a_creators_proof_is_unknown() -> None:
    assert proof_of(None, "asyncpg") is None
    assert as_arguments([], {"async_creator_fn": print}) is None


def test_a_context_that_verifies_nothing_proves_encryption_alone() -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert lacks({"ssl": context}, {"sslmode": "require"}) == ""
    assert lacks({"ssl": context}, {}) != ""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    assert "TLSv1.3" in lacks({"ssl": context}, {"sslmode": "require"})
