"""How PostgreSQL's own programs connect as the application does: libpq's environment."""

from __future__ import annotations

import importlib
import inspect
import os
import ssl
from collections.abc import Mapping
from typing import Any

from automigrator.backends.access import Access
from automigrator.errors import RefusedError
from automigrator.support.postgresql_urls import options_of_dsn, with_settings

# asyncpg's arguments, libpq's, and those that SQLAlchemy gives to either
_PARAMETERS = """
    host hostaddr port user database dbname password passfile service options sslmode sslrootcert
    sslcert sslkey sslcrl sslnegotiation channel_binding gssencmode krbsrvname gsslib
    target_session_attrs require_auth
"""

_ADVICE = "nothing was changed. Use copy='template', or give the target a URL with migrate_with="


async def environment(access: Access, application_name: str) -> dict[str, str]:
    """Return the environment of a child process.

    It may hold a password, which command lines and logs never do. Raises RefusedError where the
    application connects with something that libpq cannot be given.
    """
    given = await access.arguments()
    if given is None:
        raise RefusedError(
            "the application's engine makes its connections with a creator of its own, which "
            f"pg_dump cannot use; {_ADVICE}"
        )
    settings = {**(given.get("server_settings") or {})}
    settings.pop("application_name", None)
    arguments = with_settings(spelled_out(given), settings)
    variables = {
        f"PG{name.replace('dbname', 'database').replace('_', '').upper()}": await _text(value)
        for name, value in arguments.items()
        if name in _PARAMETERS.split() and value is not None
    }
    variables |= _encryption(arguments)
    variables["PGAPPNAME"] = application_name
    return {**os.environ, **variables, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "60"}


def spelled_out(given: Mapping[str, Any], driver: str = "") -> dict[str, Any]:
    """Return a driver's arguments, with those that are in a text of its own among them."""
    arguments = dict(given)
    if driver == "psycopg2" and (text := arguments.pop("dsn", arguments.pop("conninfo", None))):
        return {**importlib.import_module("psycopg2.extensions").parse_dsn(text), **arguments}
    if conninfo := arguments.pop("conninfo", None):
        module = importlib.import_module("psycopg.conninfo")  # only psycopg's URLs have one
        arguments = {**module.conninfo_to_dict(conninfo), **arguments}
    if dsn := arguments.pop("dsn", None):
        inside = options_of_dsn(dsn)
        if "host" in arguments:
            inside.pop("port", None)
        arguments = {**inside, **{name: v for name, v in arguments.items() if v is not None}}
        if "database" in arguments:
            arguments.pop("dbname", None)
    return arguments


async def _text(value: Any) -> str:
    if callable(value):  # asyncpg calls it when a password is needed
        value = value()
    if inspect.isawaitable(value):
        value = await value
    if isinstance(value, list | tuple):
        return ",".join(str(each) for each in value)
    return str(getattr(value, "value", value))


def _encryption(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Translate asyncpg's ssl=; an SSLContext does not tell which files it was made from."""
    value = arguments.get("ssl")
    found = {"PGSSLNEGOTIATION": "direct"} if arguments.get("direct_tls") else {}
    if value is None:
        return found
    if value is False:
        return {**found, "PGSSLMODE": "disable"}
    if isinstance(value, str):
        return {**found, "PGSSLMODE": value}
    if "PGSSLMODE" in os.environ:
        return found
    if isinstance(value, ssl.SSLContext) and value.verify_mode is ssl.CERT_NONE:
        return {**found, "PGSSLMODE": "require"}
    raise RefusedError(
        "pg_dump cannot be told which certificates the application's ssl= trusts; nothing was "
        "changed. Set PGSSLMODE, and PGSSLROOTCERT where it verifies, in the environment"
    )
