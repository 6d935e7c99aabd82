"""The page as it is sent: one file, under a strict policy, with the text of others as data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support.alembic_projects import revision

from automigrator import ConfigurationError, MigrationError, Migrator, Target
from automigrator.asgi.page import Page, policy, sentence
from automigrator.asgi.progress import Progress

HOSTILE = "</script><script>alert(1)</script><!-- & \"' \u2028\u2029 %%{nonce} </title>"
TEMPLATE = """<!doctype html><html lang="en"><title>%%{title}</title>
<script type="application/json" id="automigrator">%%{state}</script>
<script nonce="%%{nonce}">%%{script}</script></html>"""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


class Elements(HTMLParser):
    """The elements of a page, and the text within its scripts and title."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def rendered(told: dict[str, Any] | None = None, **options: Any) -> Elements:
    told = Progress(["app"]).told(details=True) if told is None else told
    page, _ = Page().rendered(told, root="", prefix="/.automigrator", **options)
    return Elements(page)


class TestTheDocument:
    def test_needs_nothing_from_elsewhere_and_nothing_that_its_policy_forbids(self) -> None:
        page = rendered()
        links = {"src", "href", "action", "srcset", "style", "poster", "background", "formaction"}
        for tag, attributes in page.found:
            assert not links & set(attributes), tag
            assert not [each for each in attributes if each.startswith("on")], tag
            assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        css = re.search(r"<style.*?</style>", Path(page_file()).read_text(), re.DOTALL)
        assert css is not None and "url(" not in css[0] and "@import" not in css[0]

    def test_every_style_and_script_has_the_nonce_of_its_response(self) -> None:
        told, page = Progress(["app"]).told(details=False), Page()
        bodies = [page.rendered(told, root="", prefix="/p") for _ in range(2)]
        assert bodies[0][1] != bodies[1][1] and len(bodies[0][1]) >= 20
        for body, nonce in bodies:
            elements = Elements(body)
            (style,), (data, script) = elements.all("style"), elements.all("script")
            assert style["nonce"] == script["nonce"] == nonce
            assert data["type"] == "application/json"
            assert f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'" in policy(nonce)

    def test_has_a_language_a_title_and_a_way_without_javascript(self) -> None:
        told = {**Progress(["app"]).told(details=False), "phase": "migrating"}
        page = rendered(told)
        assert page.all("html") == [{"lang": "en"}]
        assert page.texts["title"] == "Updating"
        assert {"http-equiv": "refresh", "content": "5"} in page.all("meta")

    def test_tells_the_script_where_the_state_the_events_and_the_button_are(self) -> None:
        told = Progress(["app"]).told(details=False)
        page, _ = Page().rendered(told, root="/shop", prefix="/.x", run_path="/shop/.x/run")
        given = json.loads(Elements(page).texts["automigrator"])
        assert given == {
            "told": told,
            "state": "/shop/.x/state",
            "events": "/shop/.x/events",
            "run": "/shop/.x/run",
        }


def page_file() -> Path:
    import automigrator.asgi.page as module

    return Path(module.__file__).with_name("page.html")


class TestTextOfOthers:
    async def test_of_revisions_and_errors_is_data_and_no_part_of_the_page(
        self, make_target: Callable[..., Target]
    ) -> None:
        def hostile(folder: Path) -> None:
            path = revision(folder, "r1", None, upgrade=f"raise ValueError({HOSTILE!r})")
            path.write_text(f"{HOSTILE!r}\n{path.read_text().partition(chr(10))[2]}", "utf-8")

        migrator = Migrator(make_target(hostile, name="<b>app</b>"), mode="migrate")
        progress, events = Progress(["<b>app</b>"]), migrator.events()
        with pytest.raises(MigrationError) as raised:
            await migrator.run()
        async for event in events:
            progress.follow(event)
        progress.end(None, raised.value)
        progress.enter("failed", reason=HOSTILE)
        told = progress.told(details=True)
        body, nonce = Page().rendered(told, root="", prefix="/.automigrator")
        page, plain = Elements(body), Elements(Page().rendered(told, root="", prefix="")[0])
        assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
        assert len(page.all("script")) == 2 and b"<b>" not in body
        given = json.loads(page.texts["automigrator"])
        (target,) = given["told"]["targets"]
        assert "</script>" in target["failure"]["message"]
        assert "%%{nonce}" in given["told"]["reason"]
        assert target["revisions"][0]["doc"].startswith("</script><script>alert(1)")
        assert body.count(nonce.encode()) == 2

    @pytest.mark.parametrize("character", ["<", ">", "&", "\u2028", "\u2029"])
    def test_has_no_character_that_could_end_its_element(self, character: str) -> None:
        told = {**Progress(["app"]).told(details=True), "reason": character}
        page = rendered(told)
        assert character not in page.texts["automigrator"]
        assert json.loads(page.texts["automigrator"])["told"]["reason"] == character

    def test_of_a_path_is_data_too(self) -> None:
        told = Progress(["app"]).told(details=False)
        page, _ = Page().rendered(told, root='/"><script>', prefix="/p")
        assert len(Elements(page).all("script")) == 2


class TestTheSentenceWithoutJavaScript:
    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({}, "The application is being brought up to date. 12 s."),
            (
                {"done": 2, "total": 7},
                "The application is being brought up to date. Step 3 of 7. 12 s.",
            ),
            (
                {"waiting": True, "done": 7, "total": 7},
                "Another process is bringing the application up to date. Step 7 of 7. 12 s.",
            ),
            (
                {"phase": "failed", "retry_in_s": 28.2},
                "The application could not be started. It is tried again in 28 s.",
            ),
            ({"phase": "ready"}, "The application is ready."),
        ],
    )
    def test_says_what_goes_on_and_names_nothing(self, more: dict[str, Any], said: str) -> None:
        told = Progress(["app"]).told(details=False)
        assert sentence({**told, "phase": "migrating", "elapsed_s": 12.4, **more}) == said

    @pytest.mark.parametrize(
        "phase", ["starting", "migrating", "application", "ready", "failed", "pending", "stopped"]
    )
    def test_is_there_in_every_phase_and_so_is_a_block_of_the_page(self, phase: Any) -> None:
        progress = Progress(["app"])
        progress.enter(phase)
        page = rendered(progress.told(details=False))
        titles = {each.get("data-phase"): each.get("data-title") for _, each in page.found}
        assert page.texts["title"] == titles[phase]


class TestATemplateOfTheUsers:
    def test_takes_the_place_of_ours(self, tmp_path: Path) -> None:
        file = tmp_path / "page.html"
        file.write_text(TEMPLATE.replace("<title>", "<title>Café 100 %: "), "utf-8")
        told = Progress(["app"]).told(details=False)
        body, nonce = Page(str(file)).rendered(told, root="", prefix="/p")
        page = Elements(body)
        assert page.texts["title"] == "Café 100 %: Starting"
        assert page.all("script")[1] == {"nonce": nonce}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (TEMPLATE.replace("%%{nonce}", "abc"), r"lacks %%\{nonce\}"),
            (TEMPLATE.replace("%%{script}", ""), r"lacks %%\{script\}"),
            (TEMPLATE.replace("%%{title}", "%%{titel}"), r"%%\{titel\} is not known"),
            (TEMPLATE.replace("%%{title}", "100 %%"), 'begins no placeholder; write "%%%%"'),
        ],
    )
    def test_that_cannot_work_is_refused_at_once(
        self, text: str, message: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "page.html"
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigurationError, match=message):
            Page(file)

    def test_that_cannot_be_read_is_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read: FileNotFoundError"):
            Page(tmp_path / "absent.html")
        (tmp_path / "page.html").write_bytes(b"\xff")
        with pytest.raises(ConfigurationError, match="cannot be read: UnicodeDecodeError"):
            Page(tmp_path / "page.html")
