"""A node of several partitions over HTTP: the page of metrics and the log tell of each; all are upgraded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.http.conftest import Api, node_in
from writ.schemas.ids import queue_in
from writ.schemas.upgrading import RECORDS

QUEUES = queue_in("default", 0), queue_in("default", 1)
"""One in each of two partitions."""

PARTITIONS = [0, 1]
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A node of two partitions, held back to the records of an older Writ."""
    yield from node_in(tmp_path_factory.mktemp("node"), "--partitions", "2", "--records", str(RECORDS - 1))


def samples(api: Api) -> list[tuple[str, dict[str, str], float]]:
    page = api.get("/metrics").body.decode()
    return [
        (each.name, dict(each.labels), each.value) for family in parse_text(page) for each in family.samples
    ]


def told(api: Api, name: str, *by: str, **labels: str) -> dict[tuple[str, ...], float]:
    """The values of a metric's series with these labels, by others of its labels."""
    return {
        tuple([its[label] for label in by]): value
        for each, its, value in samples(api)
        if each == name and labels.items() <= its.items()
    }


def test_metrics_and_the_log_tell_of_each_partition(two: Api) -> None:
    for number, queue in enumerate(QUEUES):
        for job in range(3 + number):
            two.submit(queue, "hello", id=f"j{job}")
    two.until(lambda: list(told(two, "writ_jobs_submitted_total", "queue", "partition").values()) == [3, 4])
    submitted = told(two, "writ_jobs_submitted_total", "queue", "partition")
    assert submitted == {(QUEUES[0], "0"): 3, (QUEUES[1], "1"): 4}
    for who in ("leading", "led"):
        assert told(two, f"writ_engine_{who}", "partition") == {("0",): 1, ("1",): 1}
    two.until(lambda: not any(told(two, "writ_view_lag_records", "view", "partition").values()))
    newest = told(two, "writ_engine_last_sequence", "partition")
    assert told(two, "writ_view_position", "partition", view="metrics") == newest
    components = {(name,): 1 for name in ("engine", "engine-1", "views", "views-1")}
    assert {name: told(two, "writ_component_up", "component")[name] for name in components} == components
    assert told(two, "writ_stream_messages", "stream").keys() == {
        (name,) for name in ("WRIT_LOG_0", "WRIT_LOG_1", "WRIT_SUBMIT")
    }
    found = samples(two)
    series = [(name, *sorted(labels.items())) for name, labels, _ in found]
    assert len(series) == len(set(series)), "no series stands twice"
    assert {labels["partition"] for _, labels, _ in found if "partition" in labels} == {"0", "1"}

    pages = [two.get("/v1/log", partition=number, kind="job", limit=500).document for number in PARTITIONS]
    keys = [[each["subject"].rpartition(".")[2] for each in page["records"]] for page in pages]
    assert keys == [[f"{queue}~j{job}" for job in range(3 + n)] for n, queue in enumerate(QUEUES)]
    assert two.get("/v1/log", kind="job", limit=500).document == pages[0], "the first, unless one is named"
    some = two.get("/v1/log", partition=1, kind="job", limit=1)
    assert "partition=1" in some.headers["link"]
    stretches = [two.get("/v1/log/stretch", partition=number).document for number in PARTITIONS]
    assert [each["partition"] for each in stretches] == PARTITIONS
    for path in ("/v1/log", "/v1/log/stretch"):
        missing = two.get(path, partition=2)
        assert missing.is_problem(404)
        assert "there is no partition 2: the node has 2" in missing.document["detail"]
        assert two.get(path, partition=-1).is_problem(422)
    stream = {"Accept": "text/event-stream"}
    assert two.ask("GET", "/v1/log", headers=stream, partition=2).is_problem(404)


def test_a_stream_follows_the_log_of_one_partition(two: Api) -> None:
    got: dict[int, list[dict[str, str]]] = {}
    for number, queue in enumerate(QUEUES):
        with two.events(partition=number, kind="job") as reader:
            assert "" in reader.next()
            for other in (QUEUES[1 - number], queue):  # what the other log stores is not told here
                two.submit(other, "hello", id=f"live-{number}")
            got[number] = reader.until(lambda event: f'"{queue}~live-' in event["data"])  # noqa: B023 - now
    for number, queue in enumerate(QUEUES):
        assert [queue in each["data"] for each in got[number]] == [True]
    # Who comes back has what came since, of the same log, though the other has records of the same numbers.
    with two.events(got[1][-1]["id"], partition=1, kind="job") as reader:
        assert "" in reader.next()
        for queue in QUEUES:
            two.submit(queue, "hello", id="last")
        rest = reader.until(lambda event: "~last" in event["data"])
    assert [QUEUES[1] in each["data"] for each in rest] == [True] * len(rest)
    stored = two.get("/v1/log", partition=1, kind="job", limit=500).document["records"]
    after = int(got[1][-1]["id"].partition("-")[2])
    assert [int(each["id"].partition("-")[2]) for each in rest] == [
        r["seq"] for r in stored if r["seq"] > after
    ]


def test_all_partitions_are_upgraded(two: Api) -> None:
    """`writ upgrade` raises the log of each, once no orchestrator of any is of the older Writ.

    The last of the module, as it is done for good.
    """
    for queue in QUEUES:
        two.submit(queue, "hello", id="before")
    refused = two.writ("upgrade", ok=False)
    assert refused.returncode == 1
    assert "not every orchestrator reads records of version" in refused.stderr, refused.stderr
    two.writ("down")
    two.up()
    done = json.loads(two.writ("upgrade", "--json", "--reason", "all are new").stdout)
    assert done["version"] == RECORDS
    for queue in QUEUES:
        two.submit(queue, "hello", id="after")
    two.writ("upgrade")  # once more changes nothing
    for number in PARTITIONS:
        page = two.get("/v1/log/stretch", partition=number).document
        events = [event for each in page["records"] for event in each["record"]["events"]]
        raised = [event["data"] for event in events if event["type"] == "records_raised"]
        assert [(each["version"], each["reason"]) for each in raised] == [(RECORDS, "all are new")], number
    assert two.writ("audit", "verify").returncode == 0
