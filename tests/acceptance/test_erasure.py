"""After an erasure a rebuild equals the live view, and no file of broker, views or archive holds the text."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ import JobHandle, Refused, SyncClient
from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.log import JetStreamLog
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.verify import Verifier
from writ.projections import places
from writ.projections.feed import Feeds
from writ.projections.registry import VIEWS
from writ.projections.runner import Runner
from writ.projections.snapshots import Snapshots
from writ.schemas.events import Approval

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place

SECRET = "jane-roe-has-the-measles"
TASKS = """
from writ import Context, StepFailed, task, tool

@tool
async def look_up(says: str):
    return {"found": says}

async def refuse(says: str):
    raise LookupError(says)

@task
async def treat(ctx: Context, says: str):
    await look_up(says)
    await ctx.step("note", lambda said: said, says)
    try:
        await ctx.step("refuse", refuse, says)
    except StepFailed:
        pass
    await ctx.step("go on", lambda: 1)
    if ctx.attempt == 1:
        raise ValueError(f"cannot treat: {says}")
    return {"treated": says}
"""
POLICY = """
[queues.ward]
erasable = true
archive_after_s = 0
retry = {max_attempts = 2, initial_interval_s = 0.1}
"""


def texts(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file of a node, as it is and, where it is packed, unpacked."""
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        body = path.read_bytes()
        yield path, body
        packed = body.partition(b"\n")[2] if path.suffix == ".segment" else body
        if path.suffix in (".segment", ".state"):
            yield path, zlib.decompress(packed)
        elif path.suffix == ".gz":
            yield path, gzip.decompress(body)


def holding(directory: Path, text: str) -> list[str]:
    """The files in which a text stands."""
    found = (path for path, body in texts(directory) if text.encode() in body)
    return sorted({str(path.relative_to(directory)) for path in found})


@pytest.fixture
def ward(own_place: Place) -> Place:
    (own_place.root / "ward.py").write_text(TASKS, encoding="utf-8")
    (own_place.root / "ward.toml").write_text(POLICY, encoding="utf-8")
    own_place.down()
    own_place.up("--search")
    own_place.writ("apply", "ward.toml")
    return own_place


def treated(place: Place, client: SyncClient, job: str, subject: str | None = None) -> None:
    """A job with every sort of content, to its end."""
    client.submit(
        *("ward", "treat", {"says": SECRET}),
        id=job,
        approval=Approval(),
        tags={"about": SECRET},
        data_subject=subject,
    )

    def edited() -> bool:
        try:
            client.edit(job, "ward", input={"says": f"{SECRET}!"})
        except Refused:
            return False  # the submit is on its way
        return True

    place.until(edited)
    client.signal(job, "ward", "note", SECRET)
    client.approve(job, "ward", data={"by": SECRET})
    handle = JobHandle("ward", job, 0)
    assert client.result(handle, timeout_s=60) == {"treated": f"{SECRET}!"}


@pytest.mark.timeout(300)
def test_after_an_erasure_no_file_holds_the_text_and_everything_still_verifies(ward: Place) -> None:
    directory = ward.root / ".writ"
    node = json.loads((directory / "node.json").read_bytes())
    target = Target(node["url"], Path(node["key_path"]))
    with ward.worker("ward", "--queue", "ward"), SyncClient(target) as client:
        treated(ward, client, "a", "Jane Roe")
        ward.writ("archive", "run", "--segment-min", "1", "--snapshot-every", "1")
        treated(ward, client, "b", "Jane Roe")
        treated(ward, client, "c")
    shown = [ward.json("job", job) for job in "abc"]
    assert all(job["input"] == {"says": f"{SECRET}!"} and job["output"] for job in shown)
    assert all(SECRET in job["error"]["text"] for job in shown)
    bundles = exported(ward, directory)
    asyncio.run(photographed(directory))
    ward.until(lambda: not holding(directory, SECRET))
    assert not holding(directory, "Jane Roe"), "a subject's name stands nowhere"
    for guess in guesses(f"{SECRET}!"):
        assert not holding(directory, guess), "a digest that anybody can make gives short content away"
    told = str(kept(ward, "a"))
    assert all(f"'{kind}'" in told for kind in ("step_done", "step_failed", "tool_called"))
    assert (
        ward.json("hold", "add", "ward", "case-7", "--id", "b", "--reason", "court order")["name"] == "case-7"
    )
    refused = ward.writ("erase", "--subject", "Jane Roe", "--reason", "asked for", check=False)
    assert refused.returncode == 1
    assert "held by case-7: court order" in refused.stderr
    ward.writ("hold", "remove", "ward", "case-7")

    sealed = {job: kept(ward, job) for job in "abc"}
    assert ward.json("erase", "--subject", "Jane Roe", "--reason", "asked for")["jobs"] == 2
    shown = [ward.json("job", job) for job in "abc"]
    assert [job["input"] for job in shown] == [None, None, {"says": f"{SECRET}!"}]
    assert [job["output"] is None for job in shown] == [True, True, False]
    assert [job["error"].get("text") is None for job in shown] == [True, True, False]
    for job in "abc":
        assert kept(ward, job) == sealed[job], "not a byte of history has changed"
        ward.writ("replay", job, "--verify")
    ward.writ("archive", "run", "--segment-min", "1", "--snapshot-every", "1")
    assert not holding(directory, SECRET)
    for bundle in bundles:
        ward.writ("replay", "--bundle", str(bundle), "--verify")
    assert len(exported(ward, directory)) == len(bundles)
    kinds = {path.suffix for path, _ in texts(directory)}
    assert {".blk", ".db", ".segment", ".state", ".bundle", ".gz"} <= kinds, "all that keeps history was read"
    assert not holding(directory, SECRET), "nor what was exported, before or after"
    ward.writ("down")
    assert not holding(directory, SECRET), "nor what was written last"
    for file in (directory / "views").iterdir():
        file.unlink()  # what goes on now was copied before the erasure
    ward.up()
    asyncio.run(verified_and_rebuilt(ward.root))
    assert ward.json("job", "c")["input"] == {"says": f"{SECRET}!"}
    assert not holding(directory, SECRET)


async def photographed(directory: Path) -> None:
    """A snapshot of each view, as the node takes one now and then."""
    for view in sorted((directory / "views").glob("*.db")):
        if view.is_symlink():
            assert (await Snapshots.beside(directory).take(view)).position.seq


def guesses(secret: str) -> list[str]:
    """Digests, without a key, of the parameters of a step and of a tool, for who thinks of the content."""
    texts = (json.dumps([[secret], {}]), json.dumps({"says": secret}), json.dumps(secret))
    return [hashlib.sha256(text.replace(", ", ",").replace(": ", ":").encode()).hexdigest() for text in texts]


def exported(place: Place, directory: Path) -> list[Path]:
    """Bundles of one job, of a filter, and of everything."""
    made = {"job.bundle": ("b",), "ward.bundle": ("--queue", "ward"), "all.bundle.gz": ()}
    for name, which in made.items():
        place.writ("replay", *which, "--export", str(directory / name))
    return [directory / name for name in made]


def kept(place: Place, job: str) -> list[Any]:
    """A job's records as stored."""
    records: list[Any] = place.json("job", job)["records"]
    return records


async def verified_and_rebuilt(root: Path) -> None:
    """The whole history against its rules; and each view made anew is the one that is there."""
    directory = root / ".writ"
    info = json.loads((directory / "node.json").read_bytes())
    link = await connect(Target(info["url"], directory / "keys" / "log.creds"), "test", inbox_prefix="_INBOX")
    try:
        log = ArchivedLog.beside(directory, await JetStreamLog.open(link))
        verifier = Verifier(log.epoch)
        async for part in log.read():
            for message in part:
                verifier.take(Entry(message.seq, message.subject, message.body))
        assert verifier.report().ok, verifier.report().lines()
        for make in VIEWS:
            feeds = Feeds(log)
            runner = Runner(root / "again" / f"{make().name}.db", feeds, make)
            await runner.open()
            following = asyncio.create_task(runner.run())
            try:
                assert await runner.wait_for(await log.last_seq(), 30)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await runner.close()
                await feeds.close()
            assert _dump(runner.path) == _dump(directory / "views" / runner.path.name)
    finally:
        await link.close()


def _dump(path: Path) -> list[str]:
    live = places.live(path)
    assert live is not None
    with closing(sqlite3.connect(live)) as db:
        return list(db.iterdump())
