"""What each kind of user can and cannot do, tried on a real server.

Every refusal stands beside an allowed request that works, so that a broken set-up
cannot pass for a safe one.
"""

# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from writ.broker.accounts import ALL_ROLES, BrokerSettings, Principal, Role, refuse_repeats
from writ.broker.connect import login
from writ.broker.doors import local_principal
from writ.broker.embedded import EmbeddedBroker
from writ.broker.keys import load_or_create
from writ.schemas.ids import shard_of

WAIT_S = 10.0
ANSWER = b"answered"

# (what it would do if the broker followed it, the reply subject named in a request)
HOSTILE_REPLIES = {
    "append to the log": "writ.log.0.default.job.x~1",
    "purge the log": "$JS.API.STREAM.PURGE.WRIT_LOG_0",
    "delete the intake": "$JS.API.STREAM.DELETE.WRIT_SUBMIT",
    "answer another": "_INBOX.victim.1",
    "answer another, own prefix": "_INBOX_owner.victim.1",
    "submit as another": "writ.submit.default.owner.q",
    "complete as another": "writ.lease.default.owner.complete.q",
    "cancel as another": "writ.control.default.owner.cancel.q",
    "cancel as oneself": "writ.control.default.mallory.cancel.q",
    "reach a shard": "writ.shard.0.submit.default.owner.q",
    "feed watchers": "writ.feed.default.job.x",
    "acknowledge": "$JS.ACK.WRIT_LOG_0.audit.1.1.1.1.0",
    "answer for the service": "_R_.abcdef.ghijkl",
    "ask the system": "$SYS.REQ.SERVER.PING",
}
REPLIES_REFUSED_OUTRIGHT = {"acknowledge", "answer for the service"}

FORBIDDEN_SUBJECTS = [
    "writ.submit.default.owner.q",
    "writ.submit.other.mallory.q",
    "writ.submit.default.mallory.q.more",
    "writ.lease.default.owner.complete.q",
    "writ.control.default.owner.cancel.q",
    "writ.query.default.owner.jobs",
    "writ.log.0.default.job.x~1",
    "writ.shard.0.submit.default.owner.q",
    "writ.feed.default.job.x",
    "$JS.API.STREAM.PURGE.WRIT_LOG_0",
    "$JS.API.STREAM.DELETE.WRIT_SUBMIT",
    "$JS.API.STREAM.NAMES",
    "$JS.ACK.WRIT_LOG_0.audit.1.1.1.1.0",
    "$SYS.REQ.SERVER.PING",
    "_INBOX.victim.1",
    "_R_.abcdef.ghijkl",
]

FORBIDDEN_SUBSCRIPTIONS = [
    ">",
    "writ.>",
    "writ.log.>",
    "writ.shard.>",
    "writ.submit.>",
    "writ.feed.>",
    "writ.feed.other.>",
    "_INBOX_owner.>",
    "_R_.>",
    "$JS.>",
    "$SYS.>",
]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - watches another's state, which has no event
            await asyncio.sleep(0.002)


@dataclass
class User:
    """A connection and what went wrong on it."""

    client: Client
    errors: list[str] = field(default_factory=list[str])

    async def complaint(self) -> str:
        """The next error the server reported."""
        await until(lambda: bool(self.errors))
        return self.errors.pop(0)


@dataclass
class World:
    """A broker with both streams, a responder on all requests, and principals `owner` and `mallory`."""

    broker: EmbeddedBroker
    connect: Callable[..., Awaitable[User]]
    log: User
    answer: User
    owner: User
    jetstream: JetStreamContext
    served: list[str]
    overheard: list[tuple[str, bytes]]
    services: list[Subscription]

    async def stop_serving(self) -> None:
        """Take the responder away, so that a test can answer by itself, or nobody does."""
        for service in self.services:
            await service.unsubscribe()
        await self.answer.client.flush()

    async def streams(self) -> dict[str, tuple[int, int, int]]:
        infos = await self.jetstream.streams_info()
        return {str(i.config.name): (i.state.messages, i.state.first_seq, i.state.last_seq) for i in infos}

    async def settled(self) -> None:
        """Wait until what the broker sent so far has reached the responder and the eavesdropper."""
        await self.answer.client.flush()
        await self.owner.client.flush()
        await self.log.client.flush()

    async def grant(self, directory: Path, roles: frozenset[Role]) -> None:
        """Give `mallory` other roles."""
        mallory = local_principal(directory, "default", "mallory", roles)
        kept = [each for each in self.broker.principals if each.name != "mallory"]
        await self.broker.set_principals([*kept, mallory])


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[User]]]:
    users: list[User] = []

    async def connect(broker: EmbeddedBroker, name: str, inbox_prefix: str = "_INBOX") -> User:
        errors: list[str] = []

        async def complain(error: Exception) -> None:
            errors.append(str(error))

        client = await nats.connect(
            broker.url,
            **login(broker.key_path(name)),
            inbox_prefix=inbox_prefix,
            error_cb=complain,
            allow_reconnect=False,
        )
        users.append(User(client, errors))
        return users[-1]

    yield connect
    for user in users:
        await user.client.close()


@pytest.fixture
async def world(tmp_path: Path, connect: Callable[..., Awaitable[User]]) -> AsyncIterator[World]:
    mallory = local_principal(tmp_path, "default", "mallory", frozenset({"submit"}))
    other = local_principal(tmp_path, "other", "owner")
    async with await EmbeddedBroker.start(tmp_path, principals=[mallory, other]) as broker:
        log = await connect(broker, "log")
        jetstream = log.client.jetstream()
        await jetstream.add_stream(name="WRIT_SUBMIT", subjects=["writ.shard.*.submit.>"])
        await jetstream.add_stream(name="WRIT_LOG_0", subjects=["writ.log.0.>"])
        await jetstream.publish("writ.log.0.default.job.q~1", b"a record to lose")
        answer = await connect(broker, "answer")
        served: list[str] = []

        async def serve(msg: Msg) -> None:
            served.append(msg.subject)
            if msg.reply:
                await msg.respond(ANSWER)

        requests = ("writ.shard.*.lease.>", "writ.shard.*.control.>", "writ.query.>")
        services = [await answer.client.subscribe(subject, cb=serve) for subject in requests]
        await answer.client.flush()

        overheard: list[tuple[str, bytes]] = []

        async def overhear(msg: Msg) -> None:
            overheard.append((msg.subject, msg.data))

        owner = await connect(broker, "owner")
        for subject in ("_INBOX.>", "_INBOX_owner.>", "writ.feed.default.>"):
            await owner.client.subscribe(subject, cb=overhear)
        await owner.client.flush()
        yield World(broker, connect, log, answer, owner, jetstream, served, overheard, services)


@pytest.fixture
async def mallory(world: World) -> User:
    return await world.connect(world.broker, "mallory", "_INBOX_mallory")


async def test_a_submit_is_stored_under_its_shard_and_acknowledged(world: World) -> None:
    queues = ["invoices", "a", "q-1", "Mail@EU", "x" * 100, *(f"queue{i}" for i in range(40))]
    for number, (tenant, user) in enumerate((("default", "owner"), ("other", "other.owner"))):
        owner = await world.connect(world.broker, user)
        for index, queue in enumerate(queues):
            answer = await owner.client.request(f"writ.submit.{tenant}.owner.{queue}", b"{}", timeout=WAIT_S)
            seq = 1 + number * len(queues) + index
            assert answer.data == b'{"stream":"WRIT_SUBMIT","seq":%d}' % seq
            stored = await world.jetstream.get_msg("WRIT_SUBMIT", seq)
            assert stored.subject == f"writ.shard.{shard_of(tenant, queue)}.submit.{tenant}.owner.{queue}"


async def test_requests_reach_the_responder_under_the_shard_of_their_queue(world: World) -> None:
    owner = await world.connect(world.broker, "owner")
    shard = shard_of("default", "invoices")
    for word, verb in (("lease", "acquire"), ("control", "pause")):
        request = f"writ.{word}.default.owner.{verb}.invoices"
        assert (await owner.client.request(request, b"", timeout=WAIT_S)).data == ANSWER
        assert world.served[-1] == f"writ.shard.{shard}.{word}.default.owner.{verb}.invoices"
    assert (await owner.client.request("writ.query.default.owner.jobs", b"", timeout=WAIT_S)).data == ANSWER
    assert world.served[-1] == "writ.query.default.owner.jobs"


async def test_a_plain_publish_without_reply_is_stored(world: World, mallory: User) -> None:
    await mallory.client.publish("writ.submit.default.mallory.q", b"{}")
    await mallory.client.request("writ.submit.default.mallory.q", b"{}", timeout=WAIT_S)
    assert (await world.streams())["WRIT_SUBMIT"] == (2, 1, 2)


@pytest.mark.parametrize("aim", HOSTILE_REPLIES)
async def test_a_submit_cannot_aim_its_acknowledgement(world: World, mallory: User, aim: str) -> None:
    before = await world.streams()
    await mallory.client.publish("writ.submit.default.mallory.q", b"{}", reply=HOSTILE_REPLIES[aim])
    # The same stream acknowledges in order, so once this one's answer is here the hostile one's has gone out.
    await mallory.client.request("writ.submit.default.mallory.q", b"{}", timeout=WAIT_S)
    await world.settled()
    stored = 1 if aim in REPLIES_REFUSED_OUTRIGHT else 2
    assert await world.streams() == {**before, "WRIT_SUBMIT": (stored, 1, stored)}
    assert world.served == []
    assert world.overheard == []
    if aim in REPLIES_REFUSED_OUTRIGHT:
        assert "permissions violation for publish with reply" in await mallory.complaint()


@pytest.mark.parametrize("reply", [">", "_INBOX.>"])
async def test_a_wildcard_reply_costs_nobody_else_an_answer(world: World, mallory: User, reply: str) -> None:
    # nats-server forgets every waiting request of the account whose reply subject the wildcard covers.
    parked = await world.log.client.subscribe("writ.query.default.owner.slow")
    await world.log.client.flush()
    answers = await world.owner.client.subscribe("_INBOX.waiting")
    await world.stop_serving()
    await world.owner.client.publish("writ.query.default.owner.slow", b"", reply="_INBOX.waiting")
    request = await parked.next_msg(timeout=WAIT_S)
    await mallory.client.publish("writ.submit.default.mallory.q", b"{}", reply=reply)
    await mallory.client.flush()
    # Acknowledged after the other, so the broker has dealt with that one's reply subject by then.
    await world.owner.client.request("writ.submit.default.owner.q", b"{}", timeout=WAIT_S)
    assert (await world.streams())["WRIT_SUBMIT"] == (2, 1, 2)
    await request.respond(ANSWER)
    assert (await answers.next_msg(timeout=WAIT_S)).data == ANSWER


@pytest.mark.parametrize("aim", HOSTILE_REPLIES)
async def test_a_worker_cannot_aim_a_responders_answer(world: World, tmp_path: Path, aim: str) -> None:
    await world.grant(tmp_path, frozenset({"submit", "work", "operate"}))
    mallory = await world.connect(world.broker, "mallory")
    before = await world.streams()
    request = "writ.lease.default.mallory.acquire.q"
    await mallory.client.publish(request, b"{}", reply=HOSTILE_REPLIES[aim])
    assert (await mallory.client.request(request, b"{}", timeout=WAIT_S)).data == ANSWER
    await world.settled()
    times = 1 if aim in REPLIES_REFUSED_OUTRIGHT else 2
    assert world.served == [f"writ.shard.{shard_of('default', 'q')}.lease.default.mallory.acquire.q"] * times
    assert await world.streams() == before
    assert world.overheard == []


@pytest.mark.parametrize("subject", FORBIDDEN_SUBJECTS)
async def test_a_submitter_cannot_publish_elsewhere(world: World, mallory: User, subject: str) -> None:
    before = await world.streams()
    await mallory.client.publish(subject, b"{}")
    assert "permissions violation for publish" in await mallory.complaint()
    await mallory.client.request("writ.submit.default.mallory.q", b"{}", timeout=WAIT_S)
    await world.settled()
    assert await world.streams() == {**before, "WRIT_SUBMIT": (1, 1, 1)}
    assert (world.served, world.overheard) == ([], [])


@pytest.mark.parametrize("subject", ["writ.submit.default.owner.q", "writ.log.0.x", "_INBOX.victim.1"])
async def test_a_trace_cannot_be_sent_elsewhere(world: World, mallory: User, subject: str) -> None:
    before = await world.streams()
    await mallory.client.publish("writ.submit.default.mallory.q", b"{}", headers={"Nats-Trace-Dest": subject})
    assert "permissions violation for publish" in await mallory.complaint()
    await world.settled()
    assert await world.streams() == before
    assert world.overheard == []


@pytest.mark.parametrize("subject", FORBIDDEN_SUBSCRIPTIONS)
async def test_a_submitter_cannot_listen_elsewhere(world: World, mallory: User, subject: str) -> None:
    await mallory.client.subscribe(subject)
    assert "permissions violation for subscription" in await mallory.complaint()
    own = await mallory.client.subscribe("_INBOX.mine.>")
    await mallory.client.publish("writ.submit.default.mallory.q", b"{}", reply="_INBOX.mine.1")
    assert b'"seq":1' in (await own.next_msg(timeout=WAIT_S)).data


async def test_standard_inboxes_of_two_principals_are_apart(world: World) -> None:
    # Both use the default prefix of every NATS client; only the account keeps them apart.
    mallory = await world.connect(world.broker, "mallory")
    heard: list[str] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.subject)

    await mallory.client.subscribe("_INBOX.>", cb=hear)
    await mallory.client.flush()
    owner = await world.connect(world.broker, "owner")
    await owner.client.request("writ.submit.default.owner.q", b"{}", timeout=WAIT_S)
    await mallory.client.flush()
    assert heard == []
    await mallory.client.request("writ.submit.default.mallory.q", b"{}", timeout=WAIT_S)
    assert len(heard) == 1


async def test_the_feed_shows_the_own_tenant_only(world: World) -> None:
    reader = await world.connect(world.broker, "other.owner")
    feed = await reader.client.subscribe("writ.feed.other.>")
    await reader.client.flush()
    await world.log.client.publish("writ.feed.default.job.secret", b"1")
    await world.log.client.publish("writ.feed.other.job.mine", b"2")
    assert (await feed.next_msg(timeout=WAIT_S)).subject == "writ.feed.other.job.mine"
    await until(lambda: bool(world.overheard))
    assert [subject for subject, _ in world.overheard] == ["writ.feed.default.job.secret"]
    await reader.client.subscribe("writ.feed.default.>")
    assert "permissions violation for subscription" in await reader.complaint()


@pytest.mark.parametrize(
    "subject",
    [
        "writ.log.0.default.job.x~1",
        "$JS.API.STREAM.PURGE.WRIT_LOG_0",
        "$JS.API.STREAM.NAMES",
        "writ.shard.0.submit.default.owner.q",
        "writ.feed.default.job.x",
        "_INBOX.victim.1",
        "$JS.ACK.WRIT_LOG_0.audit.1.1.1.1.0",
    ],
)
async def test_the_answering_user_can_answer_and_nothing_else(world: World, subject: str) -> None:
    before = await world.streams()
    await world.answer.client.publish(subject, b"")
    assert "permissions violation for publish" in await world.answer.complaint()
    owner = await world.connect(world.broker, "owner")
    answer = await owner.client.request("writ.lease.default.owner.acquire.q", b"", timeout=WAIT_S)
    assert answer.data == ANSWER
    assert await world.streams() == before


async def test_the_answering_user_cannot_read_the_log(world: World) -> None:
    await world.answer.client.subscribe("writ.log.>")
    assert "permissions violation for subscription" in await world.answer.complaint()


async def test_without_a_key_nobody_gets_in(world: World, tmp_path: Path) -> None:
    stranger = load_or_create(tmp_path / "elsewhere" / "stranger.nk")
    for seed in (None, str(stranger.seed_path)):
        with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
            await nats.connect(world.broker.url, nkeys_seed=seed, allow_reconnect=False)


async def test_a_request_that_nobody_serves_fails_at_once(world: World) -> None:
    owner = await world.connect(world.broker, "owner")
    await world.stop_serving()
    with pytest.raises(nats.errors.NoRespondersError):
        await owner.client.request("writ.lease.default.owner.acquire.q", b"", timeout=WAIT_S)


async def test_thousands_of_requests_wait_for_their_answers_at_once(world: World) -> None:
    parked: list[Msg] = []

    async def park(msg: Msg) -> None:
        parked.append(msg)

    await world.log.client.subscribe("writ.query.default.owner.slow", cb=park)
    await world.log.client.flush()
    await world.stop_serving()
    owner = await world.connect(world.broker, "owner")
    subject = "writ.query.default.owner.slow"
    requests = [
        asyncio.create_task(owner.client.request(subject, b"%d" % i, timeout=30)) for i in range(5_000)
    ]
    await until(lambda: len(parked) == len(requests))
    assert all(msg.reply.startswith("_R_.") for msg in parked)
    for msg in reversed(parked):
        await msg.respond(msg.data)
    assert [r.data for r in await asyncio.gather(*requests)] == [b"%d" % i for i in range(5_000)]


async def test_the_threshold_bounds_how_long_an_answer_may_take(
    tmp_path: Path, connect: Callable[..., Awaitable[User]]
) -> None:
    def short(settings: BrokerSettings) -> BrokerSettings:
        return replace(settings, response_threshold_s=1)

    async with await EmbeddedBroker.start(tmp_path, configure=short) as broker:
        owner, answer = await connect(broker, "owner"), await connect(broker, "answer")
        requests = await answer.client.subscribe("writ.query.>")
        await answer.client.flush()
        answers = await owner.client.subscribe("_INBOX.mine")
        for wait_s in (0.0, 2.5):
            await owner.client.publish("writ.query.default.owner.jobs", b"", reply="_INBOX.mine")
            request = await requests.next_msg(timeout=WAIT_S)
            await asyncio.sleep(wait_s)
            await request.respond(b"%.1f" % wait_s)
            await answer.client.flush()
        assert (await answers.next_msg(timeout=WAIT_S)).data == b"0.0"
        with pytest.raises(nats.errors.TimeoutError):
            await answers.next_msg(timeout=0.2)


async def test_principals_come_and_go_while_the_broker_runs(world: World, tmp_path: Path) -> None:
    owner = await world.connect(world.broker, "owner")
    mallory = await world.connect(world.broker, "mallory")
    robot = local_principal(tmp_path, "acme", "robot", frozenset({"submit"}))
    await world.broker.set_principals([local_principal(tmp_path, "default", "owner"), robot])
    new = await world.connect(world.broker, "acme.robot")
    for user, subject in ((owner, "writ.submit.default.owner.q"), (new, "writ.submit.acme.robot.q")):
        answer = await user.client.request(subject, b"{}", timeout=WAIT_S)
        assert b'"stream":"WRIT_SUBMIT"' in answer.data
    await until(lambda: mallory.client.is_closed)
    assert owner.client.stats["reconnects"] == 0


async def test_a_waiting_request_survives_a_change_of_principals(world: World, tmp_path: Path) -> None:
    parked = await world.log.client.subscribe("writ.query.default.owner.slow")
    await world.log.client.flush()
    await world.stop_serving()
    owner = await world.connect(world.broker, "owner")
    asked = asyncio.create_task(owner.client.request("writ.query.default.owner.slow", b"", timeout=WAIT_S))
    request = await parked.next_msg(timeout=WAIT_S)
    await world.broker.set_principals([*world.broker.principals, local_principal(tmp_path, "acme", "robot")])
    await request.respond(ANSWER)
    assert (await asked).data == ANSWER


@pytest.mark.parametrize("role", sorted(ALL_ROLES))
def test_a_role_opens_its_own_subjects_and_no_others(tmp_path: Path, role: Role) -> None:
    principal = local_principal(tmp_path, "acme", "robot", frozenset({role}))
    opened = {
        "submit": "writ.submit.acme.robot.*",
        "work": "writ.lease.acme.robot.*.*",
        "operate": "writ.control.acme.robot.*.*",
        "ask": "writ.query.acme.robot.>",
        "read": "writ.query.acme.robot.>",
        "store": "writ.store.acme.robot.*.*",
    }
    feed = ("writ.feed.acme.>", "writ.led.*") if role == "read" else ("writ.led.*",)
    assert principal.permissions().publish == (opened[role],)
    assert principal.permissions().subscribe == ("_INBOX.>", "_INBOX_robot.>", *feed)


async def test_a_principal_without_roles_can_log_in_and_do_nothing(world: World, tmp_path: Path) -> None:
    await world.grant(tmp_path, frozenset())
    mallory = await world.connect(world.broker, "mallory")
    await mallory.client.publish("writ.submit.default.mallory.q", b"{}")
    assert "permissions violation for publish" in await mallory.complaint()


@pytest.mark.parametrize(
    ("tenant", "name", "fault"),
    [
        ("a.b", "x", "tenant 'a.b' holds '.'"),
        ("a", "", "principal is empty"),
        ("a", 'x"}', "principal 'x\"}' holds"),
        ("a", ">", "principal '>' holds '>'"),
        ("_writ", "x", "is Writ's own"),
    ],
)
def test_names_that_cannot_stand_in_a_subject_are_refused(
    tmp_path: Path, tenant: str, name: str, fault: str
) -> None:
    public = load_or_create(tmp_path / "k.nk").public
    assert Principal("a", "x", public, ALL_ROLES).account == "a.x"
    with pytest.raises(ValueError, match=re.escape(fault)):
        Principal(tenant, name, public, ALL_ROLES)


def test_two_principals_with_one_name_or_one_key_are_refused(tmp_path: Path) -> None:
    first = local_principal(tmp_path, "a", "x")
    refuse_repeats([first])
    with pytest.raises(ValueError, match=r"principal 'a\.x' is given twice"):
        refuse_repeats([first, replace(local_principal(tmp_path, "a", "y"), name="x")])
    with pytest.raises(ValueError, match=r"public key .* is given twice"):
        refuse_repeats([first, replace(first, name="z")])
