"""Workers of a node as a person sees them: labels, drains, and word of a broker that is out of reach."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conftest import Place

TASKS = """
import os
import time
from pathlib import Path

from writ import task


@task
def where() -> int:
    return os.getpid()


@task
def holds() -> str:
    while not Path("go").exists():
        time.sleep(0.01)
    return "done"
"""


def explained(place: Place, job: str) -> str:
    return " ".join(place.writ("explain", job).stdout.split())


def test_a_job_waits_in_sight_for_a_worker_with_its_labels(own_place: Place) -> None:
    """Must hold: a job may demand worker labels; one that no worker has is visible with its reason."""
    (own_place.root / "work.py").write_text(TASKS)
    with own_place.worker("work", "--queue", "q", "--name", "plain", "--label", "gpu=false"):
        own_place.until(lambda: [w["worker"] for w in own_place.json("workers")] == ["plain"])
        own_place.writ("submit", "q", "where", "--id", "a", "--requires", "gpu=true", "--requires", "zone=x")
        wanted = "It demands gpu=true, zone=x of its worker, and none that works on queue q has that: "
        assert f"{wanted}plain has gpu=false." in explained(own_place, "a")
        shown = own_place.writ("queue", "show", "q").stdout
        assert "gpu=true, zone=x by 1 pending job; no worker has it" in shown
        assert own_place.json("queue", "show", "q")["demands"] == [
            {"requires": {"gpu": "true", "zone": "x"}, "pending": 1}
        ]
        labels = ("--label", "gpu=true", "--label", "zone=x")
        with own_place.worker("work", "--queue", "q", "--name", "able", *labels) as able:
            own_place.until(lambda: own_place.json("job", "a")["state"] == "completed")
            assert own_place.json("job", "a")["output"] == able.pid
    found = {w["worker"]: w for w in own_place.json("workers")}
    assert found["able"]["labels"] == {"gpu": "true", "zone": "x"}
    assert (found["plain"]["labels"], found["plain"]["queues"]) == ({"gpu": "false"}, ["q"])
    assert own_place.json("queue", "show", "q")["demands"] == []
    assert own_place.writ("replay", "--verify").returncode == 0


def test_one_worker_is_drained_by_hand(own_place: Place) -> None:
    """Must hold: `writ workers` (who, where, version, slots, current jobs, last heartbeat), drain one."""
    (own_place.root / "work.py").write_text(TASKS)

    def told(name: str = "one") -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = [w for w in own_place.json("workers") if w["worker"] == name]
        return found

    said = own_place.writ("workers", "drain", "nobody", check=False)
    assert (said.returncode, "no worker nobody was ever heard of" in said.stderr) == (1, True)
    with own_place.worker("work", "--queue", "q", "--name", "one", "--concurrency", "3"):
        own_place.writ("submit", "q", "holds", "--id", "held")
        own_place.until(lambda: own_place.json("job", "held")["state"] == "running")
        one = told()
        assert one["jobs"] == ["q~held"]
        assert (one["slots"], one["principal"], one["drained"]) == (3, "owner", None)
        assert one["host"]
        assert one["seen_at"] > one["first_at"][:4]
        out = own_place.writ("workers", "drain", "one", "--reason", "kernel update").stdout
        assert "takes no more leases, and finishes the 1 it holds" in out
        assert (told()["drained"], told()["drained_by"]) == ("kernel update", "owner")
        own_place.writ("submit", "q", "where", "--id", "late")
        assert "The workers of queue q are drained and take no more leases: one" in explained(
            own_place, "late"
        )
        (own_place.root / "go").touch()
        own_place.until(lambda: own_place.json("job", "held")["state"] == "completed")
        assert own_place.json("job", "late")["state"] == "pending"
        own_place.until(lambda: told()["leases"] == 0)
        assert "drained" in own_place.writ("workers").stdout
        own_place.writ("workers", "undrain", "one", "--reason", "updated")
        own_place.until(lambda: own_place.json("job", "late")["state"] == "completed")
    acts = [
        (act["verb"], act["actor"], act["reason"])
        for act in own_place.json("audit", "--verb", "drain_worker")
    ]
    assert acts == [("drain_worker", "owner", "kernel update")]
    assert own_place.writ("replay", "--verify").returncode == 0


def test_a_worker_tells_that_the_broker_is_lost_and_back(own_place: Place) -> None:
    (own_place.root / "work.py").write_text(TASKS)
    log = own_place.root / "worker.log"
    with own_place.worker("work", "--queue", "q", "--name", "one", "--log-format", "json"):
        own_place.until(lambda: own_place.json("workers"))
        own_place.down()
        own_place.until(lambda: "has lost the broker" in log.read_text())
        own_place.up()
        own_place.until(lambda: "has the broker at" in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    told = [line["message"] for line in lines if "the broker" in line["message"]]
    assert told[0].startswith("worker one has lost the broker at nats://")
    assert told[1].startswith("worker one has the broker at nats://")
