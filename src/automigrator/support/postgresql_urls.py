"""The query of a PostgreSQL URL, translated between libpq's drivers and asyncpg.

What is common to both is written as libpq's options. asyncpg takes most of them only in the text of
its `dsn`, where each name that it does not know is a server setting.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from sqlalchemy import URL, make_url

from automigrator.errors import ConfigurationError

_LIBPQ = frozenset(("", "psycopg", "psycopg_async", "psycopg2", "psycopg2cffi"))


def named(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


_ALIKE = named("host port passfile target_session_attrs krbsrvname gsslib")
"""Both take these, with the same values.

`service` is not: asyncpg reads it in a `dsn` alone, and of its file only the options that it knows.
"""

_ONLY_OF_LIBPQ = named("""
    hostaddr service options channel_binding require_auth requirepeer gssencmode sslcrldir
    sslcertmode sslsni
""")
"""Options that libpq reads in the environment as well, and asyncpg does not."""

_IN_THE_DSN = named("""
    sslrootcert sslcert sslkey sslpassword sslcrl sslnegotiation ssl_min_protocol_version
    ssl_max_protocol_version application_name options
""")
"""Options of libpq that asyncpg takes in its `dsn`; it sends the last two as they are."""

_ONLY_LIBPQ = _IN_THE_DSN | {"sslmode", "dbname", "connect_timeout"}

_MODES = named("disable allow prefer require verify-ca verify-full")

UNSAID: Mapping[str, frozenset[str]] = {
    "channel_binding": named("disable prefer"),
    "gssencmode": named("disable prefer"),
    "sslcertmode": named("allow"),
    "sslsni": named("1"),
    "sslnegotiation": named("postgres"),
    "gssdelegation": named("0"),
    "min_protocol_version": named("3.0"),
    "load_balance_hosts": named("disable"),
    "client_encoding": named("utf8 utf-8 UTF8 UTF-8 auto"),
}
"""Values of libpq's options that ask for no more than asyncpg does."""

TUNING_OF_LIBPQ = named("""
    connect_timeout tcp_user_timeout sslcompression prepare_threshold
    keepalives keepalives_idle keepalives_interval keepalives_count
""")
TUNING_OF_ASYNCPG = named("""
    timeout command_timeout statement_cache_size max_cacheable_statement_size
    max_cached_statement_lifetime prepared_statement_cache_size async_fallback
""")
"""Limits and caches: left out, as they change neither who is reached nor what is done there."""

_OF_SQLALCHEMY = named("plugin")

PLACE = named("host hostaddr port passfile service servicefile target_session_attrs")
"""Options that say who is reached."""

PROOF = named("""
    sslmode sslrootcert sslcert sslkey sslpassword sslcrl sslcrldir sslnegotiation sslcertmode
    sslsni ssl_min_protocol_version ssl_max_protocol_version channel_binding require_auth
    requirepeer gssencmode gssdelegation krbsrvname gsslib
""")
"""Options that say how it is proved."""


def for_async(url: URL, drivername: str) -> URL:
    """The same for an async driver: psycopg where asyncpg cannot be told all that `url` says.

    Raises ConfigurationError.
    """
    try:
        return translated(url, drivername)
    except ConfigurationError:
        if _driver(url.drivername) not in _LIBPQ or importlib.util.find_spec("psycopg") is None:
            raise
    return translated(url, "postgresql+psycopg")


def translated(url: URL, drivername: str, own: URL | None = None) -> URL:
    """Name the same place for another driver, with the same options.

    `own`: the URL that the command line would use. Where it names the same database its options are
    added, except those that say who is reached, and those of how it is proved where `url` says that
    itself or names another host. Raises ConfigurationError for what cannot be said to the other
    driver.
    """
    url = settled(url)
    if own is not None:
        own = settled(own)
        own = own if own.database == url.database else None
    was, now = _driver(url.drivername), _driver(drivername)
    more = own.query if own is not None else {}
    around = _of_the_environment() if was in _LIBPQ and now == "asyncpg" else {}
    if not (url.query or more or around or (url.host and "," in url.host)):
        return url.set(drivername=drivername)
    if not {was, now} <= _LIBPQ | {"asyncpg"}:
        if was == now and not more:
            return url
        names = ", ".join(sorted({*url.query, *more}))
        raise ConfigurationError(f"the URL's {names} cannot be translated for {drivername}")
    if was == now == "asyncpg":
        if wrong := sorted(_ONLY_LIBPQ.intersection(url.query)):
            raise ConfigurationError(
                f"asyncpg takes no {', '.join(wrong)} in a URL; write sslmode as ssl, and the "
                "others in dsn=, or name the driver psycopg"
            )
        _mode_of(url.query.get("ssl"))
        if own is None:
            return url.set(query=_without(url.query, {"timeout"}))
    options = {**around, **_common(url)}
    if own is not None:
        proved = url.host != own.host or not PROOF.isdisjoint(options)
        left_out = PLACE | PROOF if proved else PLACE
        options |= _without(_common(own), left_out)
    if now != "asyncpg":
        query = _without(options, {"prepare_threshold"} if now.startswith("psycopg2") else ())
    else:
        query = _for_asyncpg(url, options)
    for each in filter(None, (url, own)):
        kept = _OF_SQLALCHEMY | (TUNING_OF_ASYNCPG - {"timeout"} if now == "asyncpg" else set())
        query |= {name: each.query[name] for name in kept.intersection(each.query)}
    return url.set(drivername=drivername, query=query)


def settled(url: URL) -> URL:
    """The same, with the names that its query overrides where everybody looks for them."""
    query = dict(url.query)
    libpq = _driver(url.drivername) in _LIBPQ
    dsn = None if libpq else query.get("dsn")
    inside = options_of_dsn(dsn) if isinstance(dsn, str) else {}
    found: dict[str, str] = {}
    for part, name, in_dsn in (
        ("database", "dbname" if libpq else "database", "dbname"),
        ("username", "user", "user"),
        ("password", "password", "password"),
    ):
        if isinstance(value := query.get(name), str):
            found[part] = value
            del query[name]
        elif not getattr(url, part) and in_dsn in inside:
            found[part] = inside[in_dsn]
    return url.set(query=query, **found) if found else url  # type: ignore[arg-type]


def connect_args(url: URL, drivername: str) -> dict[str, float]:
    """The arguments for asyncpg that are no text, and so cannot be in a URL."""
    value = url.query.get("connect_timeout", url.query.get("timeout"))
    if drivername != "postgresql+asyncpg" or not isinstance(value, str):
        return {}
    try:
        seconds = float(value)
    except ValueError:
        raise ConfigurationError(
            f"the URL's limit for connecting is {value!r}, which is no number of seconds"
        ) from None
    return {"timeout": seconds} if seconds > 0 else {}


def options_of_dsn(dsn: str) -> dict[str, str]:
    """What asyncpg reads in its `dsn`, as libpq's options; server settings are among `options`."""
    try:
        url = make_url(re.sub("^postgres:", "postgresql:", dsn))
    except Exception:  # noqa: BLE001 - its text may hold a password
        raise ConfigurationError("the dsn= of the URL cannot be parsed") from None
    options = dict(parse_qsl(dsn.partition("?")[2]))
    if "database" in options:
        options.setdefault("dbname", options.pop("database"))
    parts = url.translate_connect_args(username="user", database="dbname")
    options |= {name: str(value) for name, value in parts.items()}
    known = _ALIKE | _ONLY_LIBPQ - {"connect_timeout"} | {"user", "password", "service"}
    settings = _without(options, known)
    return with_settings(_without(options, settings), settings)


def settings_of_options(options: str) -> dict[str, str] | None:
    """The settings in libpq's `options`; None where it has other switches."""
    words = [re.sub(r"\\(.)", r"\1", each) for each in re.findall(r"(?:\\.|\S)+", options)]
    text = "\0".join(words)
    found = re.findall(r"(?:-c\0?|--)([^\0=]+)=([^\0]*)(?:\0|$)", text)
    rest = re.sub(r"(?:-c\0?|--)([^\0=]+)=([^\0]*)(?:\0|$)", "", text)
    return None if rest else {name.replace("-", "_"): value for name, value in found}


def with_settings(options: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add server settings to those that libpq's `options` has already."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace(" ", "\\ ")

    texts = [f"-c {escaped(f'{name}={value}')}" for name, value in settings.items()]
    if not texts:
        return options
    return {**options, "options": " ".join(filter(None, (options.get("options"), *texts)))}


def apart_from_path(url: URL) -> tuple[URL, str | None]:
    """The URL without the `search_path` that its options set, and that; None where they set none.

    None also where the options have other switches, or set it in asyncpg's `dsn`.
    """
    options = url.query.get("options")
    settings = settings_of_options(options) if isinstance(options, str) else None
    path = settings.pop("search_path", None) if settings else None
    if settings is None or path is None:
        return url, None
    rest = _without(url.query, {"options"})
    return url.set(query=with_settings(rest, settings)), path


def variable(option: str) -> str:
    """The variable of the environment in which libpq looks for an option."""
    return f"PG{option.replace('dbname', 'database').replace('_', '').upper()}"


def _of_the_environment() -> dict[str, str]:
    """What libpq would take from the environment, and asyncpg would not."""
    found = {name: os.environ.get(variable(name), "") for name in _ONLY_OF_LIBPQ}
    found = {name: value for name, value in found.items() if value}
    if os.environ.get("PGSSLROOTCERT") == "system":
        found["sslrootcert"] = "system"
    if os.environ.get("PGREQUIRESSL", "")[:1] == "1" and not os.environ.get("PGSSLMODE"):
        found["sslmode"] = "require"  # the old name of it
    return found


def _driver(drivername: str) -> str:
    return drivername.partition("+")[2]


def _without(query: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    left_out = set(names)
    return {name: value for name, value in query.items() if name not in left_out}


def _common(url: URL) -> dict[str, str]:
    """The query as libpq's options, with SQLAlchemy's two ways to name several hosts as one."""
    options: dict[str, str] = {}
    query = {k: v for k, v in url.query.items() if k not in _OF_SQLALCHEMY}
    if isinstance(hosts := query.get("host"), tuple):
        pairs = zip(*(host.partition(":")[::2] for host in hosts), strict=True)
        options["host"], options["port"] = map(",".join, pairs)
        del query["host"]
    if isinstance(ports := query.get("port"), tuple):
        query["port"] = ",".join(ports)
    for name, value in query.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"the URL says {name} twice")
        options[name] = value
    return _of_asyncpg(url, options) if _driver(url.drivername) == "asyncpg" else options


def _of_asyncpg(url: URL, query: dict[str, str]) -> dict[str, str]:
    rest = dict(query)
    options = options_of_dsn(rest.pop("dsn")) if "dsn" in rest else {}
    said = {"user", "password", "dbname", *(("host", "port") if url.host else ())}
    options = _without(options, said)  # the URL's own parts say these; see `settled`
    if mode := _mode_of(rest.pop("ssl", None)):
        options["sslmode"] = mode
    if rest.pop("direct_tls", None):
        options["sslnegotiation"] = "direct"
    rest = _without(rest, TUNING_OF_ASYNCPG)
    _ensure_known(rest, _ALIKE, "libpq")
    return {**options, **rest}


def _mode_of(ssl: Any) -> str | None:
    """Spell asyncpg's mode as libpq does."""
    if ssl is None:
        return None
    mode = str(ssl).replace("_", "-")
    if mode not in _MODES:
        raise ConfigurationError(
            f"the URL's ssl={mode} is none of {', '.join(sorted(_MODES))}; asyncpg's other "
            "values go into connect_args"
        )
    return mode


def _for_asyncpg(url: URL, options: dict[str, str]) -> dict[str, str]:
    rest = _without(options, TUNING_OF_LIBPQ)
    if "fallback_application_name" in rest:
        rest.setdefault("application_name", rest.pop("fallback_application_name"))
    rest = {k: v for k, v in rest.items() if v and v not in UNSAID.get(k, ())}
    if "hostaddr" in rest and not (url.host or "host" in rest):
        rest["host"] = rest.pop("hostaddr")
    mode = rest.pop("sslmode", None)
    if rest.get("sslrootcert") == "system":
        raise ConfigurationError(
            "the URL's sslrootcert=system cannot be said to asyncpg in a URL; name a file"
        )
    _ensure_known(rest, _ALIKE | _IN_THE_DSN, "asyncpg")
    inside = {name: rest.pop(name) for name in sorted(_IN_THE_DSN.intersection(rest))}
    query = {**rest, **({"ssl": mode} if mode else {}), **_each_with_its_port(url, rest)}
    if inside:
        query["dsn"] = "postgresql:///?" + urlencode(inside, quote_via=quote)
    return query


def _each_with_its_port(url: URL, options: Mapping[str, str]) -> dict[str, str]:
    """asyncpg wants a port for each of several hosts, where libpq has a default."""
    hosts = (options.get("host") or url.host or "").split(",")
    if len(hosts) == 1:
        return {}
    usual = os.environ.get("PGPORT") or "5432"
    if "host" not in options and url.port is not None:
        usual = str(url.port)
    ports = options.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    return {"host": ",".join(hosts), "port": ",".join(port or usual for port in ports)}


def _ensure_known(options: Mapping[str, str], known: frozenset[str], whom: str) -> None:
    if unknown := sorted(options.keys() - known):
        around = [name for name in unknown if os.environ.get(variable(name)) == options[name]]
        names = [variable(name) if name in around else f"the URL's {name}" for name in unknown]
        raise ConfigurationError(
            f"{', '.join(names)} cannot be translated for {whom}; nothing was "
            "changed. Leave it out, or give a URL that names a driver that takes it"
        )
