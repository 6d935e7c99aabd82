"""The page in a real Chromium, while real migrations run in a real server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.shop_served import HISTORY, Shop

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

expect = api.expect
expect.set_options(timeout=30_000)

DOCS = Path(__file__).parents[2] / "docs"
THIRD, SIXTH = "c0ffe1d3", "77aa02b6"
PHONE = {"viewport": {"width": 360, "height": 740}}
TOLD = {"elapsed_s": 3, "done": 7, "total": 7, "waiting": False, "statement": None}
TOLD |= {"retry_in_s": None, "failed": None, "details": False}


def streamed(**told: Any) -> dict[str, Any]:
    """The answer to the page's request for events that tells one state."""
    body = f"data: {json.dumps({**TOLD, **told})}\n\n"
    return {"content_type": "text/event-stream", "body": body}


Visits = Callable[..., Any]
Slow = Callable[..., tuple[str, Shop]]


@contextmanager
def migrating(folder: Path, **options: Any) -> Iterator[tuple[str, Shop]]:
    """Context manager: a shop whose third revision waits; yields its URL."""
    shop = Shop(folder)
    shop.hold(THIRD)
    with shop.served(**{"details": True, **options}) as url:
        yield url, shop


@contextmanager
def waiting(folder: Path, **options: Any) -> Iterator[str]:
    """Context manager: another process migrates the shop, and is in its third revision."""
    with migrating(folder) as (leader, shop):
        while shop.said_by(leader)["done"] != 2:
            time.sleep(0.05)
        with shop.served(**{"details": True, **options}) as url:
            yield url


@contextmanager
def failed(folder: Path, **options: Any) -> Iterator[str]:
    """Context manager: a shop whose sixth revision has failed."""
    with Shop(folder, broken=SIXTH).served(**{"details": True, **options}) as url:
        yield url


@contextmanager
def pending(folder: Path, **options: Any) -> Iterator[str]:
    """Context manager: a shop that waits for its button."""
    with Shop(folder).served(development=True, mode=None, **options) as url:
        yield url


@contextmanager
def not_yet(folder: Path, **options: Any) -> Iterator[str]:
    """Context manager: a shop that may not migrate, and looks again whether somebody has."""
    with Shop(folder).served(mode="check", retry_every=90, **options) as url:
        yield url


STATES: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "migrating": (migrating, {}, "Step 3 of 7"),
    "migrating, public": (migrating, {"details": False}, "Step 3 of 7"),
    "waiting": (waiting, {}, "Step 3 of 7"),
    "failed": (failed, {}, "What to do"),
    "failed, public": (failed, {"details": False}, "could not be brought up to date"),
    "tried again": (not_yet, {}, "It is tried again in"),
    "pending": (pending, {}, "7 migrations are pending"),
}
"""Each state of the page: what brings it about, the gate's options, and a text of it."""


@pytest.fixture
def shown(visit: Visits, servers: ExitStack, tmp_path: Path) -> Callable[..., Any]:
    """`shown(state, **options of the visit)`: a visit that sees this state."""

    def show(state: str, **options: Any) -> Any:
        made, gate, text = STATES[state]
        url = servers.enter_context(made(tmp_path / "shop", **gate))
        visited = visit(url if isinstance(url, str) else url[0], **options)
        expect(visited.page.locator("main")).to_contain_text(text)
        return visited

    return show


@pytest.fixture
def slow_shop(servers: ExitStack, tmp_path: Path) -> Slow:
    """`slow_shop(**options of the gate)`: the URL of a shop whose third revision waits."""

    def serve(**options: Any) -> tuple[str, Shop]:
        return servers.enter_context(migrating(tmp_path / "shop", **options))

    return serve


def heading(page: Any, name: str) -> Any:
    return page.get_by_role("heading", name=name)


class TestWhileItMigrates:
    def test_the_page_says_so_at_once_and_goes_on_by_itself(
        self, visit: Visits, slow_shop: Slow
    ) -> None:
        url, shop = slow_shop()
        visited = visit(url)
        page = visited.page
        expect(heading(page, "The application is being brought up to date")).to_be_visible()
        expect(page.get_by_text("Step 3 of 7.").first).to_be_visible()
        expect(page).to_have_title("3 of 7 · Updating")
        expect(page.get_by_role("progressbar", name="Steps done")).to_have_js_property("value", 2)
        shop.hold(SIXTH)
        shop.let_go(THIRD)
        expect(page.get_by_text("Step 6 of 7.").first).to_be_visible()
        assert visited.documents() == 1

    def test_the_application_appears_by_itself(self, visit: Visits, slow_shop: Slow) -> None:
        url, shop = slow_shop()
        visited = visit(url)
        page = visited.page
        expect(page.get_by_text("Step 3 of 7.").first).to_be_visible()
        shop.let_go(THIRD)
        expect(heading(page, "Welcome to the shop")).to_be_visible()
        assert page.url == url and visited.documents() == 2

    def test_the_revisions_are_a_list_with_their_states_in_words(
        self, shown: Callable[..., Any]
    ) -> None:
        page = shown("migrating").page
        rows = page.get_by_role("listitem")
        expect(rows).to_have_count(len(HISTORY))
        running = rows.filter(has_text="Search: an index over product names")
        expect(running).to_have_text(re.compile(f"{THIRD}running$"))
        assert [
            re.sub(" in .*", "", each) for each in page.locator(".state").all_inner_texts()
        ] == [
            *("done", "done", "running"),
            *("pending", "pending", "pending", "pending"),
        ]

    def test_the_graph_has_a_lane_for_a_branch_and_leads_it_back(
        self, shown: Callable[..., Any]
    ) -> None:
        page = shown("migrating").page
        shapes = page.locator("svg[aria-hidden=true] .node")
        expect(shapes).to_have_count(len(HISTORY))
        lanes = shapes.evaluate_all("all => all.map(one => one.getAttribute('cx'))")
        first, second = sorted(set(lanes), key=float)
        assert lanes.index(second) == lanes.count(first) - 4 and lanes.count(second) == 1
        into = page.locator("svg").evaluate_all(
            "all => all.map(one => one.querySelectorAll('path.edge').length)"
        )
        assert into == [0, 1, 1, 1, 2, 1, 1]

    def test_the_time_goes_on_between_two_messages(self, shown: Callable[..., Any]) -> None:
        page = shown("migrating, public").page
        elapsed = page.locator("[data-field=elapsed]:visible")
        expect(elapsed).not_to_have_text(elapsed.inner_text())

    def test_a_screen_reader_is_told_the_step_and_not_every_second(
        self, shown: Callable[..., Any]
    ) -> None:
        page = shown("migrating").page
        status = page.get_by_role("status")
        said = "The application is being brought up to date Step 3 of 7."
        expect(status).to_have_text(said)
        elapsed = page.locator("[data-field=elapsed]:visible")
        expect(elapsed).not_to_have_text(elapsed.inner_text())
        expect(status).to_have_text(said)

    def test_the_public_page_names_nothing(self, shown: Callable[..., Any]) -> None:
        page = shown("migrating, public").page
        assert "shop" not in page.content().replace("data-", "") and THIRD not in page.content()
        expect(page.get_by_role("listitem")).to_have_count(0)

    def test_another_process_is_shown_at_its_step(self, shown: Callable[..., Any]) -> None:
        page = shown("waiting").page
        expect(
            heading(page, "Another process is bringing the application up to date")
        ).to_be_visible()
        expect(page.locator(".activity")).to_contain_text("held by process")


class TestWhenItHasFailed:
    def test_the_page_says_what_happened_what_is_left_and_what_to_do(
        self, shown: Callable[..., Any]
    ) -> None:
        page = shown("failed").page
        expect(heading(page, "The application could not be started")).to_be_visible()
        failure = page.locator("dl")
        for text in (
            "no such table: orders",
            f"in revision {SIXTH}",
            "nothing of this attempt stayed in the database",
            "no plugin decided what to do",
            "repair the revision",
        ):
            expect(failure).to_contain_text(text)
        expect(page.locator("li.failed")).to_contain_text("Every order refers to a customer")
        expect(page).to_have_title("Not started")

    def test_it_counts_down_to_the_next_try(self, shown: Callable[..., Any]) -> None:
        page = shown("tried again").page
        left = page.locator("[data-field=retry]")
        expect(left).to_have_text(re.compile(r"\d+ s$"))
        expect(left).not_to_have_text(left.inner_text())

    def test_the_public_page_tells_no_reason(self, shown: Callable[..., Any]) -> None:
        page = shown("failed, public").page
        expect(page.locator("main")).to_contain_text("find the reason in its log")
        assert "orders" not in page.content() and SIXTH not in page.content()


class TestTheButtonOfDevelopment:
    def test_it_runs_the_migrations_for_whoever_has_the_token(
        self, shown: Callable[..., Any], tmp_path: Path
    ) -> None:
        visited = shown("pending")
        typed = Shop.token_in(tmp_path / "shop")
        page = visited.page
        expect(page.get_by_role("listitem")).to_have_count(len(HISTORY))
        token = page.get_by_label("Token, as the terminal prints it")
        button = page.get_by_role("button", name="Run 7 migrations")
        token.fill("guessed")
        with page.expect_console_message() as heard:
            button.click()
        refusal = "this is not the token that the terminal shows"
        expect(page.get_by_role("alert")).to_have_text(refusal)
        assert "403" in heard.value.text
        visited.complaints.clear()
        token.fill(typed)
        button.click()
        expect(heading(page, "Welcome to the shop")).to_be_visible()
        assert not [each for each in visited.requests if typed in each]

    def test_without_it_there_is_no_form(self, shown: Callable[..., Any]) -> None:
        page = shown("migrating").page
        expect(page.get_by_role("button")).to_have_count(0)


class TestWithoutServerSentEvents:
    def test_a_browser_that_has_none_polls(self, visit: Visits, slow_shop: Slow) -> None:
        url, shop = slow_shop()
        visited = visit(url, script="delete window.EventSource")
        shop.let_go(THIRD)
        expect(heading(visited.page, "Welcome to the shop")).to_be_visible()
        asked = {each.removeprefix(url) for each in visited.requests}
        assert asked == {"", ".automigrator/state"}

    def test_a_server_that_refuses_them_is_polled(self, visit: Visits, slow_shop: Slow) -> None:
        url, shop = slow_shop()
        visited = visit(url, answers={"**/events": {"status": 503}})
        shop.let_go(THIRD)
        expect(heading(visited.page, "Welcome to the shop")).to_be_visible()
        assert f"{url}.automigrator/state" in visited.requests
        complaints = {re.sub(r"http\S+", "", each) for each in visited.complaints}
        assert all("503" in each or "EventSource" in each for each in complaints)
        visited.complaints.clear()

    def test_a_server_that_is_gone_is_said_to_be_and_is_found_again(
        self, visit: Visits, slow_shop: Slow
    ) -> None:
        url, _ = slow_shop()
        visited = visit(url, script="delete window.EventSource")
        visited.context.set_offline(True)
        expect(visited.page.get_by_text("The server does not answer.").first).to_be_visible()
        visited.context.set_offline(False)
        expect(visited.page.locator(".offline")).to_be_hidden()
        visited.complaints.clear()

    def test_without_javascript_the_page_says_it_and_asks_again(
        self, visit: Visits, slow_shop: Slow
    ) -> None:
        url, shop = slow_shop()
        visited = visit(url, java_script_enabled=False)
        sentence = visited.page.locator("noscript p")  # no other locator looks into it
        expect(sentence).to_contain_text("The application is being brought up to date.")
        expect(sentence).to_be_visible()
        shop.let_go(THIRD)
        expect(heading(visited.page, "Welcome to the shop")).to_be_visible()


def test_where_another_worker_still_migrates_the_page_is_not_reloaded_in_a_fast_loop(
    visit: Visits, slow_shop: Slow
) -> None:
    url, _ = slow_shop()
    visited = visit(url, answers={"**/events": streamed(phase="ready")})
    visited.page.wait_for_timeout(5000)
    # at once, and after 1 s and 2 s more
    assert 2 <= visited.documents() <= 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
class TestEveryState:
    def test_has_no_violation_that_axe_finds(
        self, state: str, scheme: str, shown: Callable[..., Any]
    ) -> None:
        page = shown(state, color_scheme=scheme, reduced_motion="reduce").page
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    def test_fits_into_a_narrow_phone(
        self, state: str, scheme: str, shown: Callable[..., Any]
    ) -> None:
        page = shown(state, color_scheme=scheme, **PHONE).page
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_page_is_dark_where_the_visitor_wants_it(shown: Callable[..., Any]) -> None:
    page = shown("migrating", color_scheme="dark").page
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(background) == "rgb(22, 23, 25)"


@pytest.mark.parametrize(
    ("motion", "animation"), [("reduce", "none"), ("no-preference", "breathe")]
)
def test_nothing_moves_for_those_who_do_not_want_it(
    motion: str, animation: str, shown: Callable[..., Any]
) -> None:
    page = shown("migrating", reduced_motion=motion).page
    name = "getComputedStyle(document.querySelector('.going'), '::before').animationName"
    assert page.evaluate(name) == animation


def test_the_template_of_the_docs_works(visit: Visits, slow_shop: Slow, tmp_path: Path) -> None:
    (template,) = re.findall(r"^```html\n(.*?)^```$", (DOCS / "page.md").read_text(), re.M | re.S)
    file = tmp_path / "page.html"
    file.write_text(template, "utf-8")
    url, shop = slow_shop(page=str(file))
    page = visit(url).page
    expect(page.get_by_role("main")).to_contain_text("Step 3 of 7")
    expect(page.get_by_text("Please call us")).to_be_hidden()
    shop.let_go(THIRD)
    expect(heading(page, "Welcome to the shop")).to_be_visible()


IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "migrating": ("migrating", {}),
    "public": ("migrating, public", {}),
    "waiting": ("waiting", {}),
    "failed": ("failed", {}),
    "pending": ("pending", {}),
    "dark": ("migrating", {"color_scheme": "dark"}),
    "phone": ("migrating", PHONE),
}


@pytest.mark.parametrize("image", IMAGES)
def test_the_images_of_the_docs_are_there(
    image: str, shown: Callable[..., Any], pytestconfig: pytest.Config
) -> None:
    file = DOCS / "images" / f"page-{image}.png"
    if pytestconfig.getoption("--write-images", default=False):
        state, options = IMAGES[image]
        window = {"viewport": {"width": 820, "height": 560}}
        page = shown(state, reduced_motion="reduce", **{**window, **options}).page
        page.screenshot(path=file, full_page=True)
    assert file.exists()
