"""Checkpoints in an object store: rclone's server of S3, which checks signatures, and is killed here."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from writ import Client
from writ.broker.buckets import RemoteBucket
from writ.broker.connect import Target
from writ.broker.notary import Notary, checkpoints_folder
from writ.broker.note_places import OBJECT_NOTES, NoteBucket, StoreAway, place_of
from writ.cli import main
from writ.node import AuditCopies, Node
from writ.schemas.checkpoints import NoteError

KEY, SECRET = "writ-test", "not a secret/+"
WITNESS = "s3://witness/of writ"
WAIT_S = 60.0


class Store:
    """A server with one bucket, `witness`, in a folder; it can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        (folder / "witness").mkdir(parents=True)
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as port:
            self.port = port.getsockname()[1]
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def kept(self) -> Path:
        return self._folder / "witness" / "of writ"

    def start(self) -> None:
        program = Path(sys.executable).with_name("rclone")
        words = ("serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}")
        command = [str(program), *words, "--config", "/dev/null", str(self._folder)]
        self._server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            assert time.monotonic() < until
            time.sleep(0.02)

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{store.port}")
    store.start()
    yield store
    store.kill()


def _said(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(words))
    return code, out.getvalue()


@asynccontextmanager
async def _node(directory: Path) -> AsyncGenerator[Client]:
    node = await Node.start(directory, audit=AuditCopies((WITNESS,)))
    try:
        async with Client(Target(node.url, node.broker.key_path("owner"))) as client:
            yield client
    finally:
        await node.stop()


async def _more(client: Client) -> int:
    """One more job, and how many records are signed with it."""
    await client.submit("mail", "send", {})
    return (await client.checkpoint(covering=(await client.jobs(timeout_s=20)).position)).size


async def _until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not found():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)


async def _alarm(client: Client) -> str:
    """Why the first alarm was raised."""
    async with asyncio.timeout(WAIT_S):
        while True:
            for act in (await client.audit(limit=50)).acts:
                if act.event == "alarm_raised":
                    return act.reason or ""
            await asyncio.sleep(0.1)


def _newest() -> str:
    note = place_of(WITNESS).notes("log-0").end()[1]
    return "" if note is None else note.text


async def test_checkpoints_go_to_an_object_store_and_are_verified_from_there(
    store: Store, tmp_path: Path
) -> None:
    """Also one that was away, and one that knows what the node's own folder was made to forget."""
    directory = tmp_path / "node"
    where = ("audit", "verify", "--dir", str(directory), "--checkpoints", WITNESS)
    async with _node(directory) as client:
        signed = await _more(client)
        assert f"\n{signed}\n" in _newest()
        code, text = await asyncio.to_thread(_said, *where)
        assert (code, "no fault" in text) == (0, True), text
        store.kill()
        later = await _more(client)
        assert later > signed, "a store that is away stops no signature"
        code, text = await asyncio.to_thread(_said, *where)
        assert (code, "cannot be reached" in text) == (1, True), text
        store.start()
        last = await _more(client)
        await _until(lambda: f"\n{last}\n" in _newest())
        own = checkpoints_folder(directory) / "log-0"
        assert "".join(f"{note}\n" for note in place_of(WITNESS).notes("log-0").read()) == own.read_text()
        assert (await asyncio.to_thread(_said, *where))[0] == 0
    own.write_bytes(b"")
    async with _node(directory) as client:
        await client.submit("mail", "send", {})
        code, text = await asyncio.to_thread(_said, *where)
        assert (code, "no fault" in text) == (1, False), text
        assert "has others than" in await _alarm(client)


def test_a_copy_that_holds_others_is_not_added_to(store: Store, tmp_path: Path) -> None:
    notary = Notary(tmp_path / "node", 1, [place_of(WITNESS)])
    for numbers in (range(OBJECT_NOTES + 7), range(OBJECT_NOTES + 7, 2 * OBJECT_NOTES + 3)):
        notary.file(0).add([notary.sign("any", f"text {n}\n") for n in numbers])
        notary.copy(0)
    copy = place_of(WITNESS).notes("log-0")
    assert [str(note) for note in copy.read()] == [str(note) for note in notary.file(0).read()]
    first, second, last = sorted((store.kept / "log-0").iterdir())
    begins = [0, first.stat().st_size, first.stat().st_size + second.stat().st_size]
    assert [each.name for each in (first, second, last)] == [f"{at:020}" for at in begins]
    assert copy.end() == notary.file(0).end()
    bucket = RemoteBucket(WITNESS)
    bucket.put(f"log-0/{begins[2]:020}", bucket.get(f"log-0/{0:020}"))
    with pytest.raises(NoteError, match="has others than"):
        notary.copy(0)
    bucket.put(f"log-0/{begins[1] + 7:020}", bucket.get(f"log-0/{0:020}"))
    with pytest.raises(NoteError, match=f"comes behind {begins[2]} bytes of notes"):
        copy.read()
    bucket.put("log-0/more", b"")
    with pytest.raises(NoteError, match="log-0/more: no object of ours has such a name"):
        copy.end()


def test_a_bucket_is_listed_to_its_end_and_says_what_is_wrong(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = RemoteBucket("s3://witness/a b/ü")
    row = store.kept.parent / "a b" / "ü" / "row"
    row.mkdir(parents=True)
    for number in range(1_002):  # a page has a thousand
        (row / f"{number:05}").write_bytes(b"%d" % number)
    bucket.put("row/01002", b"put")
    assert bucket.get("row/01002") == b"put" == (row / "01002").read_bytes()
    assert bucket.names("row") == [f"{number:05}" for number in range(1_003)]
    assert bucket.names("ro") == []
    assert bucket.get("row/00007") == b"7"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StoreAway, match=r"(?s)cannot be reached to list row: .*SignatureDoesNotMatch"):
        RemoteBucket("s3://witness").names("row")
    for address in ("s3://", "s3:///x", "https://witness"):
        with pytest.raises(ValueError, match="is no address of a bucket"):
            RemoteBucket(address)
    assert str(NoteBucket(bucket)) == "s3://witness/a b/ü"
