"""Several partitions as a user meets them: one node, two logs, then three; and reads over all of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from writ.broker.ports import OutcomeUnknown
from writ.schemas.ids import shard_of
from writ.schemas.queries import NodeStatus, PartitionStatus, ViewStatus
from writ.views.front import Front

from .conftest import TASKS, Shell

FIRST, SECOND = (
    next(q for q in ("mail", "bills", "a", "b") if shard_of("default", q) % 2 == p) for p in (0, 1)
)
"""Queues in either of two partitions."""


@pytest.mark.timeout(400)
def test_a_node_of_two_partitions_has_a_third_while_it_runs(writ: Shell) -> None:
    """Must hold, by the command line alone: each job reaches its log, all are found, and all logs verify."""
    (writ.directory / "tasks.py").write_text(TASKS, encoding="utf-8")
    up = writ("up", "--detach", "--partitions", "2")
    assert up.code == 0, up.err
    worker = writ.start("worker", "tasks.py", "--queue", FIRST, "--queue", SECOND)
    try:
        for queue in (FIRST, SECOND):  # one worker serves queues in both
            done = writ("submit", queue, "hello", '{"name": "you"}', "--id", f"in-{queue}", "--wait")
            assert (done.out, done.err) == ('"hello you"\n', "")
        assert [each["queue"] for each in writ("jobs", "--json").document] == [FIRST, SECOND]
        only = writ("jobs", "--json", "--partition", "1").document
        assert [each["id"] for each in only] == [f"in-{SECOND}"]
        assert f"in queue {SECOND} is completed" in writ("job", f"in-{SECOND}").out
        grown = writ("partitions", "grow", "3")
        assert "there are 3 partitions now, and were 2" in grown.out, grown.err
        writ.until(lambda: len(writ("status", "--json").document["partitions"]) == 3, 60)  # it begins by then
        writ.until(lambda: writ("partitions", "move", "fresh", "--to", "2").code == 0, 60)
        shard = shard_of("default", "fresh")
        writ.until(lambda: writ("partitions", "--json").document["shards"][shard] == 2, 60)
        writ("submit", "fresh", "hello", '{"name": "you"}', "--id", "new")
        writ.until(lambda: bool(writ("jobs", "--json", "--partition", "2").document), 60)
        assert "queue fresh" in writ("explain", "new").out
        checks = writ("audit", "verify", "--json")
        assert checks.code == 0, checks.out
        assert [each["partition"] for each in checks.document] == [0, 1, 2]
        assert writ("replay", "--verify", "--partition", "1").code == 0
        assert "there are 3 partitions already" in writ("partitions", "grow", "2").err
        none = writ("orchestrator", "--partition", "5")
        assert (none.code, "there is no partition 5: there are 3" in none.err) == (1, True)
    finally:
        worker.terminate()
        worker.wait(60)
        writ("down")


# --- reads over all partitions ------------------------------------------------------------------------------


def answers(*pages: dict[str, Any]) -> Front:
    """A front over partitions that answer so, a page each, or several by cursor."""

    async def own(subject: str, body: bytes) -> bytes:
        return said(0, body)

    async def ask(subject: str, body: bytes) -> bytes:
        return said(int(subject.rpartition(".")[2]), body)

    def said(partition: int, body: bytes) -> bytes:
        query: dict[str, Any] = json.loads(body) if body else {}
        page = pages[partition].get(query.get("cursor") or "", {})
        if page is None:
            raise OutcomeUnknown("it is away")
        return json.dumps(page).encode()

    async def who(partition: int) -> str:
        return f"leader-{partition}"

    front = Front(own, ask, who)
    front.partitions = len(pages)
    return front


async def asked(front: Front, verb: str, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        await front.answer(f"writ.query.default.owner.{verb}", json.dumps(query).encode())
    )
    return found


async def test_a_list_goes_through_the_partitions_and_its_cursor_says_where_it_is() -> None:
    front = answers({"": {"jobs": [1, 2]}}, {}, {"": {"jobs": [3], "next": "7"}, "7": {"jobs": [4]}})
    page = await asked(front, "jobs")
    assert (page["jobs"], page["next"]) == ([1, 2, 3], "@2:7")
    page = await asked(front, "jobs", cursor="@2:7")
    assert (page["jobs"], page["next"]) == ([4], None)
    page = await asked(front, "jobs", limit=2)
    assert (page["jobs"], page["next"]) == ([1, 2], "@1:")
    assert (await asked(front, "jobs", cursor="@1:"))["jobs"] == [3]
    assert "there are 3" in (await asked(front, "jobs", cursor="@7:"))["error"]["reason"]
    assert await asked(front, "jobs", limit="many") == {"jobs": [1, 2]}, "the first one says what is wrong"


async def test_one_job_is_looked_for_in_all_partitions_and_an_error_is_told() -> None:
    front = answers({"": {}}, {"": {"jobs": ["b"]}}, {"": {"jobs": ["c"]}})
    assert (await asked(front, "job", id="1"))["jobs"] == ["b", "c"]
    assert (await asked(front, "job", id="1", queue="q"))["jobs"] == ["b"]
    missing = {"": {"error": {"kind": "not_found", "reason": "no such job"}}}
    assert (await asked(answers(missing, missing), "prove", id="1", queue="q"))["error"][
        "kind"
    ] == "not_found"
    away = answers({"": {}}, {"": None})
    for verb, query in (("job", {"id": "1"}), ("jobs", {})):
        told = (await asked(away, verb, **query))["error"]
        assert (told["kind"], "views of partition 1 do not answer" in told["reason"]) == ("try_later", True)


async def test_a_subject_that_names_a_partition_and_a_query_of_one_partition_are_passed_on() -> None:
    front = answers({"": {"jobs": [1]}}, {"": {"jobs": [2]}})
    said = await front.answer("writ.query.default.owner.jobs.0", b"{}")
    assert json.loads(said)["jobs"] == [1]
    assert (await asked(front, "workers")) == {"jobs": [1]}
    assert json.loads(await front.answer("writ.query.default.owner.jobs", b"torn"[:0]))["jobs"] == [1, 2]


@pytest.mark.parametrize("away", [False, True])
async def test_the_status_is_of_all_partitions(away: bool) -> None:
    def told(partition: int) -> Any:
        status = NodeStatus(
            version="1",
            partitions=(PartitionStatus(partition, 1, "somebody", 9),),
            views=(ViewStatus("jobs", 9, 0),),
            jobs={"dead": 1 + partition},
        )
        return {"": json.loads(msgspec.json.encode(status))}

    page = await asked(answers(told(0), {"": None} if away else told(1)), "status")
    assert [each["partition"] for each in page["partitions"]] == [0, 1]
    if away:
        assert page["partitions"][1]["leader"] == "leader-1"
        assert "do not answer" in page["warnings"][0]
    else:
        assert ([each["name"] for each in page["views"]], page["jobs"]) == (
            ["jobs", "jobs of 1"],
            {"dead": 3},
        )
