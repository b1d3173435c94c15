"""A queue with lanes as its operators, submitters and workers meet it: on one node of one partition."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_access import Bob, bob
from writ.schemas.ids import lane_for, lanes_of

if TYPE_CHECKING:
    from .conftest import Shell
else:
    Shell = Any

__all__ = ["bob"]  # the fixture

FILE = "[queues.orders]\nlanes = 4\nconcurrency = 3\n"
LANES = lanes_of("orders", 4)


def applied(node: Shell, text: str, *words: str) -> dict[str, Any]:
    shown = node("apply", "-", "--json", *words, input=text)
    assert shown.code == 0, shown.err
    return {each["name"]: each for each in shown.document}


@pytest.mark.timeout(600)
def test_one_queue_in_lanes_from_its_policy_to_its_last_job(node: Shell, bob: Bob) -> None:
    assert applied(node, FILE)["orders"]["change"] == "new"
    again = applied(node, FILE)
    assert again["orders"]["change"] == "unchanged"
    assert not [name for name in again if "#" in name], "lanes are told of by their queue alone"

    bob.owner("grant", bob.name, "submitter", "--in", "orders", "--reason", "new in the team")
    lane = lane_for("orders", 4, "k")
    words = ("submit", "orders", "hello", '{"name": "a"}', "--unique-key", "k", "--json")
    node.until(lambda: bob(*words).code == 0)  # who has a role in the queue has it in its lanes
    assert bob(*words).document["queue"] == lane, "also where its refusals are not for it to hear"
    (keyed,) = node("jobs", "--queue", "orders", "--json").document
    assert keyed["queue"] == lane
    each = [{"task": "hello", "input": {"name": str(n)}, "unique_key": str(n)} for n in range(20)]
    lines = "".join(json.dumps(job) + "\n" for job in each)
    many = node("submit", "orders", "--file", "-", "--json", input=lines)
    assert {each["queue"] for each in many.document} == set(LANES)
    plain = node("submit", "orders", "hello", '{"name": "b"}', "--json").document
    assert plain["queue"] == "orders"

    assert len(node("jobs", "--queue", "orders", "--json").document) == 22
    shown = node("queue", "show", "orders", "--json").document
    assert [each["queue"] for each in shown["lanes"]] == list(LANES)
    assert {each["policy"]["concurrency"] for each in shown["lanes"]} == {3}
    assert node("queue", "pause", "orders", "--reason", "a look").code == 0
    paused = node("queue", "show", "orders").out
    assert "22 pending" in paused
    rows = [line for line in paused.splitlines() if line.strip().startswith("orders")]
    assert (len(rows), all("paused" in row for row in rows)) == (5, True), "the lanes, and the queue itself"
    assert node("cancel", keyed["id"], "--queue", "orders", "--reason", "no more").code == 0
    assert node("queue", "resume", "orders", "--reason", "seen").code == 0
    worker = node.start("worker", "tasks.py", "--queue", "orders")
    node.until(
        lambda: len(node("jobs", "--queue", "orders", "--state", "completed", "--json").document) == 21
    )
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=30)

    dry = node("cancel", "--all", "--queue", "orders", "--dry-run", "--json").document
    assert [each["queue"] for each in dry] == ["orders", *LANES]
    refused = node("apply", "-", input="[queues.orders]\nlanes = 5\n")
    assert refused.code == 2
    assert "has 4 for good" in refused.err
    pruned = applied(node, "[queues.other]\n", "--prune")
    assert pruned["orders"]["change"] == "pruned", "it keeps its lanes, and they the policy of their queue"
    shown = node("queue", "show", "orders", "--json").document
    assert {each["policy"].get("concurrency") for each in shown["lanes"]} == {None}
    assert node("audit", "verify").code == 0
    assert node("replay", "--verify").code == 0
