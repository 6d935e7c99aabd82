"""A real Chromium for the page; without one these tests are skipped and say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Route

Answers = Mapping[str, Mapping[str, Any]]

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = """
--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
""".split()  # noqa: SIM905 - a list of words, a word each
UNAVAILABLE = "the server responded with a status of 503 (Service Unavailable)"
"""What Chromium logs of the page itself: that answer is what the page is about."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-images", action="store_true", help="write the page into docs/images")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for a file of tests."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium found; Debian has it: apt install chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One visitor's page, and all that it asked for and complained about."""

    def __init__(
        self, browser: Browser, url: str, script: str, answers: Answers, **options: Any
    ) -> None:
        self.url = url
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        if script:
            self.page.add_init_script(script)
        for pattern, answer in answers.items():
            self.page.route(pattern, partial(_answered, answer))

    def _hear(self, message: ConsoleMessage) -> None:
        document = message.location["url"] == self.url and UNAVAILABLE in message.text
        if message.type in ("error", "warning") and not document:
            self.complaints.append(message.text)

    @property
    def elsewhere(self) -> list[str]:
        """The requests that left the host."""
        return [
            each for each in self.requests if urlsplit(each).netloc != urlsplit(self.url).netloc
        ]

    def documents(self) -> int:
        """How often the page itself was asked for."""
        return self.requests.count(self.url)


def _answered(answer: Mapping[str, Any], route: Route) -> None:
    route.fulfill(**answer)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """What serves for as long as the browser looks at it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def visit(chromium: Browser, servers: ExitStack) -> Iterator[Callable[..., Visit]]:
    """`visit(url, **options of the context)`; no visit may complain or go elsewhere.

    `script` runs before the page's own; `answers` are given in the server's place to requests for
    a pattern. A test that provokes a complaint takes it out of `complaints`.
    """
    visits: list[Visit] = []

    def opened(
        url: str, script: str = "", answers: Answers = MappingProxyType({}), **options: Any
    ) -> Visit:
        visits.append(Visit(chromium, url, script, answers, **options))
        visits[-1].page.goto(url)
        return visits[-1]

    yield opened
    for each in visits:
        each.context.close()
    assert [each.complaints for each in visits if each.complaints] == []
    assert [each.elsewhere for each in visits if each.elsewhere] == []
