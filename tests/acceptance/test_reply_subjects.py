"""What a reply subject cannot do, end to end: a running node, and a principal that may only submit."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from writ.schemas.codec import decode
from writ.schemas.ids import shard_of
from writ.schemas.principals import AccessDenied

if TYPE_CHECKING:
    from .conftest import Live

MALLORY = {"mallory": ["submit"], "victim": ["submit", "work", "operate", "read"]}
SHARD = shard_of("default", "mail")

# (what it would do if the broker followed it, the reply subject)
HOSTILE = {
    "append to the log": b"writ.log.0.default.job.mail~planted",
    "extend a job's history": b"writ.log.0.default.job.mail~old",
    "purge the log": b"$JS.API.STREAM.PURGE.WRIT_LOG_0",
    "delete the log": b"$JS.API.STREAM.DELETE.WRIT_LOG_0",
    "delete a record": b"$JS.API.STREAM.MSG.DELETE.WRIT_LOG_0",
    "change the log": b"$JS.API.STREAM.UPDATE.WRIT_LOG_0",
    "purge the intake": b"$JS.API.STREAM.PURGE.WRIT_SUBMIT",
    "make a stream": b"$JS.API.STREAM.CREATE.PLANTED",
    "make a consumer": b"$JS.API.CONSUMER.CREATE.WRIT_LOG_0",
    "answer another": b"_INBOX.victim.1",
    "answer another by name": b"_INBOX_victim.1",
    "submit as another": b"writ.submit.default.victim.mail",
    "submit past the mapping": b"writ.shard.%d.submit.default.victim.mail" % SHARD,
    "complete as another": b"writ.lease.default.victim.complete.mail",
    "cancel as another": b"writ.control.default.victim.cancel.mail",
    "cancel past the mapping": b"writ.shard.%d.control.default.victim.cancel.mail" % SHARD,
    "redrive as oneself": b"writ.control.default.mallory.redrive.mail",
    "read as another": b"writ.query.default.victim.jobs",
    "mislead the feed's watchers": b"writ.feed.default.job.mail~old",
    "lead": b"writ.leader.0",
    "acknowledge": b"$JS.ACK.WRIT_LOG_0.audit.1.1.1.1.0",
    "answer for the node": b"_R_.abcdef.ghijkl",
    "ask the system": b"$SYS.REQ.SERVER.PING",
    "everything": b">",
    "every inbox": b"_INBOX.>",
}


async def everything(live: Live) -> dict[str, Any]:
    """All that the broker and the node hold."""
    infos = await live.jetstream.streams_info()
    streams = {str(i.config.name): (i.state.messages, i.state.first_seq, i.state.last_seq) for i in infos}
    return {
        "streams": streams,
        "configuration": {str(i.config.name): i.config.as_dict() for i in infos},
        "log": [(m.seq, m.subject, m.body) for m in await live.stored()],
        "jobs": dict(live.state.jobs),
        "leader": live.state.leader,
        "leading": live.node.engine is not None and live.node.engine.leading.is_set(),
    }


def submit(job_id: str) -> bytes:
    return json.dumps({"task": "t", "id": job_id}).encode()


async def listening(live: Live) -> Any:
    """A victim that listens to its inboxes and to the feed."""
    client = await asyncio.to_thread(live.client, "victim")
    for subject in (b"_INBOX.>", b"_INBOX_victim.>", b"writ.feed.default.>"):
        client.subscribe(subject)
    await asyncio.to_thread(client.ping)
    return client


async def quiet(live: Live, seq: int) -> None:
    """Until the intake's submit `seq` is in the log's position, and forgotten by the intake."""
    await live.until(lambda r: r.source is not None and r.source.seq >= seq)
    async with asyncio.timeout(20):
        while (await live.streams())["WRIT_SUBMIT"][0]:  # noqa: ASYNC110 - the broker's own state
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("live", [MALLORY], indirect=True)
async def test_a_reply_subject_changes_nothing_anywhere(live: Live, raw: Any) -> None:
    """Must hold: a client that may only submit, and names the log, a JetStream API subject or another's inbox
    as its reply subject, changes nothing anywhere.

    The submits themselves are lawful: each leaves the record of its job, and that is all.
    """
    await live.play(lambda c: c.request(b"writ.submit.default.victim.mail", submit("old")), "victim")
    await live.job("mail~old")
    await quiet(live, 1)
    victim = await listening(live)
    try:
        before = await everything(live)

        def attack(client: Any) -> None:
            for number, reply in enumerate(HOSTILE.values()):
                client.publish(b"writ.submit.default.mallory.mail", submit(f"m{number}"), reply)
                with suppress(raw.ServerError):  # the broker refuses some outright
                    client.ping()
                # The same again where the submit is refused, so that a record of the refusal is written.
                client.publish(b"writ.submit.default.mallory.mail", b"no job", reply)
                with suppress(raw.ServerError):
                    client.ping()

        await live.play(attack, "mallory")
        # Acknowledged behind the others: what their reply subjects cause has been caused. By another, since
        # with a wildcard for a reply subject a sender spoils its own answers.
        await live.play(lambda c: c.request(b"writ.submit.default.owner.mail", submit("end")))
        await live.job("mail~end")
        await quiet(live, (await live.streams())["WRIT_SUBMIT"][2])
        after = await everything(live)
        assert after["configuration"] == before["configuration"]
        assert (after["leader"], after["leading"]) == (before["leader"], True)
        assert after["streams"].keys() == {"WRIT_SUBMIT", "WRIT_LOG_0"}
        assert after["log"][: len(before["log"])] == before["log"]

        new = (await live.records())[len(before["log"]) :]
        assert {r.actor for r in new if r.key != "mail~end"} <= {"mallory", "writ:orchestrator"}
        assert {r.kind for r in new} <= {"job", "principal", "partition"}
        planted = {r.key for r in new if r.kind == "job"}
        assert planted <= {f"mail~m{n}" for n in range(len(HOSTILE))} | {"mail~end"}
        outright = {"acknowledge", "answer for the node"}
        lawful = {f"mail~m{n}" for n, aim in enumerate(HOSTILE) if aim not in outright}
        assert planted == lawful | {"mail~end"}
        assert after["jobs"]["default.mail~old"] == before["jobs"]["default.mail~old"]
        assert len(after["jobs"]) == len(before["jobs"]) + len(planted)
        await live.check()

        # What the victim heard is the log's own republishing, and nothing else.
        lines = {(s.replace("writ.log.0.", "writ.feed.").encode(), body) for _, s, body in after["log"]}
        heard = [(said.subject, said.body) for said in await asyncio.to_thread(victim.waiting)]
        own = [r for r in new if r.tenant == "default"]
        assert len(heard) == len(own)
        assert set(heard) <= lines
    finally:
        victim.close()


@pytest.mark.parametrize("live", [MALLORY], indirect=True)
async def test_it_can_publish_nothing_but_its_submits(live: Live, raw: Any) -> None:
    await live.play(lambda c: c.request(b"writ.submit.default.victim.mail", submit("old")), "victim")
    await live.job("mail~old")
    await quiet(live, 1)
    before = await everything(live)
    subjects = [*HOSTILE.values(), b"writ.lease.default.mallory.acquire.mail"]

    def attack(client: Any) -> int:
        for subject in subjects:
            client.publish(subject, submit("x"))
            with pytest.raises(raw.ServerError, match="Permissions Violation"):
                client.ping()
        return len(subjects)

    assert await live.play(attack, "mallory") == len(subjects)
    # What the broker refused is told of in the log, a moment later, and nothing else has changed.
    after = await everything(live)
    told = after.pop("log")[len(before.pop("log")) :]
    assert {type(event) for _, _, body in told for event in decode(body).events} <= {AccessDenied}
    del before["streams"]["WRIT_LOG_0"], after["streams"]["WRIT_LOG_0"]
    assert after == before


@pytest.mark.parametrize("live", [MALLORY], indirect=True)
async def test_the_same_replies_do_harm_where_nothing_stands_in_between(live: Live) -> None:
    """The control: with the broker's own user such a reply subject does what it says, and it shows."""
    await live.play(lambda c: c.request(b"writ.submit.default.victim.mail", submit("old")), "victim")
    await live.job("mail~old")
    await quiet(live, 1)
    before = await everything(live)

    def harm(client: Any) -> None:
        subject = b"writ.shard.%d.submit.default.mallory.mail" % SHARD
        client.publish(subject, submit("old"), b"writ.log.0.default.job.mail~planted")
        client.request(subject, submit("old"))

    await live.play(harm, "log")
    after = await everything(live)
    assert after["streams"]["WRIT_LOG_0"] != before["streams"]["WRIT_LOG_0"]
    assert after["log"][len(before["log"])][1] == "writ.log.0.default.job.mail~planted"


@pytest.mark.parametrize("live", [MALLORY], indirect=True)
async def test_a_lawful_reply_subject_is_answered(live: Live) -> None:
    """The control of the other side: the acknowledgement comes where the sender may listen."""
    answer = await live.play(
        lambda c: c.request(b"writ.submit.default.mallory.mail", submit("mine")), "mallory"
    )
    assert json.loads(answer) == {"stream": "WRIT_SUBMIT", "seq": 1}
    assert (await live.job("mail~mine")).actor == "mallory"
