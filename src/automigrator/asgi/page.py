"""The page that a browser is shown until the application is ready, and what it may do."""

from __future__ import annotations

import html
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from automigrator.errors import ConfigurationError

REQUIRED = frozenset({"nonce", "script", "state"})
OPTIONAL = frozenset({"sentence", "title"})

_HERE = Path(__file__).parent

_TITLES = {
    "starting": "Starting",
    "migrating": "Updating",
    "application": "Starting",
    "ready": "Ready",
    "failed": "Not started",
    "pending": "Migrations are pending",
    "stopped": "Stopped",
}

_SENTENCES = {
    "starting": "The application is starting.",
    "migrating": "The application is being brought up to date.",
    "application": "The database is up to date, and the application is starting.",
    "ready": "The application is ready.",
    "failed": "The application could not be started.",
    "pending": "The application starts when its database is up to date.",
    "stopped": "The application has been stopped.",
}

_BEHIND = "The application is ready, but a database is not at the revision that it expects."

_WAITING = "Another process is bringing the application up to date."

_UNSAFE = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}
"""What could end the element that the JSON stands in."""


def policy(nonce: str) -> str:
    """Return the Content-Security-Policy under which a page with this nonce works."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


class _Template(Template):
    """Placeholders as `%%{name}`: neither CSS nor JavaScript has such a thing."""

    delimiter = "%%"
    idpattern = "(?!)"  # only with braces
    braceidpattern = "[a-z]+"
    flags = re.NOFLAG


class Page:
    """The page, from a template.

    `template`: the file of an HTML page of the application's own; default: ours. Raises
    ConfigurationError where it cannot be read or has not the placeholders that it needs.
    """

    def __init__(self, template: str | Path | None = None) -> None:
        path = _HERE / "page.html" if template is None else Path(template)
        try:
            text = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the template of the page cannot be read: {type(error).__name__}: {error}; "
                "nothing was started. Name a file in UTF-8 that this process may read"
            ) from error
        self._template = _checked(_Template(text), path)
        self._script = (_HERE / "page.js").read_text("utf-8")

    def rendered(
        self, told: Mapping[str, Any], *, root: str, prefix: str, run_path: str | None = None
    ) -> tuple[bytes, str]:
        """Return the HTML of one response, and the nonce for its `policy`.

        `told`: what `Progress.told` returns. `root`: the path under which the application is
        mounted; `prefix`: where the state and the events are, under the root. `run_path`: the
        whole path that the button of development posts to; default None: there is no button.
        """
        base = f"{root}{prefix}"
        given = {"told": told, "state": f"{base}/state", "events": f"{base}/events"}
        state = json.dumps({**given, "run": run_path}).translate(_UNSAFE)
        nonce = secrets.token_urlsafe(16)
        page = self._template.substitute(
            nonce=nonce,
            script=self._script,
            state=state,
            title=_TITLES[told["phase"]],
            sentence=html.escape(sentence(told)),
        )
        return page.encode(), nonce


def sentence(told: Mapping[str, Any]) -> str:
    """Say what goes on, for a browser without JavaScript; it names nothing."""
    phase, parts = told["phase"], [_SENTENCES[told["phase"]]]
    if phase == "migrating":
        if told["waiting"]:
            parts = [_WAITING]
        if told["total"]:
            parts.append(f"Step {min(told['done'] + 1, told['total'])} of {told['total']}.")
        parts.append(f"{told['elapsed_s']:.0f} s.")
    elif phase == "ready" and told["outcome"] in ("degraded", "failed", "not-run"):
        parts = [_BEHIND]
    elif told["retry_in_s"] is not None:
        parts.append(f"It is tried again in {told['retry_in_s']:.0f} s.")
    return " ".join(parts)


def _checked(template: _Template, path: Path) -> _Template:
    """Return the template. Raises ConfigurationError where its placeholders are not ours."""
    wrong = []
    if not template.is_valid():
        wrong.append('it has a "%%" that begins no placeholder; write "%%%%" for it')
    found = set(template.get_identifiers())
    wrong += [f"it lacks %%{{{each}}}" for each in sorted(REQUIRED - found)]
    wrong += [f"%%{{{each}}} is not known" for each in sorted(found - REQUIRED - OPTIONAL)]
    if wrong:
        raise ConfigurationError(
            f"the template of the page, {path}, cannot be used: {'; '.join(wrong)}; nothing was "
            f"started. Placeholders are {', '.join(f'%%{{{e}}}' for e in sorted(REQUIRED))}, and "
            f"if you like {', '.join(f'%%{{{e}}}' for e in sorted(OPTIONAL))}"
        )
    return template
