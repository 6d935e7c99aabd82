"""Free text for people and logs, with the secrets that it may hold masked."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, quote_plus

LIMIT = 4096
"""Characters of a text that are kept: no pattern sees more of it."""

_SHORTEST_PART = 5
"""Characters of a secret that was cut short, from which on it is masked all the same."""

# texts: what re compiles, it keeps, and a start with nothing to do needs none of them. Every
# repetition has a limit: without one, a text that somebody else wrote could take hours
_URL_PASSWORD = r"(?<=//)([^\s:/@]{0,200}):(?:[^\n/]{0,200}|\S{0,200})@"

_URL_TOKEN = r"(?<=://)(?=[^\s@/]{0,200}\d)(?=[^\s@/]{0,200}[A-Za-z])[^\s:/@]{20,200}(?=:?@)"
"""A user of a URL that is no name: long, of letters and digits."""

_BARE_PASSWORD = r"(?<![\w/:@.])([\w.+-]{1,64}):(?!//)\S{1,200}@(?=[\w\[])"

_NAME = (
    r"(?:(?:pg)?pass(?!(?:es|ed|ing)\b)(?:wd|word|phrase|code)?|pwd?|secret|token|signature|credentials?"
    r"|authorization|cookie|(?:api|access|private|encryption|auth|account)[_-]?key)"
)

_VALUE = (
    r"(?!['\"]?\*\*\*)(?:''[^'\n]{1,500}''|[bru]{0,2}'(?:[^'\\\n]|\\.|''){0,500}'?"
    r'|[bru]{0,2}"(?:[^"\\\n]|\\.|""){0,500}"?'
    r"|\$\w{0,20}\$[^$]{0,500}\$\w{0,20}\$|[|>][+-]?\n\s{1,40}[^\n]{1,500}"
    r"|(?:Bearer|Basic|Digest|Token)\s{1,5}\S{1,500}"
    r"|[^\s&,;'\")\]}]{1,500})"
)

_NAMED = (
    rf"(?i)((?<![A-Za-z]){_NAME}[\w.-]{{0,20}}(?:\s{{0,5}}=>?|['\"]?\s{{0,5}}(?::=|[=:>](?!//)))"
    rf"\s{{0,5}}"
    rf"|{_NAME}[\w.-]{{0,20}}(?:\s{{0,5}}=|['\"]\s{{0,5}}[=:])\s{{0,5}}"
    rf"|--[\w-]{{0,20}}{_NAME}\s{{1,5}}"
    rf"|{_NAME}['\"]?(?:',|\s{{1,5}}(?:to|is|was))?\s{{1,5}}(?=[bru]{{0,2}}['\"])"
    rf"|\bBearer\s{{1,5}}(?=\S{{8}})|\bSCRAM-SHA-256\$|[?&](?:key|sig)=|\bPRAGMA\s{{1,5}}(?:re|hex|hexre)?key\s{{0,5}}=?\s{{0,5}}"
    rf"|\b(?:PASSWORD|(?<!revision )IDENTIFIED\s{{1,5}}BY)\s{{1,5}}(?=[eEuU]?&?'|\$)[eEuU]?&?)"
    rf"{_VALUE}"
)
"""A query's, a libpq string's, a dictionary's, YAML's, a header's, a command line's, SQL's."""

_PEM = (
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]{0,4096}?(?:-----END[^\n]{0,60}|\Z)"
    r"|\beyJ[\w-]{5,2000}\.[\w-]{5,2000}\.[\w-]{0,2000}"
)
"""A key, and a token of three parts that says what it is."""


def scrubbed(text: str, *secrets: str) -> str:
    """The text with these secrets masked, however they are spelled, and any that it names as one.

    Of a longer text the first `LIMIT` characters are kept.
    """
    text = cut(masked(text, *secrets))
    for each in _longest_first(secrets):
        text = _without_parts(text, each)
    text = re.sub(_PEM, "***", text)
    text = re.sub(_URL_PASSWORD, r"\1:***@", re.sub(_URL_TOKEN, "***", text))
    return re.sub(_NAMED, r"\1***", re.sub(_BARE_PASSWORD, r"\1:***@", text))


def masked(text: str, *secrets: str) -> str:
    """The whole text with these secrets masked, however they are spelled, and nothing else."""
    for each in _longest_first(secrets):
        text = text.replace(each, "***")
    return text


def _longest_first(secrets: Iterable[str]) -> list[str]:
    spelled = {each for secret in secrets for each in _spellings(secret)}
    return sorted(spelled, key=len, reverse=True)


def cut(text: str) -> str:
    """The text itself, or its beginning and how much more there was."""
    more = len(text) - LIMIT
    return text if more <= 0 else f"{text[:LIMIT]}… ({more:,} more characters)"


def named_in(text: str) -> Iterator[str]:
    """The values that a text names as secrets: those of a libpq or ODBC string, say."""
    for found in re.finditer(_NAMED, cut(text)):
        yield found[0][len(found[1]) :].strip("'\"{}")


def _spellings(secret: str) -> Iterator[str]:
    """As it is, and as URLs, ini files, Python, JSON, HTML, SQL and shells write it."""
    for each in filter(None, _written(secret)):
        yield each
        yield each.replace("%", "%%")


def _written(secret: str) -> Iterator[str]:
    encoded = [secret.encode("utf-8", "replace")]
    with suppress(UnicodeEncodeError):
        encoded.append(secret.encode("latin-1"))
    for coded in encoded:
        in_urls = {quote(coded, ""), quote(coded, " +"), quote(coded), quote_plus(coded)}
        yield from in_urls
        yield from (re.sub("%[0-9A-F]{2}", lambda it: it[0].lower(), url) for url in in_urls)
        yield from (quote(url) for url in in_urls)
        yield repr(coded)[2:-1]
    doubled = secret.replace("\\", "\\\\")
    for each in (secret, doubled):
        for single in ("'", "''", "\\'", "'\"'\"'", "'\\''"):
            for double in ('"', '""', '\\"'):
                yield each.replace("'", single).replace('"', double)
    yield from (repr(secret)[1:-1], ascii(secret)[1:-1], doubled.replace(":", "\\:"))
    yield from (json.dumps(secret, ensure_ascii=each)[1:-1] for each in (True, False))
    yield from (html.escape(secret), html.escape(secret, quote=False))
    if len(secret) > _SHORTEST_PART:
        yield b64encode(encoded[0]).decode("ascii").rstrip("=")


def _without_parts(text: str, secret: str) -> str:
    """The text without the beginning of a secret where the text, or a part of it, was cut off."""
    if secret[:_SHORTEST_PART] not in text:
        return text
    for length in range(len(secret) - 1, _SHORTEST_PART - 1, -1):
        part = secret[:length]
        if part not in text:
            continue
        for end in ("…", "..."):
            text = text.replace(part + end, f"***{end}")
        if text.endswith(part):
            text = text.removesuffix(part) + "***"
    return text
