"""A share of the tenants for each index."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import yaml
from support.fleet_replicas import Replica, replicas

from automigrator.errors import ConfigurationError
from automigrator.fleet.executors.shards import COUNT_VARIABLE, INDEX_VARIABLE, Shards, shard_of
from automigrator.testing.executors.harness import ExecutorCase, Fed

MANIFEST = Path(__file__).parents[3] / "examples" / "kubernetes" / "indexed-job.yaml"


def test_a_tenant_belongs_to_the_same_shard_in_every_release() -> None:
    assert [shard_of(name, 7) for name in ("acme", "globex", "Größe", "")] == [2, 2, 3, 1]


def test_each_tenant_belongs_to_one_shard_and_they_are_of_one_size() -> None:
    shards = [Shards(index, 4) for index in range(4)]
    names = [f"tenant{number}" for number in range(1000)]
    takers = [[shard.index for shard in shards if shard.takes(name)] for name in names]
    assert {len(each) for each in takers} == {1}
    assert min(sum(shard.takes(name) for name in names) for shard in shards) > 200


def test_the_environment_says_which_one_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INDEX_VARIABLE, "2")
    monkeypatch.setenv(COUNT_VARIABLE, "3")
    shards = Shards()
    assert (shards.index, shards.count) == (2, 3)


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        ("", "3", f"{INDEX_VARIABLE} is ''"),
        ("1", "", f"{COUNT_VARIABLE} is ''"),
        ("-1", "3", f"{INDEX_VARIABLE} is '-1'"),
        ("3", "3", "from 0 to 2, and the index is 3"),
        ("0", "0", "count is a whole number from 1 on"),
    ],
)
def test_what_it_says_wrongly_is_refused(
    index: str, count: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INDEX_VARIABLE, index)
    monkeypatch.setenv(COUNT_VARIABLE, count)
    with pytest.raises(ConfigurationError, match=message):
        Shards()


class TestShards(ExecutorCase):
    databases = ("sqlite",)

    async def test_tenants_of_others_are_left_out_and_said_so(self) -> None:
        names = [f"tenant{number}" for number in range(6)]
        ours = [name for name in names if shard_of(name, 3) == 1]
        shards = Shards(1, 3)
        reports = await self.ran(shards, Fed(*names))
        assert sorted(reports) == ours
        assert shards.notes[0].startswith("shard 1 of 3 (0 to 2): ")
        assert f"{6 - len(ours)} tenants belong to other shards" in shards.notes[0]
        await self.are_untouched(*set(names) - set(ours))

    @pytest.mark.long
    async def test_a_shard_that_is_started_again_finishes_its_tenants(self) -> None:
        """Three processes, one killed and started again, as an indexed Job does it."""
        names = [*(f"slow{number}" for number in range(3)), *(f"tenant{n}" for n in range(12))]
        victim = shard_of("slow0", 3)

        def started(index: int) -> Replica:
            out = self.folder / f"shard{index}.jsonl"
            environment = {INDEX_VARIABLE: str(index), COUNT_VARIABLE: "3"}
            return Replica("shards", {"tasks": 1}, names, out, **environment)

        three = [started(index) for index in range(3)]
        with replicas(*three):
            os.kill(await self.tenants.noted("begin", "slow0"), signal.SIGKILL)
            assert await three[victim].ended() == -signal.SIGKILL
            self.tenants.open_gate()
            three[victim] = started(victim)
            with replicas(three[victim]):
                codes = await asyncio.gather(*(each.ended() for each in three))
        assert codes == [0, 0, 0]
        told = [report["name"] for each in three for report in each.reports()]
        assert sorted(told) == sorted(names)
        await self.are_at_head(*names)


def test_the_manifest_makes_as_many_pods_as_there_are_shards() -> None:
    """It is read here, and applied nowhere: there is no cluster."""
    (job,) = yaml.safe_load_all(MANIFEST.read_text("utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"
    (container,) = spec["template"]["spec"]["containers"]
    variables = {each["name"]: each for each in container["env"]}
    assert variables[COUNT_VARIABLE]["value"] == str(spec["completions"])
    assert INDEX_VARIABLE not in variables, "Kubernetes sets it"
    assert "secretKeyRef" in variables["DATABASE_URL"]["valueFrom"]
    assert spec["parallelism"] <= spec["completions"]
    assert spec["backoffLimitPerIndex"] >= 1, "a pod that dies is started again"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "what backoffLimitPerIndex asks for"
    assert pod["terminationGracePeriodSeconds"] > 30, "longer than statements are given to stop"
