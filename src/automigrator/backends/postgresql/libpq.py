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

# asyncpg's words, libpq's, and those that SQLAlchemy gives to either
_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "database": "PGDATABASE",
    "dbname": "PGDATABASE",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "krbsrvname": "PGKRBSRVNAME",
    "gsslib": "PGGSSLIB",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "require_auth": "PGREQUIREAUTH",
}

_SAY = "nothing was changed. Take copy='template', or give the target a URL with migrate_with="


async def environment(access: Access, application_name: str) -> dict[str, str]:
    """The environment of a child process; it may hold a password, which argv and logs never do.

    Raises RefusedError where what the application connects with cannot be told to libpq.
    """
    given = await access.arguments()
    if given is None:
        raise RefusedError(
            "the application's engine makes its connections with a creator of its own, which "
            f"pg_dump cannot use; {_SAY}"
        )
    arguments = _spelled_out(given)
    variables = {
        _VARIABLES[name]: await _text(value)
        for name, value in arguments.items()
        if name in _VARIABLES and value is not None
    }
    variables |= _encryption(arguments)
    if settings := arguments.get("server_settings"):
        variables["PGOPTIONS"] = _options(settings)
    variables["PGAPPNAME"] = application_name
    return {**os.environ, **variables, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "60"}


def _spelled_out(given: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(given)
    words = arguments.pop("conninfo", None)
    if words:
        module = importlib.import_module("psycopg.conninfo")  # whose word it is
        arguments = {**module.conninfo_to_dict(words), **arguments}
    if "dsn" in arguments:
        raise RefusedError(f"pg_dump cannot be told asyncpg's argument dsn=; {_SAY}")
    return arguments


async def _text(value: Any) -> str:
    if callable(value):  # asyncpg asks for a password when it is needed
        value = value()
    if inspect.isawaitable(value):
        value = await value
    if isinstance(value, list | tuple):
        return ",".join(str(each) for each in value)
    return str(getattr(value, "value", value))


def _encryption(arguments: Mapping[str, Any]) -> dict[str, str]:
    """asyncpg's ssl=; an SSLContext cannot be told which files it was made from."""
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


def _options(settings: Mapping[str, Any]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace(" ", "\\ ")

    own = {name: value for name, value in settings.items() if name != "application_name"}
    return " ".join(f"-c {escaped(f'{name}={value}')}" for name, value in own.items())
