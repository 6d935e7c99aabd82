"""Shows the reports of a session: at its end in the terminal, and as one HTML file."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from automigrator.printable import escaped
from pytest_automigrator.faults.report import WORDS, FaultReport
from pytest_automigrator.plugin import FAULTS


def reports_of(tests: Iterable[Any]) -> list[FaultReport]:
    """One report for each revision and kind of database, of what tests have kept."""
    found: dict[tuple[str, str], FaultReport] = {}
    for test in tests:
        for name, value in getattr(test, "user_properties", ()):
            if name == FAULTS and test.when == "call":
                part = FaultReport.from_dict(json.loads(value))
                whole = found.setdefault(
                    (part.revision, part.database), FaultReport(part.revision, part.database)
                )
                whole.trials += [each for each in part.trials if each not in whole.trials]
                whole.notes += [each for each in part.notes if each not in whole.notes]
    return [found[key] for key in sorted(found)]


def shown(reports: Sequence[FaultReport], *, all_of_it: bool) -> str:
    """The text for a terminal: a line for each report, and all of one that has something bad."""
    texts = [str(each) for each in reports]
    return "\n".join(
        text if all_of_it or report.wrong else text.partition("\n")[0]
        for text, report in zip(texts, reports, strict=True)
    )


def write(reports: Sequence[FaultReport], path: Path) -> None:
    """One file that loads nothing from anywhere."""
    bad = sum(len(each.wrong) for each in reports)
    trials = sum(len(each.trials) for each in reports)
    head = f"{trials} faults in {len(reports)} revisions: "
    head += f"{bad} things wrong" if bad else "each of them ends well"
    sections = "\n".join(map(_section, reports))
    path.write_text(_PAGE.format(title=_text(head), body=sections), "utf-8")


def _section(report: FaultReport) -> str:
    parts = [f"<h2>Revision {_text(report.revision)} on {_text(report.database)}</h2>"]
    for kind, word in WORDS.items():
        trials = [each for each in report.trials if each.fault == kind]
        if not trials:
            continue
        parts.append(f"<table><caption>{_text(word[:1].upper() + word[1:])}</caption>{_HEADER}")
        for each in trials:
            verdict = "<br>".join(map(_text, each.wrong)) or "ends well"
            parts.append(
                f'<tr class="{"bad" if each.wrong else "well"}"><td>{each.at or ""}</td>'
                f"<td><code>{_text(each.step)}</code></td><td>{_text(each.ended)}</td>"
                f"<td>{_text(each.left)}</td><td>{_text(each.then)}</td><td>{verdict}</td></tr>"
            )
        parts.append("</table>")
    parts += [f"<p>Note: {_text(each)}</p>" for each in report.notes]
    return "\n".join(parts)


def _text(value: str) -> str:
    return html.escape(escaped(value))


_HEADER = (
    "<tr><th>Step</th><th>Statement</th><th>This start</th><th>It leaves the database</th>"
    "<th>The next start</th><th>Verdict</th></tr>"
)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }}
caption {{ text-align: left; font-weight: 600; }}
td, th {{ text-align: left; vertical-align: top; padding: .3rem .6rem; }}
td {{ border-top: 1px solid #8886; }}
td code {{ overflow-wrap: anywhere; }}
.bad td:last-child {{ font-weight: 600; color: light-dark(#a00, #f88); }}
.well td:last-child {{ color: light-dark(#060, #8d8); }}
</style>
<h1>{title}</h1>
<p>Each fault is made on a copy of a database at the revision's parent, with rows in it. The start
after it meets no fault, and has to end as if there had been none.</p>
{body}
</html>
"""
