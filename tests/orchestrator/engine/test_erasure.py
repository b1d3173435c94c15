"""Content under keys: sealed in the log, plain for workers, gone with its key; held where it is told to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.vault import ENTRY_BYTES, Vault
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.verify import Verifier
from writ.schemas.events import ContentErased, HoldLifted, HoldPlaced
from writ.schemas.rejections import RejectionKind

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

SECRET = "the-patient-is-ill"
CALLED = {"tool": "bank", "schema": "1", "digest": "ab" * 32, "outcome": "done"}


@pytest.fixture
async def vault(twin: Twin, tmp_path: Path) -> Vault:
    """The twin's next engine seals with it; the queue asks for that."""
    vault = Vault(tmp_path / "vault")
    await twin.stop()
    twin.keys = vault
    await twin.start()
    await twin.ask("declare", policy={"erasable": True})
    return vault


async def stored(twin: Twin) -> str:
    """All bytes of the log."""
    return "".join([m.body.decode() async for part in twin.log.read() for m in part])


async def forgotten(twin: Twin) -> None:
    """Until the intake is empty: that is seen to twice a second."""
    while await twin.intake.first_seq() <= await twin.intake.last_seq():  # noqa: ASYNC110 - in virtual time
        await asyncio.sleep(0.1)


async def live_through(twin: Twin, job: str, **more: Any) -> None:
    """Every sort of content there is, from submit to a dead letter and on to the end."""
    retry = {"max_attempts": 2, "initial_interval_s": 0}
    tags = {"about": SECRET}
    await twin.submit(
        {"task": "send", "id": job, "input": {"says": SECRET}, "tags": tags, "retry": retry, **more}
    )
    await twin.settled()
    await twin.ask("edit", id=job, input={"says": SECRET, "twice": True})
    await twin.ask("signal", id=job, name="paid", data=SECRET)
    (lease,) = await twin.acquire()
    assert lease["input"]["says"] == SECRET
    assert [signal["data"] for signal in lease["signals"]] == [SECRET]
    await twin.ask("progress", worker="w1", id=job, token=lease["token"], progress={"at": SECRET})
    notes = [
        {"note": "step_intended", "step": 1, "name": "pay", "params": "ab" * 32},
        {"note": "step_done", "step": 1, "result": {"paid": SECRET}},
        {"note": "tool_called", **CALLED, "params": {"to": SECRET}, "result": SECRET},
    ]
    assert "refused" not in await twin.ask(
        "note", worker="w1", reports=[{"id": job, "token": lease["token"], "first": 1, "notes": notes}]
    )
    recalled = await twin.ask("recall", worker="w1", id=job, token=lease["token"])
    assert recalled["steps"][0]["result"] == {"paid": SECRET}
    failed = {"class": "application", "type": "Bad", "text": f"no: {SECRET}"}
    assert "verdicts" not in await twin.report("fail", lease, **failed)
    assert "verdicts" not in await twin.report("fail", lease, **failed), "a report told twice is known"
    (lease,) = await twin.acquire(wait_s=5)
    await twin.report("complete", lease, output=[SECRET])
    await twin.settled()


async def verified(twin: Twin) -> None:
    verifier = Verifier(twin.log.epoch)
    async for part in twin.log.read():
        for message in part:
            verifier.take(Entry(message.seq, message.subject, message.body))
    report = verifier.report()
    assert report.ok, report.lines()
    assert report.decisions > 0
    await twin.check()


async def test_no_content_is_plain_in_log_or_intake(twin: Twin, vault: Vault) -> None:
    await live_through(twin, "a")
    await forgotten(twin)
    assert SECRET not in await stored(twin)
    await verified(twin)
    job = twin.job("a")
    assert vault.open(job.input) == b'{"says":"%b","twice":true}' % SECRET.encode()


async def test_the_cause_of_a_sealed_death_comes_out_the_same(twin: Twin, vault: Vault) -> None:
    retry = {"max_attempts": 1}
    for job in ("a", "b"):
        await twin.submit({"task": "send", "id": job, "input": SECRET, "retry": retry})
        await twin.settled()
        (lease,) = await twin.acquire()
        await twin.report("fail", lease, **{"class": "application", "type": "Bad", "text": f"{SECRET} {job}"})
    assert twin.job("a").cause == twin.job("b").cause is not None
    await verified(twin)


async def test_an_erasure_is_a_record_and_then_nobody_can_read_it(twin: Twin, vault: Vault) -> None:
    await live_through(twin, "a")
    await live_through(twin, "b")
    answer = await twin.ask("erase", id="a", reason="asked for by mail")
    assert answer["jobs"] == 1
    assert await twin.events(ContentErased) == [ContentErased(1, "asked for by mail")]
    assert vault.open(twin.job("a").input) is None
    assert vault.open(twin.job("b").input) is not None
    await verified(twin)
    again = await twin.ask("erase", id="a")
    assert again.get("jobs", 0) == 0
    assert len(await twin.events(ContentErased)) == 1
    refused = await twin.ask("rerun", id="a")
    assert "was erased, by record" in refused["error"]["reason"]


async def test_a_subject_is_erased_in_all_its_jobs_and_its_name_is_nowhere(
    twin: Twin, vault: Vault, tmp_path: Path
) -> None:
    for job in ("a", "b"):
        await live_through(twin, job, data_subject="Jane Roe")
    await live_through(twin, "c", data_subject="John Doe")
    assert twin.job("a").input.key == twin.job("b").input.key != twin.job("c").input.key
    assert "Jane Roe" not in await stored(twin)
    assert b"Jane Roe" not in (tmp_path / "vault").read_bytes()
    assert (await twin.ask("erase", data_subject="Jane Roe"))["jobs"] == 2
    output = twin.job("b").output
    assert output is not None
    assert vault.open(twin.job("a").input) is vault.open(output) is None
    assert vault.open(twin.job("c").input) is not None
    await live_through(twin, "d", data_subject="Jane Roe")
    assert vault.open(twin.job("d").input) is not None, "what comes later has another key"
    await verified(twin)


async def test_a_live_or_held_job_is_not_erased(twin: Twin, vault: Vault) -> None:
    await twin.submit({"task": "send", "id": "a", "input": 1, "data_subject": "Jane"})
    await live_through(twin, "b", data_subject="Jane", priority=1)
    refused = await twin.ask("erase", data_subject="Jane")
    assert "job mail~a is pending" in refused["error"]["reason"]
    await twin.ask("terminate", id="a")
    await twin.ask("place_hold", name="case-7", filter={"ids": ["b"]}, reason="court order")
    for asked in ({"id": "b"}, {"data_subject": "Jane"}):
        refused = await twin.ask("erase", **asked)
        assert "held by case-7: court order" in refused["error"]["reason"]
    assert await twin.events(ContentErased) == []
    await twin.check()
    await twin.ask("lift_hold", name="case-7", reason="closed")
    assert (await twin.ask("erase", data_subject="Jane"))["jobs"] == 2
    assert await twin.events(HoldPlaced, HoldLifted) != []
    unknown = await twin.ask("lift_hold", name="case-7")
    assert unknown["error"]["kind"] == RejectionKind.NOT_FOUND


async def test_what_was_never_sealed_cannot_be_erased(twin: Twin) -> None:
    await twin.submit({"task": "send", "id": "a"})
    await twin.settled()
    refused = await twin.ask("erase", id="a")
    assert "is not sealed" in refused["error"]["reason"]
    assert (await twin.ask("erase", id="nobody"))["error"]["kind"] == RejectionKind.NOT_FOUND
    assert (await twin.ask("erase"))["error"]["kind"] == RejectionKind.MALFORMED


async def test_a_crash_between_record_and_key_leaves_no_key(twin: Twin, vault: Vault) -> None:
    await live_through(twin, "a")
    destroy = vault.destroy
    vault.destroy = lambda key: None  # type: ignore[method-assign]
    await twin.ask("erase", id="a")
    assert vault.open(twin.job("a").input) is not None
    vault.destroy = destroy  # type: ignore[method-assign]
    await twin.crash()
    await twin.start()
    assert vault.open(twin.job("a").input) is None


async def test_submits_of_sealed_content_are_overwritten_in_the_intake(twin: Twin, vault: Vault) -> None:
    erased: list[int] = []
    erase = twin.intake.erase

    async def watched(seq: int) -> None:
        erased.append(seq)
        await erase(seq)

    twin.intake.erase = watched  # type: ignore[method-assign]
    seq = await twin.submit({"task": "send", "id": "a", "input": SECRET})
    await forgotten(twin)  # the first look of a leadership takes whatever is there
    plain = await twin.submit({"task": "send", "id": "a", "input": 1}, queue="plain")
    named = await twin.submit({"task": "send", "id": "b", "data_subject": "Jane"}, queue="plain")
    await forgotten(twin)
    assert {seq, named} <= set(erased)
    assert plain not in erased


def test_a_destroyed_key_is_zeros_and_another_process_sees_it(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault")
    key, other = vault.new("t.jane"), vault.new()
    vault.sync()
    reader = Vault(tmp_path / "vault", create=False)
    sealed = vault.seal(key, b"1")
    assert sealed.digest != vault.seal(other, b"1").digest
    assert reader.open(sealed) == b"1"
    assert reader.open(vault.seal(other, b"2")) == b"2"
    vault.destroy(key)
    assert reader.open(sealed) is None
    assert vault.of("t.jane") == []
    at = int(key.partition("-")[0], 16) * ENTRY_BYTES
    entry = (tmp_path / "vault").read_bytes()[at : at + ENTRY_BYTES]
    assert not any(entry[:16])
    assert not any(entry[32:])
    assert vault.seal(key, b"late").cipher == b"", "nothing is kept under a destroyed key"
    assert (tmp_path / "vault").stat().st_mode & 0o077 == 0
    assert reader.open(vault.seal(other, b"3")) == b"3"
