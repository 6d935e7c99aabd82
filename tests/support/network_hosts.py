"""Network namespaces as hosts of one network, each of which can be cut off."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A namespace; `command` begins what runs in it."""

    name: str
    link: str

    @property
    def command(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def cut_off(self) -> None:
        """Let nothing in or out, and tell nobody."""
        _ip("link", "set", self.link, "down")


@contextmanager
def hosts(number: int) -> Iterator[tuple[str, str, list[Host]]]:
    """Context manager: the address of this machine in the network, the network, and its hosts.

    Raises PermissionError, with a reason, where namespaces are not allowed.
    """
    if shutil.which("ip") is None:
        raise PermissionError("the program `ip` is not installed")
    tag = uuid.uuid4().hex[:6]
    bridge, network = f"am{tag}", f"10.{int(tag[:2], 16)}.{int(tag[2:4], 16)}"
    made: list[Host] = []
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge")
        except subprocess.CalledProcessError as error:
            raise PermissionError(f"no network may be made here: {error.stderr.strip()}") from None
        _ip("addr", "add", f"{network}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for each in range(number):
            host = Host(f"am{tag}h{each}", f"am{tag}v{each}")
            made.append(host)
            _ip("netns", "add", host.name)
            _ip("link", "add", host.link, "type", "veth", "peer", "eth0", "netns", host.name)
            _ip("link", "set", host.link, "master", bridge, "up")
            _ip("-n", host.name, "addr", "add", f"{network}.{each + 2}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
        yield f"{network}.1", f"{network}.0/24", made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
