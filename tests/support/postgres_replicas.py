"""A primary and a streaming standby of it, which can be promoted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.postgres_server import Server, Stop, folder_of_one, serving, stoppable


class Replicas:
    """Both servers; `stop_primary` is a power cut. What is committed is streamed at once."""

    def __init__(self, primary: Server, standby: Server, stop_primary: Stop) -> None:
        self.primary, self.standby, self.stop_primary = primary, standby, stop_primary

    def await_replay(self, limit_s: float = 30) -> None:
        """Return when the standby has all that was committed before the call."""
        # a record of our own: where nothing follows, a position may name none that is sent
        message = "select pg_logical_emit_message(true, 'tests', '')::text"
        ((position,),) = self.primary.execute(message)
        ask = f"select pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
        deadline = time.monotonic() + limit_s
        while self.standby.execute(ask) != [(True,)]:
            assert time.monotonic() < deadline, f"nothing was replayed for {limit_s} s"
            time.sleep(0.02)

    def cut_stream(self, limit_s: float = 30) -> None:
        """From now on the standby gets no more."""
        self.standby.execute("alter system set primary_conninfo = ''")
        self.standby.execute("select pg_reload_conf()")
        deadline = time.monotonic() + limit_s
        while self.primary.execute("select from pg_stat_replication"):
            assert time.monotonic() < deadline, f"the stream went on for {limit_s} s"
            time.sleep(0.02)

    def promote(self) -> None:
        """Return when the standby takes writes."""
        assert self.standby.execute("select pg_promote()") == [(True,)]


@contextmanager
def replicas() -> Iterator[Replicas]:
    """Both servers, from the binaries on this machine; skips the test where they are too few."""
    with stoppable() as (primary, stop), folder_of_one() as place:
        if not (place.binaries / "pg_basebackup").is_file():
            pytest.skip(f"there is no pg_basebackup in {place.binaries}")
        source = ["-h", str(primary.admin.host), "-p", str(primary.admin.port), "-U", "postgres"]
        options = ["--no-sync", "-c", "fast", "-X", "stream", "--write-recovery-conf"]
        place.run("pg_basebackup", *source, *options, "-D", str(place.data))
        with serving(place) as (standby, _):
            made = Replicas(primary, standby, stop)
            made.await_replay()
            yield made
