"""What a connection proves of the server: env.py's own must not prove less than the application's.

It compares arguments to connect with; what merely might happen (`sslmode=prefer`) proves nothing.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from automigrator.backends.postgresql.libpq import spelled_out

_TLS = {"require": 1, "verify-ca": 2, "verify-full": 3}

_LACKS = ("", "TLS is not required", "the certificate is not verified", "the host name is not")

_METHODS = frozenset(("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"))

_LEAST_TLS = "ssl_min_protocol_version"

_OTHERS = (
    ("channel_binding", "PGCHANNELBINDING", "require"),
    ("gssencmode", "PGGSSENCMODE", "require"),
    ("requirepeer", "PGREQUIREPEER", None),
    ("service", "PGSERVICE", None),
    ("sslcertmode", "PGSSLCERTMODE", "require"),
    (_LEAST_TLS, "PGSSLMINPROTOCOLVERSION", "TLSv1.3"),
)
"""Options, their variables, and the value that proves something; None for any."""

_PEM = r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----"

_SYSTEMS = frozenset((b"the system's",))


class Proof(NamedTuple):
    """What is certain of a server that a connection was made to."""

    tls: int = 0
    """1: encrypted; 2: the certificate is verified; 3: and the host name."""
    trusted: frozenset[object] = frozenset()
    """The certificates that may have signed the server's."""
    revocation: bool = False
    methods: frozenset[str] = _METHODS
    """The ways to log in that are accepted."""
    others: frozenset[tuple[str, str]] = frozenset()
    """Further options that only the same value can equal."""
    local: bool = False
    """Whether it is a socket of this machine, where nobody stands between."""


def weaker(application: Proof | None, arguments: Mapping[str, Any] | None, driver: str) -> str:
    """Say in what a connection of env.py's proves less; an empty text where in nothing.

    `application`: None where a creator of its own connects; so with `arguments`.
    """
    own = proof_of(arguments, driver) or Proof()
    if application is None:
        return (
            "the application's engine connects with a creator of its own, and nobody can say what "
            "that proves"
        )
    return "; ".join(_lacks(application, own))


def _lacks(application: Proof, own: Proof) -> list[str]:
    lacks = []
    if not own.local and own.tls < application.tls:
        lacks.append(_LACKS[own.tls + 1])
    elif not own.local and application.tls > 1:
        if not own.trusted <= application.trusted:
            lacks.append("it trusts other certificates")
        if application.revocation and not own.revocation:
            lacks.append("it does not ask whether the certificate was revoked")
    if not own.methods <= application.methods:
        lacks.append("its require_auth lets in more")
    others = sorted(application.others - own.others)
    lacks += [f"it has no {name}={value}" for name, value in others]
    return lacks


def proof_of(arguments: Mapping[str, Any] | None, driver: str) -> Proof | None:
    """What the arguments of a driver prove; None for None, which is a creator's."""
    if arguments is None:
        return None
    given = spelled_out(arguments, driver)
    libpq = driver != "asyncpg"
    context = given.get("ssl")
    if isinstance(context, ssl.SSLContext):
        given[_LEAST_TLS] = context.minimum_version.name.replace("_", ".")

    def said(name: str, variable: str) -> str:
        value = given.get(name)
        read = libpq or name == _LEAST_TLS
        return str(value) if value else os.environ.get(variable, "") if read else ""

    hosts = given.get("host")
    hosts = hosts.split(",") if isinstance(hosts, str) else hosts or ()
    local = bool(hosts) and all(str(host).startswith("/") for host in hosts)
    tls, trusted, revocation = (0, _SYSTEMS, False) if local else _tls(given, libpq)
    return Proof(
        tls,
        trusted,
        revocation,
        _methods(said("require_auth", "PGREQUIREAUTH")),
        frozenset(
            (name, value)
            for name, variable, proving in _OTHERS
            if (value := said(name, variable)) and value == (proving or value)
        ),
        local,
    )


def _methods(require_auth: str) -> frozenset[str]:
    names = {name.strip() for name in require_auth.split(",") if name.strip()}
    refused = {name.removeprefix("!") for name in names if name.startswith("!")}
    return _METHODS - refused if refused or not names else frozenset(names)


def _tls(given: Mapping[str, Any], libpq: bool) -> tuple[int, frozenset[object], bool]:
    value = given.get("ssl")
    if value is True:
        value = ssl.create_default_context()
    if isinstance(value, ssl.SSLContext):
        level = 1 if value.verify_mode is ssl.CERT_NONE else 3 if value.check_hostname else 2
        return level, _in_context(value), bool(value.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF)
    if value is False:
        return 0, _SYSTEMS, False
    value = getattr(value, "name", value) or given.get("sslmode") or os.environ.get("PGSSLMODE")
    level = _TLS.get(str(value).replace("_", "-"), 0)
    own = Path("~/.postgresql").expanduser()
    root = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if root is None and (own / "root.crt").exists():
        root = own / "root.crt"
    if level == 1 and root:
        level = 2  # both drivers verify where they are given what to verify with
    if root == "system" and libpq:
        return max(level, 3), _in_context(ssl.create_default_context()), False
    crl = given.get("sslcrl") or given.get("sslcrldir") or os.environ.get("PGSSLCRL")
    crl = crl or (libpq and os.environ.get("PGSSLCRLDIR"))
    return level, _in_file(root), bool(crl) or (own / "root.crl").exists()


def _in_context(context: ssl.SSLContext) -> frozenset[object]:
    trusted = context.get_ca_certs(binary_form=True)
    loaded = context.cert_store_stats()["x509"]
    if loaded > len(trusted):
        return frozenset((id(context),))  # some cannot be shown: equal to no other
    return frozenset(trusted) or _SYSTEMS


def _in_file(file: Any) -> frozenset[object]:
    if file is None:
        return frozenset()
    try:
        found = re.findall(_PEM, Path(file).read_text("utf-8", "replace"), re.DOTALL)
    except OSError:
        return frozenset((str(file),))
    return frozenset(map(ssl.PEM_cert_to_DER_cert, found))
