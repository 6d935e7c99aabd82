"""The site of the documentation, built, as a visitor's browser sees it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support.pages import DOCS, script

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytest.importorskip("furo", reason="furo is not installed")

versions = script("versions")
OLDER = "0.1.0"
PHONE = {"viewport": {"width": 360, "height": 740}}
PAGES = [
    "index",
    "command-line",
    "tutorial",
    "failures",
    "reference/target",
    "costs",
    "how-a-run-goes",
    "locking",
]
"""A landing page, a terminal, code, wide tables, options, charts, a diagram, long prose."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, built from these pages as two versions."""
    folder = tmp_path_factory.mktemp("site")
    versions.build(folder, {"latest": DOCS.parent, OLDER: DOCS.parent})
    (folder / OLDER / "costs.html").unlink()  # a page that was not there yet
    pages = json.loads((folder / "versions.json").read_text("utf-8"))
    pages[OLDER].remove("costs.html")
    (folder / "versions.json").write_text(json.dumps(pages), "utf-8")
    size = sum(each.stat().st_size for each in (folder / "latest").rglob("*") if each.is_file())
    print(f"{len(pages['latest'])} pages, {size / 1e6:.1f} MB")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    with closing(server.socket):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/latest"
        server.shutdown()


@pytest.mark.parametrize("page", PAGES)
class TestEveryKindOfPage:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_has_no_violation_that_axe_finds(
        self, page: str, scheme: str, site: str, visit: Callable[..., Any]
    ) -> None:
        shown = visit(f"{site}/{page}.html", color_scheme=scheme, reduced_motion="reduce").page
        found = axe.Axe().run(shown)
        assert found.violations_count == 0, found.generate_report()

    def test_fits_into_a_narrow_phone(
        self, page: str, site: str, visit: Callable[..., Any]
    ) -> None:
        shown = visit(f"{site}/{page}.html", **PHONE).page
        assert shown.evaluate("document.documentElement.scrollWidth") == 360

    def test_prints_its_text_alone(self, page: str, site: str, visit: Callable[..., Any]) -> None:
        shown = visit(f"{site}/{page}.html").page
        shown.emulate_media(media="print")
        assert shown.locator("article h1").first.is_visible()
        assert not shown.locator(".sidebar-drawer").is_visible()
        assert not shown.locator(".toc-drawer").is_visible()


def test_a_search_finds_a_page_and_leads_there(site: str, visit: Callable[..., Any]) -> None:
    shown = visit(f"{site}/index.html").page
    shown.locator("input[name=q]").first.fill("headless")
    shown.keyboard.press("Enter")
    shown.locator("#search-results li a").first.wait_for()
    shown.locator("#search-results li a").first.click()
    assert "headless" in shown.locator("article").inner_text().lower()


def test_a_visitor_may_choose_the_dark_page(site: str, visit: Callable[..., Any]) -> None:
    shown = visit(f"{site}/tutorial.html", color_scheme="light").page
    background = "getComputedStyle(document.body).backgroundColor"
    light = shown.evaluate(background)
    shown.locator("button.theme-toggle:visible").first.click()
    assert shown.evaluate(background) != light


class TestAnotherVersion:
    @pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
    def test_shows_the_same_page_there_and_back(
        self, options: dict[str, Any], site: str, visit: Callable[..., Any]
    ) -> None:
        shown = visit(f"{site}/reference/target.html#target-and-its-options", **options).page
        self.choose(shown, OLDER)
        shown.wait_for_url(f"**/{OLDER}/reference/target.html#target-and-its-options")
        assert shown.locator("article h1").inner_text().startswith("Target and its options")
        self.choose(shown, "latest")
        shown.wait_for_url("**/latest/reference/target.html#target-and-its-options")
        shown.go_back()
        assert shown.get_by_label("Version").input_value() == OLDER

    def test_shows_its_first_page_where_it_has_no_such_page(
        self, site: str, visit: Callable[..., Any]
    ) -> None:
        shown = visit(f"{site}/costs.html").page
        self.choose(shown, OLDER)
        shown.wait_for_url(f"**/{OLDER}/index.html")

    def test_is_the_latest_for_who_names_none(self, site: str, visit: Callable[..., Any]) -> None:
        shown = visit(site.removesuffix("latest")).page
        shown.wait_for_url(f"{site}/index.html")

    @staticmethod
    def choose(shown: Any, version: str) -> None:
        select = shown.get_by_label("Version")
        if not select.is_visible() or shown.viewport_size["width"] < 500:
            shown.locator("label[for=__navigation]:visible").first.click()
        select.locator(f"option[value='{version}']").wait_for(state="attached")
        select.select_option(version)
