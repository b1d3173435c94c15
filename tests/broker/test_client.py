"""The connection, the wire and the client, against a real nats-server and small responders."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import math
import socket
import subprocess
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg

from writ.broker.blocking import SyncClient
from writ.broker.client import Client, JobHandle
from writ.broker.connect import Target, connect
from writ.broker.errors import (
    ClientClosed,
    JobCancelled,
    JobFailed,
    JobNotFound,
    NoAnswer,
    NoResponders,
    PermissionDenied,
    Refused,
    SubmitRefused,
    TooLarge,
    Unreachable,
)
from writ.broker.moving import FileBroken
from writ.broker.owned import server_binary
from writ.broker.submits import new_job_id
from writ.broker.wire import NatsWire
from writ.schemas import events, submits
from writ.schemas.assets import ASSET_VERBS, AssetsTold, AssetTold
from writ.schemas.canaries import CanaryPolicy
from writ.schemas.codec import encode
from writ.schemas.commands import (
    CONTROL_VERBS,
    Answer,
    Approval,
    Erased,
    Plan,
    Planned,
    PriceTable,
    SubmitJob,
    TenantTold,
)
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.evaluations import Dimension, Measured
from writ.schemas.events import Filter, OnDead, OnParentEnd, OperationVerb
from writ.schemas.fleet import FLEET_VERBS
from writ.schemas.gates import GateSpec
from writ.schemas.granting import ACCESS_VERBS
from writ.schemas.hosting import HOSTING_VERBS
from writ.schemas.lifecycle import State
from writ.schemas.policy import QueuePolicy, Retry
from writ.schemas.principals import Role
from writ.schemas.queries import ErrorView, JobsPage, JobView, NodeStatus
from writ.schemas.quotas import Quotas
from writ.schemas.records import Record, Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.releasing import RELEASE_VERBS, GatesTold, Promoted
from writ.schemas.schedules import ScheduleSpec
from writ.schemas.sealed import seal
from writ.schemas.shards import ShardsTold
from writ.schemas.stores import File, FileLine, FileTold, PartTold
from writ.schemas.subjects import led_subject
from writ.schemas.tenants import TenantPolicy
from writ.schemas.upgrading import UPGRADE_VERBS

WAIT_S = 10.0
CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}" }}
accounts {{
  A: {{ jetstream: enabled, users: [
    {{user: all, password: p}}
    {{user: few, password: p, permissions: {{
      publish: "writ.submit.default.owner.*", subscribe: "_INBOX_owner.>"
    }}}}
  ]}}
}}
no_auth_user: all
"""
JOBS = "writ.query.default.owner.job"


class Server:
    """A nats-server with a plain configuration, and what a node would do, as far as a test asks for it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.config = folder / "broker.conf"
        self.config.write_text(CONFIG.format(port=self.port, folder=folder / "data"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [str(server_binary()), "-c", str(self.config)], stderr=subprocess.DEVNULL
        )
        await (await connect(Target(self.url), "probe", wait_s=WAIT_S)).close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Backstage:
    """The node's side of the wire."""

    def __init__(self, nats: Any) -> None:
        self.nats = nats
        self.asked: list[tuple[str, Any]] = []

    async def serve(self, subject: str, answer: Callable[[int], msgspec.Struct | msgspec.Raw | None]) -> None:
        """Answers the n-th request for a subject; None for silence."""

        async def reply(message: Msg) -> None:
            self.asked.append((message.subject, json.loads(message.data)))
            body = answer(len([subject for subject, _ in self.asked if subject == message.subject]))
            if body is not None:
                await message.respond(msgspec.json.encode(body))

        await self.nats.subscribe(subject, cb=reply)
        await self.nats.flush()

    async def feed(self, kind: str, key: str, *facts: events.Fact, source: Source | None = None) -> None:
        record = Record(1, 9, "default", kind, key, 1, "owner", facts, source=source)
        await self.nats.publish(f"writ.feed.default.{kind}.{key}", encode(record, "0" * 64))
        await self.nats.flush()

    async def submits(self) -> list[tuple[str, Any, str]]:
        """What the intake stream holds: subject, body, message id."""
        stream = self.nats.jetstream()
        count = (await stream.stream_info("WRIT_SUBMIT")).state.messages
        found = [await stream.get_msg("WRIT_SUBMIT", seq) for seq in range(1, count + 1)]
        return [(m.subject, json.loads(m.data), m.headers["Nats-Msg-Id"]) for m in found]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path)
    await made.start()
    yield made
    made.kill()


@pytest.fixture
async def backstage(server: Server) -> AsyncIterator[Backstage]:
    nats: Any = await connect(Target(server.url), "backstage")
    await nats.jetstream().add_stream(name="WRIT_SUBMIT", subjects=["writ.submit.>"])
    yield Backstage(nats)
    await nats.close()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url) as made:
        yield made


@asynccontextmanager
async def doing(work: Awaitable[Any]) -> AsyncGenerator[asyncio.Future[Any]]:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def until(ready: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not ready():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.002)


def view(state: State = State.PENDING, **more: Any) -> JobView:
    values: dict[str, Any] = {
        "id": "7",
        "tenant": "default",
        "queue": "q",
        "task": "t",
        "state": state,
        "attempt": 1,
        "input": msgspec.Raw(b"null"),
        "output": msgspec.Raw(b"null"),
        "actor": "owner",
        "submitted_at": "",
        "due_at": "",
        "priority": 3,
        "round": 1,
        "failures": 0,
        "lease_losses": 0,
        "seq": 1,
    }
    for empty in ("error", "release", "finished_at", "worker", "lease_expires_at", "reason", "dead_reason"):
        values[empty] = None
    return JobView(**(values | more))


def page(*jobs: JobView) -> Callable[[int], JobsPage]:
    return lambda _: JobsPage(jobs=jobs)


# --- connecting -----------------------------------------------------------------------------------------


def test_a_target_is_read_from_the_environment() -> None:
    env = {"NATS_URL": "nats://x:1", "NATS_NKEY": "a/b.nk", "WRIT_TENANT": "acme", "WRIT_PRINCIPAL": "bot"}
    assert Target.from_env(env) == Target("nats://x:1", Path("a/b.nk"), "acme", "bot")
    assert Target.from_env({}) == Target("nats://127.0.0.1:4222", None, "default", "owner")
    with pytest.raises(ValueError, match=r"principal 'a\.b' holds '\.'"):
        Target(principal="a.b")


async def test_a_server_that_says_nothing_leaves_time_for_the_next(server: Server) -> None:
    """It takes connections, as one of a cluster that is stopped. Whichever is tried first."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = Target(f"nats://127.0.0.1:{silent.getsockname()[1]},{server.url}")
        for _ in range(6):
            link = await connect(target, "t", try_s=0.5)
            assert link.is_connected
            await link.close()


async def test_no_broker_is_said_at_once_and_with_what_to_do(tmp_path: Path) -> None:
    url = Server(tmp_path).url
    with pytest.raises(Unreachable, match=rf"cannot reach the broker at {url}: .*writ up"):
        await connect(Target(url), "t")
    with pytest.raises(Unreachable, match=r"key file .* does not exist"):
        await connect(Target(url, tmp_path / "none.nk"), "t")


async def test_a_broker_that_does_not_let_us_in_is_unreachable(server: Server) -> None:
    url = server.url.replace("//", "//nobody:wrong@")
    with pytest.raises(Unreachable, match="does not admit"):
        await connect(Target(url), "t")


async def test_a_broker_that_comes_up_later_is_waited_for(tmp_path: Path) -> None:
    late = Server(tmp_path)
    async with doing(connect(Target(late.url), "t", wait_s=WAIT_S)) as connecting:
        try:
            await late.start()
            nats = await asyncio.wait_for(connecting, WAIT_S)
            await nats.close()
        finally:
            late.kill()


async def test_a_denied_publish_or_subscribe_is_an_error_and_no_timeout(
    server: Server, backstage: Backstage
) -> None:
    wire = await NatsWire.connect(Target(server.url.replace("//", "//few:p@")), "few")
    with pytest.raises(PermissionDenied, match=r"may not publish to writ.lease.default.owner.Acquire.q"):
        await wire.request("writ.lease.default.owner.Acquire.q", b"{}", WAIT_S)
    with pytest.raises(PermissionDenied, match=r"may not subscribe to writ.feed.default.job.x"):
        await wire.subscribe("writ.feed.default.job.x", lambda subject, body: None)
    assert await wire.publish_submit("writ.submit.default.owner.q", b"{}", "1") == 1
    await wire.close()


async def test_a_message_that_the_broker_does_not_take_is_an_error_of_its_own(server: Server) -> None:
    wire = await NatsWire.connect(Target(server.url), "one")
    with pytest.raises(TooLarge, match=rf"a message of 1048577 bytes to {JOBS} is larger than the broker"):
        await wire.request(JOBS, bytes(1024 * 1024 + 1), WAIT_S)
    with pytest.raises(NoResponders):
        await wire.request(JOBS, bytes(1024 * 1024), WAIT_S)
    await wire.close()


async def test_what_a_leader_owes_is_unanswered_as_soon_as_another_leads(
    server: Server, backstage: Backstage
) -> None:
    """Nobody says that the one who was asked is dead: without this an acquire waits for its whole time."""
    wire = await NatsWire.connect(Target(server.url), "one")
    acquire = "writ.lease.default.owner.acquire.q"
    for subject in (acquire, JOBS):
        await backstage.serve(subject, lambda _: None)
    leased = asyncio.create_task(wire.request(acquire, b"{}", WAIT_S))
    asked = asyncio.create_task(wire.request(JOBS, b"{}", WAIT_S))
    await until(lambda: len(backstage.asked) == 2)
    await backstage.nats.publish(led_subject(0), b"")
    with pytest.raises(NoAnswer, match="its leader is gone"):
        await leased
    assert not asked.done(), "the views answer that"
    asked.cancel()
    await wire.close()


async def test_a_principal_that_may_only_submit_learns_nothing_of_clashes(
    server: Server, backstage: Backstage
) -> None:
    async with Client(Target(server.url.replace("//", "//few:p@"))) as client:
        assert await client.submit("q", "t", id="7", unique_key="u") == JobHandle("q", "7", 1, existing=None)


async def test_a_principal_that_may_only_submit_can_submit(server: Server, backstage: Backstage) -> None:
    async with Client(server.url.replace("//", "//few:p@")) as client:
        assert (await client.submit("q", "t")).seq == 1
        with pytest.raises(PermissionDenied):
            await client.status()


async def test_requests_wait_for_a_broken_connection_and_are_sent_once(
    server: Server, backstage: Backstage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.asking.TRY_S", 1.0)
    await backstage.serve("writ.query.default.owner.status", lambda _: NodeStatus(version="1"))
    assert (await client.status()).version == "1"
    server.kill()
    async with doing(client.status(timeout_s=30)) as asking:
        await server.start()
        assert (await asyncio.wait_for(asking, 30)).version == "1"
    assert len(backstage.asked) == 2


# --- submitting -----------------------------------------------------------------------------------------


async def test_a_submit_is_stored_once_under_its_own_name(backstage: Backstage, client: Client) -> None:
    due = datetime(2030, 1, 1, tzinfo=UTC)
    first = await client.submit("q", "t", {"a": 1}, id="7", priority=1, retry=Retry(max_attempts=2))
    second = await client.submit("q", "t", not_before=due, lease_s=5)
    stored = await backstage.submits()
    assert [subject for subject, _, _ in stored] == ["writ.submit.default.owner.q"] * 2
    assert stored[0][1] == {
        "task": "t",
        "input": {"a": 1},
        "id": "7",
        "priority": 1,
        "retry": {"max_attempts": 2},
    }
    assert stored[1][1] == {
        "task": "t",
        "input": None,
        "id": second.id,
        "not_before": "2030-01-01T00:00:00Z",
        "lease_s": 5,
    }
    assert stored[0][2].startswith("default.q.7.")
    assert first == JobHandle("q", "7", 1)
    assert (len(second.id), second.seq) == (26, 2)


async def test_a_repeated_publish_is_stored_once(server: Server, backstage: Backstage) -> None:
    wire = await NatsWire.connect(Target(server.url), "t")
    seqs = [await wire.publish_submit("writ.submit.default.owner.q", b"{}", "same") for _ in range(2)]
    assert seqs == [1, 1]
    await wire.close()


async def test_a_submit_waits_for_an_intake(server: Server, client: Client) -> None:
    async with doing(client.submit("q", "t")) as submitting:
        nats: Any = await connect(Target(server.url), "late")
        await nats.jetstream().add_stream(name="WRIT_SUBMIT", subjects=["writ.submit.>"])
        assert (await asyncio.wait_for(submitting, WAIT_S)).seq == 1
        await nats.close()


async def test_without_an_intake_the_error_says_so(client: Client) -> None:
    with pytest.raises(NoResponders, match=r"nobody serves writ.submit.default.owner.q; is a node running\?"):
        await client.submit("q", "t", timeout_s=0.2)


async def test_many_are_packed_into_arrays(backstage: Backstage, client: Client) -> None:
    handles = await client.submit_many("q", [{"task": "t", "input": n, "id": f"j{n}"} for n in range(1_201)])
    assert [handle.id for handle in handles] == [f"j{n}" for n in range(1_201)]
    stored = {seq: body for seq, (_, body, _) in enumerate(await backstage.submits(), 1)}
    assert sorted(len(body) for body in stored.values()) == [201, 500, 500]
    for handle in handles:
        assert handle.index is not None
        assert stored[handle.seq][handle.index]["id"] == handle.id


async def test_submitters_at_the_same_time_share_messages(backstage: Backstage, client: Client) -> None:
    handles = await asyncio.gather(*(client.submit("q", "t", n, id=f"j{n}") for n in range(50)))
    stored = {seq: body for seq, (_, body, _) in enumerate(await backstage.submits(), 1)}
    assert len(stored) < 10
    for number, handle in enumerate(handles):
        body = stored[handle.seq]
        assert (body if handle.index is None else body[handle.index])["id"] == f"j{number}"


async def test_a_submit_whose_turn_does_not_come_says_that_nobody_answered(client: Client) -> None:
    submits = [client.submit("q", "t", timeout_s=limit_s) for limit_s in (0.5, 0.05)]
    done = await asyncio.gather(*submits, return_exceptions=True)
    assert [type(each) for each in done] == [NoResponders, NoAnswer]


async def test_unique_keys_make_smaller_arrays(backstage: Backstage, client: Client) -> None:
    jobs = [{"task": "t", "id": str(n), "unique_key": str(n)} for n in range(500)]
    await client.submit_many("q", jobs, timeout_s=0.5)
    assert sorted(len(body) for _, body, _ in await backstage.submits()) == [50, 450]


async def test_large_inputs_make_smaller_arrays(backstage: Backstage, client: Client) -> None:
    await client.submit_many(
        "q", (SubmitJob("t", msgspec.Raw(b'"%s"' % (b"x" * 200_000))) for _ in range(10))
    )
    assert sorted(len(body) for _, body, _ in await backstage.submits()) == [2, 4, 4]


@pytest.mark.parametrize(
    ("queue", "job"),
    [
        ("q", {"task": ""}),
        ("q", {"task": "t", "priority": 9}),
        ("q", {"task": "t", "prioritiy": 3}),
        ("q", {"task": "t", "id": "a.b"}),
        ("q", {"task": "t", "retry": {"max_attempts": -1}}),
        ("q", {"task": "t", "input": "x" * 300_000}),
        ("q", {"task": "t", "not_before": "2030-01-01T00:00:00"}),
        ("q", {"task": "t", "not_before": "2030-01-01T00:00:00Z", "delay_s": 1}),
        ("q", {"task": "t", "id": "1-2-3"}),
        ("q", {"task": "t", "id": "a\n"}),
        ("q", {"task": "t", "retry": {"non_retryable_types": ["x" * 20_000]}}),
        ("a.b", {"task": "t", "id": "1"}),
        ("", {"task": "t", "id": "1"}),
        ("q" * 200, {"task": "t", "id": "i" * 200}),
    ],
)
async def test_what_is_wrong_is_said_before_sending_in_the_orchestrators_words(
    queue: str, job: dict[str, Any]
) -> None:
    with pytest.raises(SubmitRefused) as refused:
        await Client("nats://127.0.0.1:1").submit_many(queue, [job])
    command = submits.parse(msgspec.json.encode({"id": "made"} | job), 0)
    expected = (
        command if isinstance(command, Rejection) else submits.address_fault(queue, command.id or "", 0)
    )
    assert refused.value.rejection == expected


@pytest.mark.parametrize(
    ("job", "field", "number"),
    [
        ({"attempt_timeout_s": math.inf}, "attempt_timeout_s", "inf"),
        ({"delay_s": math.nan, "tags": {"a": "null"}}, "delay_s", "nan"),
        ({"retry": Retry(max_interval_s=-math.inf)}, "retry.max_interval_s", "-inf"),
        (
            {"retry": {"per_class": {"timeout": {"backoff": math.inf}}}},
            "retry.per_class.timeout.backoff",
            "inf",
        ),
        ({"approval": Approval(timeout_s=math.inf)}, "approval.timeout_s", "inf"),
    ],
)
async def test_an_option_that_json_has_no_number_for_is_refused(
    job: dict[str, Any], field: str, number: str
) -> None:
    """It would be written as null, and the default would hold."""
    client = Client("nats://127.0.0.1:1")
    with pytest.raises(SubmitRefused) as one:
        await client.submit("q", "t", **job)
    with pytest.raises(SubmitRefused) as many:
        await client.submit_many("q", [{"task": "t"}, {"task": "t", **job}])
    told = Rejection(RejectionKind.MALFORMED, f"it is {number}; give a finite number", field)
    assert one.value.rejection == told
    assert many.value.rejection == msgspec.structs.replace(told, index=1)


async def test_an_infinity_in_an_input_is_null_as_ever(backstage: Backstage, client: Client) -> None:
    await client.submit("q", "t", {"n": math.inf}, id="7")
    ((_, sent, _),) = await backstage.submits()
    assert sent == {"task": "t", "input": {"n": None}, "id": "7"}


@pytest.mark.parametrize(
    ("field", "method", "given"),
    [
        ("policy.rate_per_s", Client.declare_queue, ("q", QueuePolicy(rate_per_s=math.nan))),
        ("spec.every_s", Client.declare_schedule, ("q", "s", ScheduleSpec("t", every_s=math.inf))),
        ("quotas.submits_per_s", Client.set_quotas, ("acme", Quotas(submits_per_s=math.inf))),
    ],
)
async def test_what_is_asked_with_a_number_that_json_has_not_is_refused(
    field: str, method: Callable[..., Coroutine[Any, Any, object]], given: tuple[object, ...]
) -> None:
    with pytest.raises(Refused, match=f"{field}: it is (inf|nan); give a finite number"):
        await method(Client("nats://127.0.0.1:1"), *given)


async def test_an_input_that_is_not_json_is_refused() -> None:
    with pytest.raises(SubmitRefused, match="input: the job cannot be written as JSON"):
        await Client("nats://127.0.0.1:1").submit("q", "t", {"file": object()})


def test_made_ids_sort_by_time_and_can_stand_in_subjects() -> None:
    ids = [new_job_id(ms, lambda n: b"\xff" * n) for ms in (0, 1, 999, 1_000, 2**47)]
    assert ids == sorted(ids)
    assert {len(job_id) for job_id in ids} == {26}
    assert ids[0] == "0000000000" + "Z" * 16


# --- results --------------------------------------------------------------------------------------------


async def test_a_result_comes_from_the_view_where_the_job_has_ended_before(
    backstage: Backstage, client: Client
) -> None:
    await backstage.serve(JOBS, page(view(State.COMPLETED, output=msgspec.Raw(b'{"sum": 3}'))))
    assert await client.result("7", timeout_s=WAIT_S) == {"sum": 3}
    assert await client.result(JobHandle("q", "7", 1), timeout_s=WAIT_S) == {"sum": 3}


async def test_a_result_comes_from_the_feed_as_it_happens(backstage: Backstage, client: Client) -> None:
    await backstage.serve(JOBS, page(view()))
    async with doing(client.result(JobHandle("q", "7", 1), timeout_s=WAIT_S)) as waiting:
        await until(lambda: backstage.asked)  # the subscription comes before the question
        await backstage.feed("job", "q~7", events.LeaseGranted("w", 1))
        await backstage.feed("job", "q~7", events.JobCompleted(1, 1, seal(b"[1,2]")))
        assert await waiting == [1, 2]


async def test_a_result_needs_no_view(backstage: Backstage, client: Client) -> None:
    heard: asyncio.Event = asyncio.Event()

    async def arrived(_: Msg) -> None:
        heard.set()

    await backstage.nats.subscribe(JOBS, cb=arrived)
    await backstage.nats.flush()
    async with doing(client.result(JobHandle("q", "7", 1), timeout_s=WAIT_S)) as waiting:
        await asyncio.wait_for(heard.wait(), WAIT_S)
        await backstage.feed("job", "q~7", events.JobCompleted(1, 1, seal(b"4")))
        assert await waiting == 4


async def test_a_dead_letter_is_raised_with_its_reason_and_error(
    backstage: Backstage, client: Client
) -> None:
    await backstage.serve(JOBS, page(view()))
    error = AttemptError(ErrorClass.APPLICATION, "ValueError", seal(b'"bad total\\n\\nTraceback"'))
    async with doing(client.result(JobHandle("q", "7", 1), timeout_s=WAIT_S)) as waiting:
        await until(lambda: backstage.asked)
        failed = events.AttemptFailed(5, 1, error)
        dead = events.JobDeadLettered(events.DeadReason.EXHAUSTED, "failed attempt 5 of max_attempts 5")
        await backstage.feed("job", "q~7", failed, dead)
        with pytest.raises(JobFailed) as raised:
            await waiting
    assert raised.value.reason is events.DeadReason.EXHAUSTED
    assert raised.value.error == ErrorView("application", "ValueError", "bad total\n\nTraceback")
    assert str(raised.value) == (
        "job 7 in queue q is dead (exhausted): failed attempt 5 of max_attempts 5; "
        "the last error is ValueError: bad total"
    )


async def test_an_end_that_the_view_tells_is_raised_alike(backstage: Backstage, client: Client) -> None:
    ends = [
        view(State.CANCELLED, reason="not needed"),
        view(State.DEAD, reason="expired", error=ErrorView("timeout", "AttemptTimeout")),
    ]
    await backstage.serve(JOBS, lambda n: JobsPage(jobs=(ends[n - 1],)))
    with pytest.raises(JobCancelled, match="job 7 in queue q was cancelled: not needed"):
        await client.result(JobHandle("q", "7", 1), timeout_s=WAIT_S)
    with pytest.raises(
        JobFailed, match="job 7 in queue q is dead: expired; the last error is AttemptTimeout"
    ):
        await client.result(JobHandle("q", "7", 1), timeout_s=WAIT_S)


async def test_a_result_that_does_not_come_times_out_with_the_state(
    backstage: Backstage, client: Client
) -> None:
    await backstage.serve(JOBS, page(view(State.RUNNING)))
    with pytest.raises(TimeoutError, match=r"job 7 in queue q has not ended within 0.5 s: it is running"):
        await client.result(JobHandle("q", "7", 1), timeout_s=0.5)


async def test_a_result_that_does_not_come_tells_the_state_in_which_the_job_is_then(
    backstage: Backstage, client: Client
) -> None:
    """And not that in which it was seen when the waiting began. One that has ended since has its output."""
    states = [State.PENDING, State.RUNNING, State.PENDING, State.COMPLETED]
    await backstage.serve(JOBS, lambda n: JobsPage(jobs=(view(states[n - 1], output=msgspec.Raw(b"7")),)))
    with pytest.raises(TimeoutError, match=r"it is running"):
        await client.result(JobHandle("q", "7", 1), timeout_s=0.2)
    assert await client.result(JobHandle("q", "7", 1), timeout_s=0.2) == 7


@pytest.mark.parametrize("before", [True, False])
async def test_a_submit_that_the_orchestrator_refused_is_raised_by_result(
    backstage: Backstage, client: Client, before: bool
) -> None:
    await backstage.serve(JOBS, page())
    handles = await client.submit_many("q", [{"task": "t", "id": f"j{n}"} for n in range(3)])
    other = await client.submit("q", "t", id="other")
    refusal = Rejection(RejectionKind.CONFLICT, "the queue is closed", None, 1)

    async def refuse() -> None:
        source = Source(1, handles[0].seq, 2)
        event = events.CommandRejected("submit", (refusal,), "q")
        await backstage.feed("principal", "owner", event, source=source)

    if before:
        await refuse()
    async with doing(client.result(handles[1], timeout_s=WAIT_S)) as waiting:
        if not before:
            await until(lambda: backstage.asked)
            await refuse()
        with pytest.raises(SubmitRefused, match="the queue is closed") as raised:
            await waiting
    assert raised.value.rejection == refusal
    for handle in (handles[0], other):
        with pytest.raises(TimeoutError, match="not known to the node yet"):
            await client.result(handle, timeout_s=0.2)


def stands(index: int | None = None) -> Rejection:
    words = "unique_key u belongs to the live job q~old"
    return Rejection(RejectionKind.DUPLICATE, words, "unique_key", index, "q~old")


async def test_a_submit_with_a_unique_key_returns_the_job_that_stands_for_it(
    backstage: Backstage, client: Client
) -> None:
    answers = {"old": page(view(State.COMPLETED, id="old", output=msgspec.Raw(b"7")))}
    await backstage.serve(JOBS, lambda _: answers.get(backstage.asked[-1][1]["id"], page())(1))
    async with doing(client.submit("q", "t", id="new", unique_key="u", timeout_s=WAIT_S)) as submitting:
        await until(lambda: backstage.asked)
        assert not submitting.done(), "that the view has no such job yet says nothing"
        event = events.CommandRejected("submit", (stands(),), "q")
        await backstage.feed("principal", "owner", event, source=Source(1, 1, 0))
        handle = await submitting
    assert handle == JobHandle("q", "old", 0, existing=True)
    assert await client.result(handle, timeout_s=WAIT_S) == 7
    answers["mine"] = page(view(id="mine"))
    assert await client.submit("q", "t", id="mine", unique_key="u") == JobHandle("q", "mine", 2)
    answers.clear()
    async with doing(client.submit("q", "t", id="next", unique_key="u", timeout_s=WAIT_S)) as submitting:
        await until(lambda: backstage.asked[-1][1]["id"] == "next")
        await backstage.feed("job", "q~next", events.JobSubmitted("t", seal(b"1")))
        assert await submitting == JobHandle("q", "next", 3)


async def test_a_clash_that_rejects_is_raised_by_submit(backstage: Backstage, client: Client) -> None:
    await backstage.serve(JOBS, page())
    async with doing(client.submit("q", "t", unique_key="u", timeout_s=WAIT_S)) as submitting:
        await until(lambda: backstage.asked)
        refusal = Rejection(RejectionKind.CONFLICT, "on_clash is reject", "unique_key", None, "q~old")
        event = events.CommandRejected("submit", (refusal,), "q")
        await backstage.feed("principal", "owner", event, source=Source(1, 1, 0))
        with pytest.raises(SubmitRefused, match="on_clash is reject"):
            await submitting


async def test_in_an_array_each_has_the_job_that_stands_for_it(backstage: Backstage, client: Client) -> None:
    answers = {"b": page(view(id="b")), "old": page(view(State.COMPLETED, id="old"))}
    await backstage.serve(JOBS, lambda _: answers.get(backstage.asked[-1][1]["id"], page())(1))
    jobs: list[SubmitJob | dict[str, Any]] = [
        {"task": "t", "id": "a", "unique_key": "u"},
        SubmitJob(task="t", id="b", unique_key="v"),
        {"task": "t", "id": "c"},
        {"task": "t", "id": "d", "unique_key": "w"},
    ]
    async with doing(client.submit_many("q", jobs, timeout_s=WAIT_S)) as submitting:
        await until(lambda: len(backstage.asked) == 3)
        other = Rejection(RejectionKind.CONFLICT, "on_clash is reject", "unique_key", 3)
        event = events.CommandRejected("submit", (stands(0), other), "q", 2)
        await backstage.feed("principal", "owner", event, source=Source(1, 1, 3))
        handles = await submitting
    a, b, c, d = handles
    assert a == JobHandle("q", "old", 0, existing=True)
    assert [b, c, d] == [JobHandle("q", "b", 1, 1), JobHandle("q", "c", 1, 2), JobHandle("q", "d", 1, 3)]
    with pytest.raises(SubmitRefused, match="on_clash is reject"):
        await client.result(d, timeout_s=WAIT_S)


async def test_while_nobody_decides_the_submit_is_stored_and_result_finds_out(
    backstage: Backstage, client: Client
) -> None:
    answers = {"old": page(view(State.COMPLETED, id="old", output=msgspec.Raw(b"7")))}
    await backstage.serve(JOBS, lambda _: answers.get(backstage.asked[-1][1]["id"], page())(1))
    handle = await client.submit("q", "t", id="new", unique_key="u", timeout_s=0.3)
    assert handle == JobHandle("q", "new", 1, existing=None)
    event = events.CommandRejected("submit", (stands(),), "q")
    await backstage.feed("principal", "owner", event, source=Source(1, 1, 0))
    assert await client.result(handle, timeout_s=WAIT_S) == 7


# --- looking and operating ------------------------------------------------------------------------------


async def test_try_later_and_nobody_there_are_asked_again(backstage: Backstage, client: Client) -> None:
    later = JobsPage(error=Rejection(RejectionKind.TRY_LATER, "the view is behind"))
    async with doing(client.jobs(states=("dead",), queue="q", limit=5)) as asking:
        await backstage.serve(
            "writ.query.default.owner.jobs", lambda n: later if n < 3 else JobsPage(jobs=(view(),), next="x")
        )
        found: JobsPage = await asyncio.wait_for(asking, WAIT_S)
    assert (found.next, [job.id for job in found.jobs]) == ("x", ["7"])
    assert backstage.asked[0][1] == {"states": ["dead"], "queue": "q", "limit": 5}
    with pytest.raises(NoResponders, match=r"nobody serves writ.query.default.owner.status"):
        await client.status(timeout_s=0.2)


async def test_try_later_for_too_long_is_said_with_its_reason(backstage: Backstage, client: Client) -> None:
    later = JobsPage(error=Rejection(RejectionKind.TRY_LATER, "the view is behind"))
    await backstage.serve("writ.query.default.owner.jobs", lambda n: later)
    with pytest.raises(Refused, match="the view is behind"):
        await client.jobs(timeout_s=0.2)


async def test_a_job_that_is_not_there_or_there_twice(backstage: Backstage, client: Client) -> None:
    pages = [JobsPage(), JobsPage(jobs=(view(), view(queue="p")))]
    await backstage.serve(JOBS, lambda n: pages[n - 1])
    with pytest.raises(JobNotFound, match="no job 7"):
        await client.job("7")
    with pytest.raises(JobNotFound, match="several queues have a job 7: p, q; say which"):
        await client.job("7")


async def test_cancel_and_redrive_are_asked_and_refusals_raised(backstage: Backstage, client: Client) -> None:
    conflict = Answer(Rejection(RejectionKind.CONFLICT, "already_finished: the job is completed", "id"))
    await backstage.serve("writ.control.default.owner.cancel.q", lambda n: Answer(position=5))
    await backstage.serve("writ.control.default.owner.redrive.q", lambda n: conflict)
    await backstage.serve(JOBS, page(view()))
    await client.cancel("7", "q", "not needed")
    with pytest.raises(Refused, match="already_finished") as raised:
        await client.redrive("7", "q")
    assert raised.value.kind is RejectionKind.CONFLICT
    asked = [body for subject, body in backstage.asked if ".control." in subject]
    assert asked == [{"id": "7", "reason": "not needed"}, {"id": "7"}]


async def test_what_writ_denies_is_permission_denied_with_its_rule(
    backstage: Backstage, client: Client
) -> None:
    why = Rejection(RejectionKind.DENIED, "owner may not cancel on q: no role allows it [deny.default]")
    await backstage.serve("writ.control.default.owner.cancel.q", lambda n: Answer(why))
    with pytest.raises(PermissionDenied, match=r"may not cancel on q: .* \[deny\.default\]") as raised:
        await client.cancel("7", "q")
    assert raised.value.rejection == why


@pytest.mark.parametrize("verb", ["redrive", "rerun"])
async def test_a_reopening_says_which_end_was_seen(backstage: Backstage, client: Client, verb: str) -> None:
    subject = f"writ.control.default.owner.{verb}.q"
    await backstage.serve(JOBS, page(view(State.DEAD, ended_by=41)))
    await backstage.serve(subject, lambda n: None if n == 1 else Answer())
    ask = getattr(client, verb)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("writ.broker.asking.TRY_S", 0.2)
        await ask("7", "q", "mended")
    await ask("7", "q", answers=12)
    asked = [body for each, body in backstage.asked if each == subject]
    once = {"id": "7", "reason": "mended", "answers": 41}
    assert asked == [once, once, {"id": "7", "answers": 12}], "asked again, it is the same decision"
    assert len([each for each, _ in backstage.asked if each == JOBS]) == 1, "not looked up where it is given"


async def test_a_job_that_cannot_be_read_is_reopened_without(
    backstage: Backstage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.operating.READ_S", 0.2)
    await backstage.serve("writ.control.default.owner.rerun.q", lambda _: Answer())
    await client.rerun("7", "q", from_step="extract")
    assert backstage.asked == [("writ.control.default.owner.rerun.q", {"id": "7", "from_step": "extract"})]


async def test_every_control_verb_has_a_method_that_asks_for_it(backstage: Backstage, client: Client) -> None:
    answer = {"operation": "op1", "matched": 2, "jobs": ["a"], "proposal": 3, "position": 9}
    key = "U" + "A" * 55
    told = dict(answer)
    for queue in ("q", "-"):
        await backstage.serve(
            f"writ.control.default.owner.*.{queue}", lambda _: msgspec.Raw(msgspec.json.encode(told))
        )
    await backstage.serve(JOBS, page())
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    spec = ScheduleSpec(task="t", cron="0 3 * * *")
    calls: list[tuple[Awaitable[Any], str, dict[str, Any], Any]] = [
        (client.cancel("7", "q", "r"), "cancel", {"id": "7", "reason": "r"}, 9),
        (client.terminate("7", "q", "r"), "terminate", {"id": "7", "reason": "r"}, 9),
        (client.redrive("7", "q", "r"), "redrive", {"id": "7", "reason": "r"}, 9),
        (client.rerun("7", "q", "r"), "rerun", {"id": "7", "reason": "r"}, 9),
        (client.drop("7", "q", "r"), "drop", {"id": "7", "reason": "r"}, 9),
        (client.pause("7", "q", "r"), "pause", {"id": "7", "reason": "r"}, 9),
        (client.resume("7", "q", "r"), "resume", {"id": "7", "reason": "r"}, 9),
        (client.approve("7", "q", "r", data=[1]), "approve", {"id": "7", "reason": "r", "data": [1]}, 9),
        (client.reject("7", "q", "r"), "reject", {"id": "7", "reason": "r"}, 9),
        (
            client.signal("7", "q", "go", {"n": 1}),
            "signal",
            {"id": "7", "name": "go", "data": {"n": 1}},
            9,
        ),
        (client.edit("7", "q", priority=1), "edit", {"id": "7", "priority": 1}, 9),
        (client.edit("7", "q", input=None), "edit", {"id": "7", "input": None}, 9),
        (client.seal_batch("q", "b", 3), "seal_batch", {"batch": "b", "size": 3}, 9),
        (
            client.plan("q", Plan(OperationVerb.REDRIVE, limit=5)),
            "plan",
            {"verb": "redrive", "limit": 5},
            Planned(operation="op1", matched=2, position=9),
        ),
        (
            client.declare_queue("q", QueuePolicy(concurrency=2)),
            "declare",
            {"policy": {"concurrency": 2}},
            9,
        ),
        (
            client.declare_queue("q", QueuePolicy(), version=2),
            "declare",
            {"policy": {}, "version": 2},
            9,
        ),
        (client.pause_queue("q", "r"), "pause_queue", {"reason": "r"}, 9),
        (client.drain_queue("q", "r"), "drain_queue", {"reason": "r"}, 9),
        (client.resume_queue("q", "r"), "resume_queue", {"reason": "r"}, 9),
        (
            client.declare_schedule("q", "n", spec, {"a": 1}),
            "declare_schedule",
            {"name": "n", "spec": {"task": "t", "cron": "0 3 * * *"}, "input": {"a": 1}},
            9,
        ),
        (client.pause_schedule("q", "n"), "pause_schedule", {"name": "n"}, 9),
        (client.resume_schedule("q", "n"), "resume_schedule", {"name": "n"}, 9),
        (client.delete_schedule("q", "n"), "delete_schedule", {"name": "n"}, 9),
        (client.trigger_schedule("q", "n"), "trigger_schedule", {"name": "n"}, ("a",)),
        (
            client.backfill_schedule("q", "n", moment, moment, limit=9),
            "backfill_schedule",
            {"name": "n", "from": "2030-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z", "limit": 9},
            ("a",),
        ),
        (client.erase("q", "7", "r"), "erase", {"id": "7", "reason": "r"}, 4),
        (
            client.place_hold("q", "n", Filter(task="t")),
            "place_hold",
            {"name": "n", "filter": {"task": "t"}},
            9,
        ),
        (client.lift_hold("q", "n"), "lift_hold", {"name": "n"}, 9),
        (
            client.set_price("m", 1, 2, from_=moment),
            "set_price",
            {"model": "m", "input_microusd": 1, "output_microusd": 2, "from": "2030-01-01T00:00:00Z"},
            9,
        ),
        (client.prices("m"), "list_prices", {"model": "m"}, PriceTable(position=9)),
        (
            client.declare_tenant(TenantPolicy(archive_after_s=7), "r"),
            "declare_tenant",
            {"policy": {"archive_after_s": 7.0}, "reason": "r"},
            9,
        ),
        (
            client.set_asset("n", "shh-shh", secret=True, reason="r"),
            "set_asset",
            {"name": "n", "value": "c2hoLXNoaA==", "secret": True, "reason": "r"},
            AssetTold(position=9),
        ),
        (client.asset("n", 3), "get_asset", {"name": "n", "version": 3}, AssetTold(position=9)),
        (client.assets("n"), "list_assets", {"name": "n"}, AssetsTold(position=9)),
        (client.remove_asset("n", reason="r"), "remove_asset", {"name": "n", "reason": "r"}, 9),
        (client.tenant(), "get_tenant", {}, TenantTold(position=9)),
        (client.create_tenant("acme", key), "create_tenant", {"name": "acme", "key": key}, 9),
        (
            client.set_quotas("acme", Quotas(jobs=5), version=0),
            "set_quotas",
            {"name": "acme", "quotas": {"jobs": 5}, "version": 0},
            9,
        ),
        (client.tenants(), "list_tenants", {}, ()),
        (client.raise_records(7, "all are new"), "raise_records", {"version": 7, "reason": "all are new"}, 9),
        (client.move_shard("q", 1), "move_shard", {"to": 1}, 9),
        (client.shards(), "list_shards", {}, ShardsTold(position=9)),
        (client.drain_worker("w", "r"), "drain_worker", {"worker": "w", "reason": "r"}, 9),
        (client.undrain_worker("w"), "undrain_worker", {"worker": "w"}, 9),
        (client.create_principal("b", key=key), "create_principal", {"name": "b", "key": key}, 9),
        (client.add_key("b", key, "r"), "add_key", {"name": "b", "key": key, "reason": "r"}, 9),
        (client.remove_key("b", key), "remove_key", {"name": "b", "key": key}, 9),
        (client.revoke_token("t"), "revoke_token", {"name": "owner", "token": "t"}, 9),
        (
            client.start_session("s", "secret", moment, "token t", token="t"),
            "start_session",
            {"name": "owner", "session": "s", "digest": hashlib.sha256(b"secret").hexdigest()}
            | {"until": "2030-01-01T00:00:00Z", "by": "token t", "token": "t"},
            9,
        ),
        (client.end_session("s", "b", "r"), "end_session", {"name": "b", "session": "s", "reason": "r"}, 9),
        (
            client.grant("b", "viewer", "q*", until=moment),
            "grant",
            {"name": "b", "role": "viewer", "scope": "q*", "until": "2030-01-01T00:00:00Z"},
            3,
        ),
        (client.ungrant("b", Role.VIEWER, "q"), "ungrant", {"name": "b", "role": "viewer", "scope": "q"}, 9),
        (
            client.elevate("operator", reason="r", for_s=60),
            "elevate",
            {"role": "operator", "for_s": 60, "reason": "r"},
            3,
        ),
        (client.approve_access("b", 3), "approve_access", {"name": "b", "number": 3}, 9),
        (client.decline_access("b", 3), "decline_access", {"name": "b", "number": 3}, 9),
        *releases(client),
        (client.revoke_principal("b", "r"), "revoke_principal", {"name": "b", "reason": "r"}, 9),
        (client.restore_principal("b"), "restore_principal", {"name": "b"}, 9),
    ]
    of_the_tenant = {
        "set_price",
        "list_prices",
        "declare_tenant",
        "get_tenant",
        *HOSTING_VERBS,
        *UPGRADE_VERBS,
        "list_shards",
        *FLEET_VERBS,
        *ACCESS_VERBS,
        *ASSET_VERBS,
        *RELEASE_VERBS,
    }
    for call, verb, body, result in calls:
        told["jobs"] = 4 if verb == "erase" else ["a"]
        assert await call == result
        queue = "-" if verb in of_the_tenant else "q"
        assert backstage.asked[-1] == (f"writ.control.default.owner.{verb}.{queue}", body)
    secret = await client.create_token("t", "b")  # drawn here: only its digest is sent
    subject, issued = backstage.asked[-1]
    assert subject == "writ.control.default.owner.issue_token.-"
    assert issued == {"name": "b", "token": "t", "digest": hashlib.sha256(secret.encode()).hexdigest()}
    assert {verb for _, verb, _, _ in calls} | {"issue_token"} == set(CONTROL_VERBS)


def releases(client: Client) -> list[tuple[Coroutine[Any, Any, object], str, dict[str, Any], object]]:
    """What is asked of processes and gates: the call, its verb and message, and what it gives."""
    key, digest = "U" + "A" * 55, "ab" * 32
    of: dict[str, Any] = {"process": "p"}
    named = of | {"release": "1.0.0"}
    published = of | {"version": "1.0.0", "digest": digest, "size_bytes": 9, "key": key}
    promoted, gates_told = Promoted(position=9, proposal=3), GatesTold(position=9)
    scores = [{"dimension": {"name": "a"}, "candidate": [[1.0]]}]
    return [
        (
            client.publish_release("p", "1.0.0", digest, size_bytes=9, key=key),
            "publish_release",
            published,
            9,
        ),
        (client.processes("p"), "list_processes", of, ()),
        (client.canaries("p"), "list_processes", of, ()),
        (
            client.promote_release("p", "1.0.0", "r"),
            "promote_release",
            named | {"reason": "r"},
            promoted,
        ),
        (
            client.approve_promotion("p", 3, "r"),
            "approve_promotion",
            of | {"number": 3, "reason": "r"},
            promoted,
        ),
        (
            client.rollback_release("p", "r", pinned="move", scope="q"),
            "rollback_release",
            of | {"pinned": "move", "scope": "q", "reason": "r"},
            9,
        ),
        (client.freeze_release("p", None, "r"), "freeze_release", of | {"reason": "r"}, 9),
        (client.unfreeze_release("p", "1.0.0"), "unfreeze_release", named, 9),
        (client.revoke_release("p", "1.0.0"), "revoke_release", named, 9),
        (
            client.start_canary("p", "1.0.0", percent=5, keys=["k"], policy=CanaryPolicy(minimum=5)),
            "start_canary",
            named | {"percent": 5.0, "keys": ["k"], "policy": {"minimum": 5}},
            promoted,
        ),
        (client.end_canary("p"), "end_canary", of, 9),
        (client.approve_release("p", "1.0.0", "r"), "approve_release", named | {"reason": "r"}, 9),
        (
            client.record_evaluation("p", "1.0.0", "d", digest, [Measured(Dimension("a"), ((1.0,),))]),
            "record_evaluation",
            named | {"data": "d", "data_version": digest, "measured": scores},
            9,
        ),
        (
            client.record_drill("p", "1.0.0", "d", "pass", "r"),
            "record_drill",
            named | {"drill": "d", "outcome": "pass", "reason": "r"},
            9,
        ),
        (
            client.record_policy_check("p", "1.0.0", "over_budget", ["x"]),
            "record_policy_check",
            named | {"check": "over_budget", "found": ["x"]},
            9,
        ),
        (client.gates(), "list_gates", {}, {}),
        (client.check_gates("p", "1.0.0", scope="q"), "check_gates", named | {"scope": "q"}, gates_told),
        (
            client.declare_gate("g", GateSpec(drills=("d",))),
            "declare_gate",
            {"name": "g", "gate": {"drills": ["d"]}},
            9,
        ),
        (client.remove_gate("g"), "remove_gate", {"name": "g"}, 9),
    ]


async def test_what_would_be_done_twice_is_asked_once(
    backstage: Backstage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.asking.TRY_S", 0.1)
    await backstage.serve("writ.control.default.owner.*.q", lambda n: None if n == 1 else Answer())
    with pytest.raises(NoAnswer) as raised:
        await client.signal("7", "q", "go", timeout_s=0.5)
    assert raised.value.__notes__ == ["it may have been done all the same"]
    assert len(backstage.asked) == 1
    await client.cancel("7", "q")
    assert len(backstage.asked) == 3, "this one may be asked again"


def test_one_job_takes_the_options_that_many_take() -> None:
    given = set(inspect.signature(Client.submit).parameters)
    assert set(SubmitJob.__struct_fields__) - given == {"trace"}, "which is that of the caller's span"


async def test_what_an_attempt_may_cost_is_submitted(backstage: Backstage, client: Client) -> None:
    await client.submit("q", "t", {}, id="7", reserve_microusd=500_000)
    ((_, sent, _),) = await backstage.submits()
    assert sent == {"task": "t", "input": {}, "id": "7", "reserve_microusd": 500_000}


async def test_relations_are_submitted_as_keys(backstage: Backstage, client: Client) -> None:
    await backstage.serve(JOBS, page(view()))
    first = await client.submit("p", "t", id="first")
    await client.submit(
        "q", "t", {}, id="7", after=[first, "second", "r~third"], input_from={"x": first}, parent="boss",
        batch="b", fairness_key="f", concurrency_key="c", unique_key="u", approval=Approval(timeout_s=60),
        on_dead=OnDead.RUN, on_parent_end=OnParentEnd.ABANDON,
    )  # fmt: skip
    assert (await backstage.submits())[1][1] == {
        "task": "t",
        "input": {},
        "id": "7",
        "fairness_key": "f",
        "concurrency_key": "c",
        "unique_key": "u",
        "approval": {"timeout_s": 60.0},
        "after": ["p~first", "q~second", "r~third"],
        "on_dead": "run",
        "input_from": {"x": "p~first"},
        "parent": "q~boss",
        "on_parent_end": "abandon",
        "batch": "b",
    }


# --- without an event loop ------------------------------------------------------------------------------


async def test_the_blocking_client_does_the_same(server: Server, backstage: Backstage) -> None:
    await backstage.serve(JOBS, page(view(State.COMPLETED, output=msgspec.Raw(b"3"))))
    await backstage.serve("writ.query.default.owner.status", lambda _: NodeStatus(version="1"))
    await backstage.serve("writ.query.default.owner.jobs", page(view()))
    await backstage.serve("writ.control.default.owner.*.q", lambda _: Answer())
    file = File("0" * 64, 4)
    parts_told = (PartTold(data=b"lo", next=2), PartTold(data=b"ng", last=True))
    stores = "writ.store.default.owner"
    await backstage.serve(f"{stores}.find_file.-", lambda _: FileTold(found=FileLine(file, 0)))
    await backstage.serve(f"{stores}.get_part.-", lambda nth: parts_told[(nth - 1) % 2])

    def use() -> None:
        with SyncClient(server.url) as client:
            job = client.submit("q", "t", id="7")
            assert client.submit_many("q", [{"task": "t", "id": "8"}]) == [JobHandle("q", "8", 2, 0)]
            assert client.result(job, timeout_s=WAIT_S) == 3
            assert client.job("7").state is State.COMPLETED
            assert len(client.jobs().jobs) == 1
            assert client.status().version == "1"
            client.cancel("7", "q")
            client.redrive("7", "q")
            client.approve("7", "q", data={"by": "me"})
            with pytest.raises(SubmitRefused):
                client.submit("a.b", "t")
            parts = client.read_file(file)
            assert (next(parts), next(parts)) == (b"lo", b"ng")
            with pytest.raises(FileBroken, match="holds something else"):
                next(parts)
            unread = client.read_file(file)
            assert next(unread) == b"lo"
        unread.close()
        with pytest.raises(RuntimeError, match="closed"):
            client.status()

    await asyncio.to_thread(use)


async def test_calls_that_wait_end_when_the_client_is_closed(server: Server, backstage: Backstage) -> None:
    await backstage.serve("writ.query.>", lambda _: None)
    client = Client(server.url)
    calls: list[Coroutine[Any, Any, Any]] = [
        client.result(JobHandle("q", "7", 1)),
        client.accepted(JobHandle("q", "7", 1)),
        client.status(timeout_s=60),
        client.submit_many("full", [{"task": "t"}], timeout_s=60),
    ]
    await backstage.nats.jetstream().delete_stream("WRIT_SUBMIT")  # so that nobody takes submits
    waiting = [asyncio.create_task(call) for call in calls]
    await until(lambda: len(backstage.asked) >= 3)
    await client.close()
    done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), WAIT_S)
    assert [type(each) for each in done] == [ClientClosed] * 4
    with pytest.raises(ClientClosed, match="enter it again with `async with`"):
        await client.job("7")
    assert client._wire is None, "no connection was made that nobody would end"  # pyright: ignore[reportPrivateUsage]
    await backstage.serve("writ.control.default.owner.cancel.q", lambda _: Answer(position=4))
    async with client:
        assert await client.cancel("7", "q") == 4


async def test_a_connection_that_is_being_made_does_not_outlive_the_client(server: Server) -> None:
    client = Client(server.url)
    asking = asyncio.create_task(client.status())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(asking, WAIT_S)
    assert client._wire is None  # pyright: ignore[reportPrivateUsage]


async def test_a_result_lives_through_an_outage(
    server: Server, backstage: Backstage, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.asking.TRY_S", 0.1)
    monkeypatch.setattr("writ.broker.client.TRY_S", 0.3)
    monkeypatch.setattr("writ.broker.client.REQUERY_S", 0.05)
    async with doing(client.result(JobHandle("q", "7", 1))) as waiting:
        await asyncio.wait({waiting}, timeout=0.2)
        server.kill()
        await asyncio.wait({waiting}, timeout=1)
        assert not waiting.done()
        await server.start()
        await backstage.serve(JOBS, page(view(State.COMPLETED, output=msgspec.Raw(b"3"))))
        assert await asyncio.wait_for(waiting, WAIT_S) == 3


async def test_threads_that_wait_are_told_when_the_blocking_client_is_closed(
    server: Server, backstage: Backstage
) -> None:
    await backstage.serve("writ.query.>", lambda _: None)
    client = await asyncio.to_thread(SyncClient, server.url)
    begun = threading.Event()

    async def own(_: Client) -> None:
        begun.set()
        await asyncio.Event().wait()

    calls: list[Callable[[], object]] = [
        lambda: client.result(JobHandle("q", "7", 1)),
        lambda: client.status(timeout_s=3600),
        lambda: client.run(own),
    ]
    waiting = [asyncio.create_task(asyncio.to_thread(call)) for call in calls]
    await until(lambda: len(backstage.asked) >= 2 and begun.is_set())
    await asyncio.to_thread(client.close)
    done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), WAIT_S)
    assert [type(each) for each in done] == [ClientClosed] * 3
    with pytest.raises(RuntimeError, match="this SyncClient is closed"):
        client.status()
    await asyncio.to_thread(client.close)


def test_the_blocking_client_says_that_there_is_no_broker(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        SyncClient(Server(tmp_path).url)


def test_the_blocking_client_has_all_that_the_other_has() -> None:
    def public(cls: type[object]) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(SyncClient) == public(Client) | {"target", "run"}
    assert SyncClient.submit.__doc__ == Client.submit.__doc__


async def test_a_subject_is_erased_in_every_partition(backstage: Backstage, client: Client) -> None:
    """The first answer says where else to ask; each is then asked once."""
    answer = Erased(None, 9, 2, beside=("q-1", "q-4"))
    await backstage.serve("writ.control.default.owner.erase.*", lambda _: answer)
    assert await client.erase("q", reason="r", data_subject="s") == 6
    assert [subject.rpartition(".")[2] for subject, _ in backstage.asked] == ["q", "q-1", "q-4"]
    backstage.asked.clear()
    assert await client.erase("q", "7", "r") == 2
    assert len(backstage.asked) == 1, "a job is in one"
