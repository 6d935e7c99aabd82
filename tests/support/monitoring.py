"""A real Prometheus with the rules of `examples/monitoring`, and what it scrapes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import ProxyHandler, build_opener

import yaml
from support.exposition import Scraped
from support.shop import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "monitoring"
LIMIT_S = 60.0

sys.path.append(str(EXAMPLE))  # the files of the example import each other by their names
alerts, dashboard, generate = map(__import__, ("alerts", "dashboard", "generate"))

QUICK = alerts.Limits(run_s=1, wait_s=1, ready="1s", pending="1s")
"""So that a test need not wait long."""


class Prometheus:
    """A server that scrapes and judges once a second."""

    def __init__(self, folder: Path) -> None:
        self._targets = folder / "targets.json"
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._open = build_opener(ProxyHandler({})).open
        self._instances: dict[str, str] = {}
        self._tell()
        (folder / "alerts.yml").write_text(generate.files(QUICK)["alerts.yml"], "utf-8")
        config = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (scraped,) = config["scrape_configs"]
        del scraped["static_configs"]
        found = {"files": [str(self._targets)], "refresh_interval": "1s"}
        scraped["file_sd_configs"] = [found]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
        self.command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]

    def scrape(self, instance: str, address: str) -> None:
        """Scrape an address from now on; its alerts have this `instance`."""
        self._instances[instance] = address
        self._tell()

    def _tell(self) -> None:
        told = [
            {"targets": [address], "labels": {"instance": name}}
            for name, address in self._instances.items()
        ]
        written = self._targets.with_suffix(".new")
        written.write_text(json.dumps(told), "utf-8")
        written.replace(self._targets)

    def ask(self, path: str, **parameters: str) -> Any:
        """What the API answers. Raises HTTPError, for an expression that is wrong, say."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        with self._open(f"{self._url}/api/v1/{path}{query}", timeout=LIMIT_S) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression, now."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def firing(self, instance: str) -> dict[str, dict[str, str]]:
        """The labels of the alerts that fire for an instance, by their names."""
        told = [each for each in self.ask("alerts")["alerts"] if each["state"] == "firing"]
        labels = [each["labels"] for each in told]
        return {each["alertname"]: each for each in labels if each["instance"] == instance}

    def judge(self) -> None:
        """Wait until the rules were looked at twice."""
        seen: set[str] = set()

        def judged() -> bool:
            (group,) = self.ask("rules")["groups"]
            seen.add(group["lastEvaluation"])
            return len(seen) > 2

        until(judged)

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        def answers() -> bool:
            assert process.poll() is None, "prometheus has ended"
            try:
                return bool(self.ask("status/runtimeinfo"))
            except URLError:
                return False

        until(answers)


def until(true: Callable[[], object]) -> None:
    """Wait until a function returns what is true."""
    ends = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < ends, f"{true} is still false"
        time.sleep(0.1)


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Context manager: a server that runs."""
    server = Prometheus(folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(server.command, stdout=log, stderr=log)
        try:
            server.until_ready(process)
            yield server
        finally:
            process.terminate()
            process.wait(LIMIT_S)


@contextmanager
def served(scraped: Scraped) -> Iterator[str]:
    """Context manager: answer scrapes as the gate does; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            accept = self.headers.get("Accept", "")
            names = parse_qs(url.query).get("name[]", ())
            body, content_type = scraped.metrics.answer(accept, names)
            self.send_response(200 if url.path == "/metrics" else 404)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
