"""The site of the documentation, built, as a visitor's browser sees it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytest.importorskip("furo", reason="furo is not installed")

DOCS = Path(__file__).parents[2] / "docs"
PHONE = {"viewport": {"width": 360, "height": 740}}
PAGES = ["index", "tutorial", "failures", "reference/target", "costs", "how-a-run-goes", "locking"]
"""One of each kind: a landing page, code, wide tables, options, charts, a diagram, long prose."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, built from these pages."""
    folder = tmp_path_factory.mktemp("site")
    build = ["-m", "sphinx", "--fail-on-warning", "--quiet", "-b", "html", str(DOCS), str(folder)]
    subprocess.run([sys.executable, *build], check=True)
    size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    print(f"{len(list(folder.rglob('*.html')))} pages, {size / 1e6:.1f} MB")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    with closing(server.socket):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
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
