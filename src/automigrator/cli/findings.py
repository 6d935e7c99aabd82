"""What a rehearsal found, as Markdown for a pull request and as SARIF for a code scanner."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from automigrator._version import __version__
from automigrator.measurement import Finding
from automigrator.printable import escaped, in_a_line
from automigrator.rehearsed import Rehearsed
from automigrator.report import heads_text
from automigrator.support.sizes import sized

KINDS = {
    "blocks-reads": "Others can neither read nor write a table while a statement's lock is held.",
    "blocks-writes": "Others cannot write to a table while a statement's lock is held.",
    "rewrites": "Every row of a table is written anew.",
    "scans": "Every row of a table is read while a lock is held that others wait for.",
    "locks-rows": "Others cannot write to the rows that a statement changes.",
    "queues": "A transaction that is open for long would keep the statement waiting.",
    "unobserved": "A statement was too short for its locks to be seen.",
    "over-limit": "The revisions cost more than is allowed.",
    "failed": "A revision fails on the copy.",
}
"""The kinds of findings, as rules."""

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def found_in(rehearsed: Rehearsed) -> tuple[Finding, ...]:
    """The findings of a rehearsal; a revision that failed is one of them."""
    found = rehearsed.measurement.findings if rehearsed.measurement is not None else ()
    failure = rehearsed.failure
    if failure is None:
        return found
    failed = Finding(
        "failed",
        "error",
        failure.revision or "",
        failure.message,
        failure.advice,
        sql=failure.statement,
    )
    return (*found, failed)


def markdown(rehearsed: Rehearsed, root: Path) -> str:
    """The answer as a comment on a pull request; what others wrote drives nothing in it."""
    lines = [
        f"### Migrations of {_plain(rehearsed.name)}, rehearsed",
        "",
        f"On {_plain(rehearsed.database)}: {_plain(heads_text(rehearsed.before))} → "
        f"{_plain(heads_text(rehearsed.after))}.",
        "",
    ]
    if rehearsed.measurement is not None:
        lines += ["| up to revision | time | others wait at most | grows by |", "|---|---|---|---|"]
        lines += [
            f"| {_plain(each.revision)} | {each.seconds:.2f} s | {each.block_s:.2f} s | "
            f"{sized(each.growth)} |"
            for each in rehearsed.measurement.revisions
        ]
        lines.append("")
    found = found_in(rehearsed)
    for each in found:
        where = f", {_plain(_relative(each.file, root))}:{each.line}" if each.file else ""
        lines.append(
            f"- **{each.level}** {_plain(each.kind)} in {_plain(each.revision)}{where}: "
            f"{_plain(each.message)}"
        )
        if each.sql:
            lines.append(f"  <br><code>{_plain(in_a_line(each.sql))}</code>")
        if each.advice:
            lines.append(f"  <br>Better: {_plain(each.advice)}")
    if not found:
        lines.append("Nothing found that others would wait for.")
    lines += [f"\n> {_plain(note)}" for note in rehearsed.notes]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A text in which nothing is Markdown, HTML or the mention of a person."""
    safe = html.escape(escaped(text))
    return re.sub(r"[\\`*_{}\[\]()#+!|~@-]", lambda found: f"&#{ord(found[0])};", safe)


def sarif(answers: Iterable[Rehearsed], root: Path) -> dict[str, Any]:
    """The answers in the format SARIF 2.1.0; files are named from `root` on."""
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "automigrator",
                        "semanticVersion": __version__,
                        "rules": [
                            {"id": kind, "shortDescription": {"text": text}}
                            for kind, text in KINDS.items()
                        ],
                    }
                },
                "results": [_result(each, root) for answer in answers for each in found_in(answer)],
            }
        ],
    }


def _result(finding: Finding, root: Path) -> dict[str, Any]:
    advice = f" Better: {finding.advice}." if finding.advice else ""
    sql = f" Statement: {finding.sql}" if finding.sql else ""
    text = f"Revision {finding.revision}: {finding.message}.{advice}{sql}"
    result: dict[str, Any] = {
        "ruleId": finding.kind,
        "ruleIndex": list(KINDS).index(finding.kind),
        "level": finding.level,
        "message": {"text": escaped(text)},
    }
    if finding.file is not None:
        place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.file, root)}}
        if finding.line is not None:
            place["region"] = {"startLine": finding.line}
        result["locations"] = [{"physicalLocation": place}]
    return result


def _relative(file: str, root: Path) -> str:
    path = Path(os.path.abspath(file))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _uri(file: str, root: Path) -> str:
    name = _relative(file, root)
    return quote(name) if not os.path.isabs(name) else Path(name).as_uri()


def rendered(rehearsed: Rehearsed, form: str, root: Path) -> str:
    """The answer in one of the forms that are no text for a terminal."""
    if form == "markdown":
        return markdown(rehearsed, root)
    return json.dumps(sarif([rehearsed], root), indent=2)


def at_least(rehearsed: Rehearsed, level: str, levels: tuple[str, ...]) -> Iterator[Finding]:
    """The findings of a level, or graver."""
    for each in found_in(rehearsed):
        if levels.index(each.level) >= levels.index(level):
            yield each
