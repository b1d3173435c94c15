"""Tampering with a node's own broker and files, found with the views gone; and what must not look like it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import pytest

from writ import Client
from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.errors import Refused
from writ.broker.log import JetStreamLog
from writ.broker.ports import Message, Stored
from writ.broker.streams import api
from writ.cli import main, verifying
from writ.cli.verifying import stretches
from writ.node import AuditCopies, Node
from writ.orchestrator.replay.checked import Stretch
from writ.schemas.policy import QueuePolicy
from writ.schemas.subjects import SUBMIT_STREAM, log_stream
from writ.scrubbing import Scrubbing

STREAM = log_stream(0)


class Said(NamedTuple):
    code: int
    text: str


async def writ(*words: str) -> Said:
    """One command, in a thread of this process."""

    def run() -> Said:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(list(words))
        return Said(code, out.getvalue())

    return await asyncio.to_thread(run)


@asynccontextmanager
async def _node(directory: Path, *copies: Path) -> AsyncGenerator[Client]:
    node = await Node.start(directory, audit=AuditCopies(tuple(map(str, copies))))
    try:
        async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
            yield client
    finally:
        await node.stop()


async def _signed_history(directory: Path, *copies: Path) -> int:
    """A node that has lived, and ended; how many records it has signed."""
    async with _node(directory, *copies) as client:
        await client.submit_many("mail", [{"task": "send", "input": n} for n in range(40)])
        handle = await client.submit("mail", "send", {"last": True})
        position = (await client.jobs(timeout_s=20)).position
        assert handle.id
        return (await client.checkpoint(covering=position)).size


async def _with_broker(directory: Path, tamper: Callable[[Any, list[Stored]], Awaitable[None]]) -> None:
    """What an admin of the broker may do to the log while no node runs. All views are gone then."""
    async with await EmbeddedBroker.start(directory) as broker:
        link = await connect(Target(broker.url, broker.key_path("log")), "admin", inbox_prefix="_INBOX")
        stored = [each async for part in JetStreamLog(link, 0, 1).read() for each in part]
        await tamper(link, stored)
        await link.close()
    await asyncio.to_thread(shutil.rmtree, directory / "views")


async def _made_anew(link: Any, records: list[Stored]) -> None:
    """The stream, with the configuration and the epoch that it had, and other records."""
    config = (await api(link, f"STREAM.INFO.{STREAM}"))["config"]
    await api(link, f"STREAM.DELETE.{STREAM}")
    await api(link, f"STREAM.PURGE.{SUBMIT_STREAM}")  # else what was cut would be taken in once more
    await api(link, f"STREAM.CREATE.{STREAM}", config)
    await JetStreamLog(link, 0, 1).append([Message(each.subject, each.body) for each in records], 0)


async def test_a_tail_cut_after_all_views_are_gone_is_found_by_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "node"
    signed = await _signed_history(directory)
    await _with_broker(directory, lambda link, stored: _made_anew(link, stored[:-20]))
    async with _node(directory) as client:
        assert (await client.jobs()).jobs  # to the views all is well: nothing else remembers what there was
        assert (await writ("replay", "--verify", "--dir", str(directory))).code == 0
        said = await writ("audit", "verify", "--dir", str(directory))
        assert said.code == 1
        assert f"has signed {signed} records" in said.text
        monkeypatch.setattr(verifying, "LONG", 1)
        said = await writ("audit", "verify", "--dir", str(directory))
        assert said.code == 1, "by several processes"
        assert f"has signed {signed} records" in said.text
        with pytest.raises(Refused, match="it was cut or made anew"):
            await client.checkpoint(covering=signed + 1)


async def test_a_folder_without_checkpoints_is_told_apart_from_one_that_differs(tmp_path: Path) -> None:
    directory, later = tmp_path / "node", tmp_path / "later"
    await _signed_history(directory)
    where = ("--dir", str(directory), "--checkpoints", str(later))
    async with _node(directory):
        said = await writ("audit", "verify", *where)
        assert said.code == 1, "nothing there vouches for the log"
        assert f"{later} has nothing signed yet: a node signs first within seconds" in said.text
        assert "others than" not in said.text
    async with _node(directory, later) as client:
        await client.submit("mail", "send", {"more": True})
        await client.checkpoint(covering=(await client.jobs(timeout_s=20)).position)
        assert (await writ("audit", "verify", *where)).code == 0, "the copy got what it lacked"


async def test_a_stream_made_anew_is_found_by_the_checkpoints(tmp_path: Path) -> None:
    """As long as before, of the same epoch, with good chains; and empty, of a new one."""
    directory, copy = tmp_path / "node", tmp_path / "copy"
    await _signed_history(directory, copy)

    async def other_past(link: Any, stored: list[Stored]) -> None:
        import hashlib

        prev, forged = "0" * 64, list[Stored]()
        for each in stored:
            body = json.loads(each.body)
            body |= {"prev": prev, "at": body["at"] + 1}
            encoded = json.dumps(body, separators=(",", ":")).encode()
            prev = hashlib.sha256(encoded).hexdigest()
            forged.append(each._replace(body=encoded))
        await _made_anew(link, forged)

    await _with_broker(directory, other_past)
    async with _node(directory):
        assert (await writ("replay", "--verify", "--dir", str(directory))).text.count("prev is") == 0
        said = await writ("audit", "verify", "--dir", str(directory), "--checkpoints", str(copy))
        assert said.code == 1
        assert "one or more are others than" in said.text

    async def gone(link: Any, stored: list[Stored]) -> None:
        await api(link, f"STREAM.DELETE.{STREAM}")

    await _with_broker(directory, gone)
    async with _node(directory):
        # Not even the node's own folder is there any more: what was put elsewhere is.
        await asyncio.to_thread(shutil.rmtree, directory / "checkpoints")
        said = await writ("audit", "verify", "--dir", str(directory), "--checkpoints", str(copy))
        assert said.code == 1
        assert "the log is of epoch 2" in said.text


async def test_erased_and_archived_history_verifies_and_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys destroyed, records moved to the archive and trimmed, a new key: nothing differs."""
    directory = tmp_path / "node"
    where = ("--dir", str(directory))
    async with _node(directory) as client:
        await client.declare_queue("mail", QueuePolicy(archive_after_s=0, erasable=True))
        handles = await client.submit_many("mail", [{"task": "send", "input": n} for n in range(30)])
        before = await client.checkpoint(covering=(await client.jobs()).position)
        for handle in handles:
            await client.cancel(handle.id, "mail", reason="no need")
        await client.erase("mail", handles[3].id, reason="asked for")
        assert (await writ("audit", "rotate", *where)).code == 0
        said = await writ("archive", "run", "--segment-min", "1", "--segment-max", "20", "--json", *where)
        assert said.code == 0, said.text
        assert json.loads(said.text)["trimmed"] > 20
        after = await client.checkpoint(covering=(await client.jobs()).position)
        assert after.size > before.size
        page = await client.consistency(before.size, after.size)
        assert page.path
        said = await writ("audit", "verify", *where)
        assert said.code == 0, said.text
        proof = tmp_path / "proof.json"
        said = await writ("audit", "prove", handles[3].id, "--out", str(proof), *where)
        assert said.code == 0, said.text
        key = (await writ("audit", "key", *where)).text.strip()
        verifier = tmp_path / "alone" / "writ_proof.py"
        await asyncio.to_thread(verifier.parent.mkdir)
        await asyncio.to_thread(verifier.write_text, (await writ("audit", "verifier")).text)
        command = [sys.executable, "-I", "-S", str(verifier), str(proof), "--key", key]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "holds: 2 records of job" in done.stdout

        monkeypatch.setattr(verifying, "LONG", 1)
        looked = 0

        async def counted(*args: Any) -> AsyncGenerator[Stretch | None]:
            nonlocal looked
            async for stretch in stretches(*args):
                looked += stretch is not None
                yield stretch

        monkeypatch.setattr(verifying, "stretches", counted)
        assert (await writ("audit", "verify", *where)).code == 0
        assert looked > 1, "processes have looked at all of it"
        await asyncio.to_thread(_damage, directory / "archive" / "0")
        said = await writ("audit", "verify", *where)
        assert said.code == 1
        assert "archive: segment" in said.text
        said = await writ("audit", "verify", "--json", *where)
        assert json.loads(said.text)["faults"][0] == {"seq": 1, "rule": "archive", "reason": ANY}
        found = await Scrubbing(directory, 60, _nobody).scrub()
        assert found is not None
        assert "first at record 1: segment" in found, "the node's own scrub has an alarm to raise"


async def _nobody(reason: str) -> None:
    raise AssertionError(reason)


def _damage(archive: Path) -> None:
    segment = sorted(archive.glob("*.segment"))[0]
    content = bytearray(segment.read_bytes())
    content[-1] ^= 1
    segment.write_bytes(content)


async def test_the_audit_trail_is_exported_with_what_was_refused(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    where = ("--dir", str(directory))
    async with _node(directory) as client:
        await client.submit("mail", "send", {}, id="a-1")
        with pytest.raises(Refused):
            await client.redrive("a-1", "mail", reason="a|b=c")
        await client.cancel("a-1", "mail", reason="it says a=b\\c")
        await client.jobs()
        said = await writ("audit", "export", *where)
        acts = [json.loads(line) for line in said.text.splitlines()]
        assert [act["verb"] for act in acts] == ["cancel", "redrive", "submit"]
        assert [act["refused"] for act in acts] == [None, "conflict", None]
        refused = (await writ("audit", "export", "--refused", *where)).text.splitlines()
        assert [json.loads(line)["verb"] for line in refused] == ["redrive"]
        none = await writ("audit", "export", "--actor", "nobody", *where)
        assert (none.code, none.text) == (0, "")
        early = await writ("audit", "export", "--until", "2020-01-01T00:00:00Z", *where)
        assert early.text == ""
        lines = (await writ("audit", "export", "--format", "cef", *where)).text.splitlines()
        assert lines[0].startswith("CEF:0|Writ|writ|")
        assert "reason=it says a\\=b\\\\c" in lines[0]
        assert "outcome=failure" in lines[1]
        assert (await writ("audit", "--json", *where)).code == 0


# --- alarms -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def _admin(node: Node) -> AsyncGenerator[Any]:
    """Somebody with the rights of an admin of the broker."""
    link = await connect(Target(node.url, node.broker.key_path("log")), "admin", inbox_prefix="_INBOX")
    try:
        yield link
    finally:
        await link.close()


async def _alarm(client: Client, what: str) -> str:
    """The reason of the alarm, as soon as it is in the audit trail."""
    async with asyncio.timeout(40):
        while True:
            for act in (await client.audit()).acts:
                if act.event == "alarm_raised" and what in (act.reason or ""):
                    assert (act.actor, act.kind, act.key) == ("writ:audit", "incident", STREAM)
                    return act.reason or ""
            await asyncio.sleep(0.1)


async def _metric(directory: Path, name: str) -> str:
    """The lines of a metric on the page of the views."""
    import urllib.request

    where = json.loads((directory / "metrics" / "views.json").read_bytes())[0]["targets"][0]

    def get() -> str:
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=20) as page:
            return str(page.read().decode())

    text = await asyncio.to_thread(get)
    return "\n".join(line for line in text.splitlines() if line.startswith(name))


async def test_a_changed_stream_and_lost_records_are_alarms(tmp_path: Path) -> None:
    """Privileged acts that nothing of Writ's own does: in the audit trail, in the metrics, and once."""
    directory = tmp_path / "node"
    node = await Node.start(directory)
    try:
        async with Client(Target(node.url, node.broker.key_path("owner"))) as client, _admin(node) as admin:
            await client.submit_many("mail", [{"task": "send"}] * 20)
            await _until_watched(directory)
            assert 'alarm="stream_changed",partition="0"} 0' in await _metric(directory, "writ_audit_alarm")
            config = (await api(admin, f"STREAM.INFO.{STREAM}"))["config"]
            await api(admin, f"STREAM.UPDATE.{STREAM}", config | {"max_age": 10**18})
            assert "max_age: 0 -> 1000000000000000000" in await _alarm(
                client, "its configuration was changed"
            )
            await api(admin, f"STREAM.PURGE.{STREAM}", {"seq": 5})
            assert "records 1 to 4 are neither in the log nor in the archive" in await _alarm(
                client, "neither"
            )
            shown = await _metric(directory, "writ_audit_alarm")
            assert 'alarm="stream_changed",partition="0"} 1' in shown
            assert 'alarm="records_missing",partition="0"} 1' in shown
            assert 'alarm="log_differs",partition="0"} 0' in shown
            acts = [act for act in (await client.audit()).acts if act.event == "alarm_raised"]
            assert len(acts) == 2
    finally:
        await node.stop()


async def _until_watched(directory: Path) -> None:
    async with asyncio.timeout(20):
        while not (directory / "audit" / "streams.json").exists():  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)


async def test_what_a_node_does_by_itself_is_no_alarm(tmp_path: Path) -> None:
    """Archiving and trimming, starting again, a mirror that follows."""
    directory = tmp_path / "node"
    where = ("--dir", str(directory))
    for turn in range(2):
        node = await Node.start(directory, audit=AuditCopies(mirror=True))
        try:
            async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
                await client.declare_queue("mail", QueuePolicy(archive_after_s=0))
                for n in range(12):
                    handle = await client.submit("mail", "send", {}, id=f"a-{turn}-{n}")
                    await client.job(handle.id)
                    await client.cancel(handle.id, "mail")
                said = await writ("archive", "run", "--segment-min", "1", *where)
                assert said.code == 0, said.text
                position = (await client.jobs()).position
                await client.checkpoint(covering=position)
                await _until_mirrored(directory)
                assert " 1" not in await _metric(directory, "writ_audit_alarm")
                assert not [act for act in (await client.audit()).acts if act.event == "alarm_raised"]
                assert (await writ("audit", "verify", *where)).code == 0
        finally:
            await node.stop()


async def _until_mirrored(directory: Path) -> None:
    async with asyncio.timeout(40):
        while not (await _metric(directory, "writ_audit_mirror_lag_records")).endswith(" 0"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_a_mirror_that_differs_from_its_log_is_an_alarm(tmp_path: Path) -> None:
    """The log was made anew with another past while the node was down: the mirror has what it had."""
    directory = tmp_path / "node"
    node = await Node.start(directory, audit=AuditCopies(mirror=True))
    try:
        async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
            await client.submit_many("mail", [{"task": "send"}] * 20)
            await client.jobs()
            await _until_mirrored(directory)
    finally:
        await node.stop()
    await _with_broker(directory, lambda link, stored: _made_anew(link, stored[:-15]))
    node = await Node.start(directory, audit=AuditCopies(mirror=True))
    try:
        async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
            assert "mirror has" in await _alarm(client, "mirror")
            assert "deleted and made anew" in await _alarm(client, "the stream was deleted")
            assert 'alarm="mirror_differs",partition="0"} 1' in await _metric(directory, "writ_audit_alarm")
    finally:
        await node.stop()
