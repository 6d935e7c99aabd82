"""Which addresses of schedulers and workers are safe: Dask runs whatever reaches it."""

from __future__ import annotations

import ipaddress

from distributed.security import Security

from automigrator.errors import ConfigurationError

_ADVICE = (
    "A Dask cluster runs every function that reaches it. Use tls:// with a CA of the cluster's own "
    '(tls_ca_file, tls_client_cert, tls_client_key), or "tcp://127.0.0.1:8786" on one machine'
)


def ensure_safe(address: str, security: Security, what: str = "the scheduler") -> None:
    """Raise ConfigurationError for an address that others could read or answer.

    Safe are `tls://` where both sides are known to one CA, `tcp://` on loopback, and `inproc://`.
    """
    scheme, _, place = address.rpartition("://")
    if scheme == "inproc" or (scheme in ("", "tcp") and _is_loopback(place)):
        return
    if scheme != "tls":
        raise ConfigurationError(
            f"{what} is at {address}, which is neither encrypted nor on this machine; nothing was "
            f"changed. {_ADVICE}"
        )
    if not (security.tls_ca_file and security.tls_client_cert):
        raise ConfigurationError(
            f"{what} is at {address}, and no CA, or no certificate of the client's, says whom to "
            f"trust there; nothing was changed. {_ADVICE}"
        )


def _is_loopback(place: str) -> bool:
    host = place.partition("/")[0].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
