"""The plugin for Litestar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.plugins import CLIPlugin, InitPluginProtocol

from automigrator import Migrator
from automigrator.runner.records.one_start import one_start


class AutomigratorPlugin(InitPluginProtocol, CLIPlugin):
    """Plugin: migrate before anything of the application starts.

    `litestar run` migrates once, before it starts a worker. Under every server the migration comes
    first in the application's lifespan, where a worker mostly finds nothing to do. What has failed
    before `litestar run` started its workers, they do not try again.
    `migrator`: what runs.
    """

    def __init__(self, migrator: Migrator) -> None:
        self.migrator = migrator

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Put the migration before every other lifespan, those of other plugins included."""
        app_config.lifespan.insert(0, self.migrator.lifespan)
        return app_config

    @contextmanager
    def server_lifespan(self, app: Litestar) -> Iterator[None]:
        """Context manager: migrate before `litestar run` starts its server."""
        with one_start():
            self.migrator.run_sync()
            yield
