"""What the application's driver connects with, in libpq's words, for others to connect alike.

They prove no less of the server than the application, and are led nowhere else: they get what its
driver was given and what that read in the environment, and no other variable of libpq's. What they
cannot be told is refused.
"""

from __future__ import annotations

import importlib
import inspect
import os
import ssl
from collections.abc import Mapping
from typing import Any

from automigrator.backends.access import Access
from automigrator.errors import RefusedError
from automigrator.support.postgresql_urls import (
    TUNING_OF_ASYNCPG,
    TUNING_OF_LIBPQ,
    UNSAID,
    named,
    options_of_dsn,
    variable,
    with_settings,
)

_SINCE = {
    **dict.fromkeys(
        ("channel_binding", "ssl_min_protocol_version", "ssl_max_protocol_version"), 13
    ),
    **dict.fromkeys(("sslcrldir", "sslsni"), 14),
    **dict.fromkeys(("require_auth", "sslcertmode"), 16),
    **dict.fromkeys(("sslnegotiation", "gssdelegation"), 17),
    **dict.fromkeys(("min_protocol_version", "max_protocol_version"), 18),
}
"""The versions of libpq that read a variable first; older ones pass over it."""

_EXPRESSIBLE = _SINCE.keys() | named("""
    host hostaddr port user password dbname passfile options sslmode sslrootcert sslcert sslkey
    sslcrl gssencmode krbsrvname gsslib target_session_attrs requirepeer
""")

_READ_BY_ASYNCPG = named("""
    host port user password dbname passfile sslmode sslrootcert sslcert sslkey sslcrl
    sslnegotiation ssl_min_protocol_version ssl_max_protocol_version target_session_attrs
    krbsrvname gsslib
""")
"""Options that asyncpg takes from the environment as libpq does."""

_PLACES_OF_ASYNCPG = "/run/postgresql,/var/run/postgresql,/tmp,/private/tmp,localhost"
"""Where it looks for a server by default, in this order; libpq looks in one folder of its build."""

_NEGOTIATION = "sslnegotiation"

_NOT_OF_THE_SERVER = (
    TUNING_OF_LIBPQ
    | TUNING_OF_ASYNCPG
    | named("""
    application_name fallback_application_name client_encoding load_balance_hosts sslkeylogfile
    loop connection_class record_class prepared_statement_name_func servicefile server_settings
    autocommit context row_factory cursor_factory
    """)
)
"""Arguments that change neither who is reached nor how that is proved."""

_ADVICE = (
    "nothing was changed. Use copy='template', or give migrations a URL that can be told to every "
    "client, with sslmode= and sslrootcert= say: Target(migrate_with=...)"
)


async def environment(access: Access, application_name: str) -> dict[str, str]:
    """Return the environment of a child process.

    It may hold a password, which command lines and logs never do. Raises RefusedError where the
    application connects with something that libpq cannot be given.
    """
    options = await _told(access)
    return {
        **without_libpqs(os.environ),
        **{variable(name): value for name, value in options.items()},
        "PGAPPNAME": application_name,
        "LC_ALL": "C",
        "PGCONNECT_TIMEOUT": "60",
    }


async def least_version(access: Access) -> tuple[int, tuple[str, ...]]:
    """Return the oldest version of client programs that can be told all, and what asks for it.

    Raises as `environment` does.
    """
    options = await _told(access)
    since = {
        name: 16 if (name, value) == ("sslrootcert", "system") else _SINCE.get(name, 0)
        for name, value in options.items()
        if value not in UNSAID.get(name, ())
    }
    least = max(since.values(), default=0)
    return least, tuple(name for name, version in since.items() if least and version == least)


def without_libpqs(variables: Mapping[str, str]) -> dict[str, str]:
    """Leave out the variables by which libpq is led."""
    return {name: value for name, value in variables.items() if not name.startswith("PG")}


async def _told(access: Access) -> dict[str, str]:
    given = await access.arguments()
    if given is None:
        raise RefusedError(
            "the application's engine makes its connections with a creator of its own, which "
            f"pg_dump cannot use; {_ADVICE}"
        )
    options = await options_of(given, driver_of(access))
    if untold := sorted(options.keys() - _EXPRESSIBLE):
        raise RefusedError(
            f"pg_dump cannot be told the application's {', '.join(untold)}; {_ADVICE}"
        )
    return options


def driver_of(access: Access) -> str:
    """The name of the driver that connects."""
    given = access.given_engine
    return given.dialect.driver if given is not None else access.url.get_dialect().driver


async def options_of(given: Mapping[str, Any], driver: str) -> dict[str, str]:
    """Return what a driver connects with, as libpq's options; the environment is among it.

    Raises RefusedError for what libpq has no option for.
    """
    settings = {**(given.get("server_settings") or {})}
    settings.pop("application_name", None)
    arguments = with_settings(spelled_out(given, driver), settings)
    if driver == "asyncpg":
        known = {name: os.environ.get(variable(name), "") for name in _READ_BY_ASYNCPG}
        known["host"] = known["host"] or _PLACES_OF_ASYNCPG
        arguments, known = _encryption(arguments, known)
    elif driver in ("psycopg", "psycopg_async"):
        known = _of_psycopgs_libpq()
    else:
        raise RefusedError(f"pg_dump cannot be told what {driver} connects with; {_ADVICE}")
    options = known | {
        name.replace("database", "dbname"): await _text(value)
        for name, value in arguments.items()
        if value is not None and name not in _NOT_OF_THE_SERVER
    }
    return {name: value for name, value in options.items() if value}


def _of_psycopgs_libpq() -> dict[str, str]:
    """What it takes from the environment and a service that is named there."""
    pq = importlib.import_module("psycopg.pq")
    found = {
        each.keyword.decode(): os.fsdecode(each.val)
        for each in pq.Conninfo.get_defaults()
        if each.val and each.val != each.compiled
    }
    return {name: found[name] for name in found.keys() - _NOT_OF_THE_SERVER - {"service"}}


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


def _encryption(
    arguments: dict[str, Any], known: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Translate asyncpg's ssl=; an SSLContext does not tell which files it was made from."""
    value, direct = arguments.pop("ssl", None), arguments.pop("direct_tls", None)
    if direct is not None:
        arguments["sslnegotiation"] = "direct" if direct else "postgres"
    if value is None:
        return arguments, known
    mode = getattr(value, "name", value)
    if isinstance(mode, str):
        return {**arguments, "sslmode": mode.replace("_", "-")}, known
    # no file of the others' is read then
    of_files = {name for name in {*arguments, *known} if name.startswith("ssl")} - {_NEGOTIATION}
    arguments, known = (
        {name: each[name] for name in each.keys() - of_files} for each in (arguments, known)
    )
    if value is False:
        return {**arguments, "sslmode": "disable"}, known
    if not isinstance(value, ssl.SSLContext) or value.verify_mode is not ssl.CERT_NONE:
        raise RefusedError(
            "pg_dump cannot be told which certificates the application's ssl= trusts, as an "
            f"SSLContext does not say; {_ADVICE}"
        )
    least = value.minimum_version
    if least > ssl.TLSVersion.TLSv1_2:
        arguments["ssl_min_protocol_version"] = least.name.replace("_", ".")
    return {**arguments, "sslmode": "require"}, known
