"""Backup and restore: under load, to an empty broker, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from writ import Client, QueuePolicy, Target
from writ.broker.archive import ArchiveDamaged, ArchivedLog
from writ.broker.connect import connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import JetStreamIntake, JetStreamLog
from writ.cli import main
from writ.cli.usage import USAGE
from writ.orchestrator.backups import BackupError, Source, alone_in, take, verify
from writ.schemas.codec import decode
from writ.schemas.events import JobCancelled, JobCompleted, JobDeadLettered, JobSubmitted, LeaseGranted
from writ.schemas.ids import EPOCH_MAX
from writ.schemas.records import Record

from .test_stale_token import ask, report

if TYPE_CHECKING:
    from types import ModuleType

    from .conftest import Live

DRILL = Path(__file__).parents[2] / "docs" / "disaster-drill.md"
TASKS = """
from writ import Context, task

@task
async def send(n: int, ctx: Context):
    return n
"""
ENDS = (JobCompleted, JobCancelled, JobDeadLettered)


async def records_of(url: str, directory: Path) -> list[Record]:
    """All of the log, archive and all."""
    link = await connect(Target(url, directory / "keys" / "log.creds"), "test", inbox_prefix="_INBOX")
    try:
        log = ArchivedLog.beside(directory, await JetStreamLog.open(link))
        return [decode(message.body) async for part in log.read() for message in part]
    finally:
        await link.close()


async def writ(*words: str) -> int:
    return await asyncio.to_thread(main, words)


async def test_what_was_acknowledged_before_a_backup_under_load_is_done_once_after_a_restore(
    live: Live, tmp_path: Path, raw: ModuleType
) -> None:
    """Must hold: backup then restore to an empty broker ends with `audit verify` 0, no lost or doubled job,
    first in first out kept per queue. And no lease of the old world counts in the new one.
    """
    from .conftest import Place

    old, kept = live.node.directory, tmp_path / "kept"
    where = Target(live.node.url, live.node.broker.key_path("owner"))
    async with Client(where) as client:
        await client.declare_queue("mail", QueuePolicy(archive_after_s=0))
        await client.set_asset("rate", "1.25")
        done = await client.submit_many("mail", [{"task": "send", "input": {"n": n}} for n in range(60)])
        held = await client.submit("held", "send", {"n": 0}, lease_s=300)
        secret = await client.put_file(b"scan" * 1_000)

        def hold(raw_client: Any) -> dict[str, Any]:
            leases: list[dict[str, Any]] = ask_held(raw_client, "acquire", worker="old", wait_s=20)["leases"]
            for lease in ask(raw_client, "acquire", worker="old", wait_s=20, count=60)["leases"]:
                report(raw_client, "complete", "old", lease, output=1)
            return leases[0]

        lease = await live.play(hold)
        await client.audit(timeout_s=30)
        await client.checkpoint(
            covering=(await client.jobs()).position
        )  # or the backup has none to verify by
        assert (
            await writ("archive", "run", "--dir", str(old), "--segment-min", "20", "--segment-max", "40") == 0
        )
        assert await writ("backup", str(kept), "--dir", str(old), "--keys") == 0

        acknowledged: list[str] = []
        loading = asyncio.create_task(load(client, acknowledged))
        while len(acknowledged) < 200:  # noqa: ASYNC110 - the list tells nobody
            await asyncio.sleep(0.01)
        before = list(acknowledged)
        assert await writ("backup", str(kept), "--dir", str(old)) == 0
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        later = await client.submit("held", "send", {"n": 1}, lease_s=300)
        assert later.id
        lease_after = await live.play(lambda c: ask_held(c, "acquire", worker="old", wait_s=20)["leases"][0])

    # The old world lives on beside the new one, as after a disaster that was none.
    root = tmp_path / "new"
    root.mkdir()
    new = Place(root, raw)
    new.writ("restore", str(kept))
    again = new.writ("restore", str(kept), check=False)
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    (root / "tasks.py").write_text(TASKS)
    try:
        new.up()
        new.writ("audit", "verify")
        env = new.json("env")
        url, directory = env["NATS_URL"], root / ".writ"

        def tell(client: Any) -> dict[str, Any]:
            told: dict[str, Any] = report_held(client, lease)
            told["later"] = report_held(client, lease_after)
            return told

        told = await asyncio.to_thread(on_raw, raw, url, Path(env["NATS_NKEY"]), tell)
        assert told["refused"][0]["kind"] == "stale"
        assert told["later"]["refused"][0]["kind"] in ("stale", "not_found")
        async with Client(Target(url, Path(env["NATS_NKEY"]))) as client:
            assert (await client.asset("rate")).version == 1
            assert await client.get_file(secret) == b"scan" * 1_000
            with new.worker("tasks.py", "--queue", "mail=1,held=1"):
                async with asyncio.timeout(60):
                    while unfinished(records := await records_of(url, directory)):  # noqa: ASYNC110 - a log
                        await asyncio.sleep(0.3)
        new.writ("audit", "verify")
    finally:
        new.down()
    check(records, {*before, *(each.id for each in done), held.id})


def ask_held(client: Any, verb: str, **fields: Any) -> dict[str, Any]:
    subject = b"writ.lease.default.owner." + verb.encode() + b".held"
    answer: dict[str, Any] = json.loads(client.request(subject, json.dumps(fields).encode()))
    return answer


def report_held(client: Any, lease: dict[str, Any]) -> dict[str, Any]:
    reports = [{"id": lease["id"], "token": lease["token"], "output": 1}]
    return ask_held(client, "complete", worker="old", reports=reports)


def on_raw(raw: ModuleType, url: str, key: Path, script: Any) -> Any:
    with raw.Raw(url, key, 30.0) as client:
        return script(client)


async def load(client: Client, acknowledged: list[str]) -> None:
    """Submits one array after the other; what is acknowledged is told."""
    while True:
        first = len(acknowledged)
        jobs = [{"task": "send", "input": {"n": n}, "id": f"l{n:06}"} for n in range(first, first + 20)]
        await asyncio.sleep(0.01)
        acknowledged += [handle.id for handle in await client.submit_many("mail", jobs)]


def unfinished(records: list[Record]) -> int:
    """How many jobs have not ended."""
    events = [event for record in records for event in record.events]
    return sum(isinstance(e, JobSubmitted) for e in events) - sum(isinstance(e, ENDS) for e in events)


def check(records: list[Record], wanted: set[str]) -> None:
    """Each job was accepted once and ended once, in the order in which its queue took them."""
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    submitted: list[str] = []
    ends: Counter[str] = Counter()
    granted: list[str] = []
    for record in records:
        for event in record.events:
            if isinstance(event, JobSubmitted):
                submitted.append(record.key)
            elif isinstance(event, ENDS):
                ends[record.key] += 1
            elif isinstance(event, LeaseGranted) and record.key not in granted:
                granted.append(record.key)
    ids = {key.partition("~")[2] for key in submitted}
    assert wanted <= ids, f"lost: {sorted(wanted - ids)[:5]}"
    assert len(submitted) == len(set(submitted))
    assert ends == Counter(submitted), "not each job ended once"
    mail = [key for key in submitted if key.startswith("mail~")]
    assert [key for key in granted if key.startswith("mail~")] == mail


async def test_a_backup_that_was_changed_anywhere_is_refused_and_nothing_is_made_of_it(
    live: Live, tmp_path: Path
) -> None:
    """Twenty random bytes and cuts, each alone: named by `--check`, and by `restore` before it writes."""
    kept = tmp_path / "kept"
    async with Client(Target(live.node.url, live.node.broker.key_path("owner"))) as client:
        await client.submit_many("mail", [{"task": "send", "input": {"n": n}} for n in range(500)])
        await client.put_file(b"scan" * 10_000)
    assert await writ("backup", str(kept), "--dir", str(live.node.directory), "--keys") == 0
    random = Random(7)
    files = sorted(path for path in kept.rglob("*") if path.is_file() and path.name != ".lock")
    for n in range(24):
        path = files[n % len(files)]
        whole = path.read_bytes()
        at = random.randrange(len(whole))
        path.write_bytes(whole[:at] if n % 3 == 0 else whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises((BackupError, ArchiveDamaged)) as found:
            await verify(kept)
        assert path.name in str(found.value)
        if n == 0:
            assert await writ("restore", str(kept), "--dir", str(tmp_path / "new")) == 1
            assert not (tmp_path / "new").exists()
        path.write_bytes(whole)
    await verify(kept)


async def test_worlds_restored_from_one_backup_have_epochs_of_their_own(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So no token of the first is one of the second. And a restore says where sealed content stays closed."""
    old, kept = live.node.directory, tmp_path / "kept"
    async with Client(Target(live.node.url, live.node.broker.key_path("owner"))) as client:
        await client.submit("mail", "send", {"n": 1})
    (old / "keys" / ".log.creds.draft").touch()  # of a file that is being written, and may go
    assert await writ("backup", str(kept), "--dir", str(old), "--keys") == 0
    assert not list(kept.rglob("*.draft"))
    with alone_in(kept):
        for words in (("backup", str(kept), "--dir", str(old)), ("restore", str(kept), "--dir", "none")):
            capsys.readouterr()
            assert await writ(*words) == 1
            assert "another backup to" in capsys.readouterr().err
    epochs: list[int] = []
    for name, more in (("a", ()), ("b", ()), ("c", ("--epoch-above", "40"))):
        capsys.readouterr()
        assert await writ("restore", str(kept), "--dir", str(tmp_path / name), "--json", *more) == 0
        epochs += [each["epoch"] for each in json.loads(capsys.readouterr().out)["logs"]]
    assert epochs == [2, 3, 41]

    assert await writ("backup", str(tmp_path / "open"), "--dir", str(old)) == 0
    capsys.readouterr()
    trust = ("broker", "trust", str(tmp_path / "trust.conf"), "--backup")
    assert await writ(*trust, str(tmp_path / "open")) == 1
    assert "was taken without keys" in capsys.readouterr().err
    assert await writ(*trust, str(kept)) == 0
    assert "operator: " in (tmp_path / "trust.conf").read_text()
    assert await writ("restore", str(kept), "--dir", str(tmp_path / "e"), "--replicas", "3") == USAGE
    assert "give --broker-url" in capsys.readouterr().err
    shutil.copytree(old / "keys", tmp_path / "d" / "keys")
    capsys.readouterr()
    words = ("restore", str(tmp_path / "open"), "--dir", str(tmp_path / "d"))
    assert await writ(*words, "--epoch-above", str(EPOCH_MAX)) == 1
    assert f"{EPOCH_MAX} is the last one" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "d")
    shutil.copytree(old / "keys", tmp_path / "d" / "keys")
    assert await writ(*words) == 0
    assert f"There is no {tmp_path / 'd' / 'vault'}" in capsys.readouterr().out


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", DRILL.read_text("utf-8"), re.DOTALL)
    return [
        line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")
    ]


def test_the_drill_of_the_documentation(tmp_path: Path) -> None:
    """Its commands, in their order, in an empty folder where a node runs."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env = {name: value for name, value in env.items() if not name.startswith(("NATS_", "WRIT_"))}

    def shell(line: str) -> None:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"

    try:
        for line in ("writ up --detach", "writ submit mail send '{}' --id a"):
            shell(line)
        deadline = time.monotonic() + 60
        signed = tmp_path / ".writ" / "checkpoints" / "log-0"
        while not (signed.exists() and signed.stat().st_size):
            assert time.monotonic() < deadline, "a node signs within seconds of its first record"
            time.sleep(0.1)
        for line in commands():
            shell(line)
        shell('writ job a --json | grep -q \'"state":"pending"\\|"state": "pending"\'')
    finally:
        subprocess.run(["bash", "-c", "writ down"], cwd=tmp_path, env=env, check=False, capture_output=True)
        shutil.rmtree(tmp_path / "backups", ignore_errors=True)


async def test_a_backup_waits_for_what_was_submitted_and_is_refused_where_nobody_takes_it(
    tmp_path: Path,
) -> None:
    """What is acknowledged and in no log yet would be missing: here no orchestrator runs."""
    async with await EmbeddedBroker.start(tmp_path / "writ") as broker:
        key = broker.key_path("log")
        link = await connect(Target(broker.url, key), "test", inbox_prefix="_INBOX")
        try:
            await JetStreamLog.open(link)
            intake = await JetStreamIntake.open(link)
            await link.request("writ.shard.1.submit.default.owner.mail", b'{"task":"send"}')
            assert await intake.last_seq() == 1
            source = Source(tmp_path / "writ", link, "0")
            with pytest.raises(BackupError, match="submits 1 to 1 of the intake are not in the log"):
                await take(source, tmp_path / "kept", 1, keys=False, wait_s=0.3)
            await intake.purge(1)
            manifest, _ = await take(source, tmp_path / "kept", 2, keys=False, wait_s=5)
            assert manifest.logs[0].last == 0
        finally:
            await link.close()
