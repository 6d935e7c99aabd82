"""What is done in the place of tests: the release of revisions, the end of the cache."""

from __future__ import annotations

from collections.abc import Callable

from pytest_automigrator import server
from pytest_automigrator.application import Application
from pytest_automigrator.databases import opened
from pytest_automigrator.settings import Settings

Say = Callable[[str], object]


def clear(settings: Settings, say: Say) -> None:
    """Remove every template, and the server's data where nobody uses it."""
    removed = []
    for kind in ("sqlite", *(("postgresql",) if settings.postgresql else ())):
        source = opened(kind, settings.postgresql)
        try:
            removed += source.sweep(0)
        finally:
            source.close()
    for each in (*removed, *server.remove()):
        say(f"removed {each}")
    say("the cache is empty, but for what running sessions use")


def release(settings: Settings, say: Say) -> None:
    """Write the digests of all revisions into the lock file."""
    from pytest_automigrator import releases

    say(releases.write(Application(settings, {})))
