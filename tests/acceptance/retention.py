"""Archive and trim under load, with kills: what was told before is told after, and nothing is lost.

    python -m tests.acceptance.retention --jobs 20000 --kills 20

A node and a worker are processes of their own; jobs come in all the time, passes of the archive run all the
time, and now the node and now a pass is killed at a random moment. Then everything is read through the
archive. The chain of digests from the first record to the newest one in the broker proves that it is what was
appended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from writ import Client
from writ.broker.archive import ArchivedLog
from writ.broker.connect import Target, connect
from writ.broker.errors import WireError
from writ.broker.log import JetStreamLog
from writ.cli import main as main_of_writ
from writ.orchestrator.kept import state_digest
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.verify import Verifier
from writ.orchestrator.snapshots import Snapshots, recover
from writ.projections import places
from writ.projections.feed import Feeds
from writ.projections.registry import VIEWS
from writ.projections.runner import Runner
from writ.schemas.policy import QueuePolicy

QUEUE: Final = "mail"
_ARRAY: Final = 50
_PATIENCE_S: Final = 60.0
_TASKS: Final = """
from writ import task

@task
def send(n: int):
    if n % 7 == 0:
        raise ValueError(f"no address {n}")
    return {"sent": n}
"""
_OTHERWISE: Final = """
[queues.mail]
archive_after_s = 0
retry = {max_attempts = 2}
concurrency = 3
"""
_OF_JOB: Final = (("job",), ("replay",), ("replay", "--verify"), ("replay", "--at", "1000000000"))
_OF_ALL: Final = (
    *(
        ("jobs", "--limit", "50"),
        ("dlq",),
        ("attempts", "--limit", "50"),
        ("audit",),
        ("queue", "show", QUEUE),
    ),
    *(("replay", "--at", "150"), ("replay", "--queue", QUEUE), ("replay", "--diff", "20", "300")),
    *(("queue", "show", QUEUE), ("replay", "--verify"), ("replay", "--what-if", "otherwise.toml")),
)
_OVER_HTTP: Final = (
    *("/v1/queues/{queue}/jobs/{job}", "/v1/queues/{queue}/jobs/{job}/records", "/v1/log?limit=100"),
    *("/v1/queues/{queue}/jobs/{job}/timeline", "/v1/log/stretch?limit=500", "/v1/audit"),
)
_SMALL: Final = ("--segment-max", "300", "--segment-min", "20", "--snapshot-every", "400")


class Told(NamedTuple):
    """What was seen to hold."""

    records: int
    archived: int
    segments: int
    node_kills: int
    pass_kills: int
    passes: int


class Proof:
    """One run in a directory of its own."""

    def __init__(self, root: Path, jobs: int, kills: int, seed: int) -> None:
        self.root = root
        self.directory = root / "node"
        self._jobs = jobs
        self._kills = kills
        self._chance = random.Random(seed)
        self._node: subprocess.Popen[bytes] | None = None
        self._node_kills = self._pass_kills = self._passes = 0

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{words[0]}.log").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "writ", *words, "--dir", str(self.directory)],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def writ(self, *words: str) -> Any:
        """What a command prints as JSON."""
        command = [sys.executable, "-m", "writ", *words, "--json", "--dir", str(self.directory)]
        shown = subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, timeout=600, check=False
        )
        assert shown.returncode == 0, f"{words}: {shown.stderr}"
        return json.loads(shown.stdout)

    async def run(self) -> Told:
        """Raises AssertionError with what does not hold."""
        (self.root / "mails.py").write_text(_TASKS, encoding="utf-8")
        (self.root / "otherwise.toml").write_text(_OTHERWISE, encoding="utf-8")
        self._up()
        worker = None
        try:
            async with await self._client() as client:
                policy = QueuePolicy(archive_after_s=0)
                await client.declare_queue(QUEUE, policy)
                worker = self._start("worker", "mails", "--queue", QUEUE, "--concurrency", "50")
                await self._submit(client, 0, 1)
                await self._ended(client, 1)  # the worker is there
                await asyncio.gather(self._feed(client), self._harass())
                # It is behind all that was submitted, also what was submitted again and is refused.
                await self._submit(client, self._jobs - 1, self._jobs)
                await self._ended(client, self._jobs)
            worker.terminate()
            worker.wait(_PATIENCE_S)
            worker = None
            return await self._compare()
        finally:
            for process in (worker, self._node):
                if process is not None:
                    process.terminate()
                    process.wait(_PATIENCE_S)

    def _up(self) -> None:
        self._node = self._start("up", "--quiet")
        self.writ("status", "--wait", str(_PATIENCE_S))

    async def _client(self) -> Client:
        info = json.loads((self.directory / "node.json").read_bytes())
        return Client(Target(info["url"], Path(info["key_path"])))

    async def _feed(self, client: Client) -> None:
        for start in range(0, self._jobs - 1, _ARRAY):
            await self._submit(client, start, min(start + _ARRAY, self._jobs - 1))
            await asyncio.sleep(0.01)

    async def _submit(self, client: Client, start: int, end: int) -> None:
        """Submits some of the jobs until they are acknowledged: with their ids, once is enough."""
        jobs = [
            {"id": f"j{n}", "task": "send", "input": {"n": n}, "retry": {"max_attempts": 1}}
            for n in range(start, end)
        ]
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                await client.submit_many(QUEUE, jobs)
                return
            except (WireError, OSError):
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.1)

    async def _harass(self) -> None:
        """Passes one after the other, of which some are killed, or the node under them."""
        for turn in range(self._kills):
            tending = self._start("archive", "run", *_SMALL)
            await asyncio.sleep(self._chance.uniform(0.1, 1.5))
            if turn % 2:
                with suppress(ProcessLookupError):
                    tending.kill()
                self._pass_kills += tending.wait() == -signal.SIGKILL
            else:
                assert self._node is not None
                os.kill(self._node.pid, signal.SIGKILL)
                self._node.wait()
                self._node_kills += 1
                await asyncio.to_thread(self._up)
                await asyncio.to_thread(tending.wait, _PATIENCE_S)
            self._passes += 1

    async def _ended(self, client: Client, count: int) -> None:
        """Returns when so many jobs have ended."""
        found: dict[Any, int] = {}
        until = time.monotonic() + _PATIENCE_S + self._jobs / 100
        while True:
            with suppress(WireError):
                found = (await client.status()).jobs
                if sum(found.get(state, 0) for state in ("completed", "dead")) >= count:
                    return
            assert time.monotonic() < until, f"not all jobs have ended: {found}"
            await asyncio.sleep(0.1)

    # --- what must hold -----------------------------------------------------------------------------------

    async def _compare(self) -> Told:
        """Everything that is told, before the last of it is moved and after, and from nothing."""
        before = await asyncio.to_thread(self._answers)
        kept = self.writ("archive", "run", *_SMALL)
        assert kept["archive_last"] >= 3 * self._jobs, f"not all finished history was moved: {kept}"
        after = await asyncio.to_thread(self._answers)
        differ = [_difference(words, before[words], after[words]) for words in before]
        differ = [each for each in differ if each]
        assert not differ, "not what was told before the history was moved:\n" + "\n".join(differ)
        assert all(before.values()), "each reader has something to tell"
        info = json.loads((self.directory / "node.json").read_bytes())
        link = await connect(
            Target(info["url"], self.directory / "keys" / "log.creds"), "proof", inbox_prefix="_INBOX"
        )
        try:
            log = ArchivedLog.beside(self.directory, await JetStreamLog.open(link))
            records = await self._verified(log)
            await self._refolded(log)
            await self.rebuilt(log)
        finally:
            await link.close()
        return Told(
            records, kept["archive_last"], kept["segments"], self._node_kills, self._pass_kills, self._passes
        )

    def _answers(self) -> dict[str, Any]:
        """What every reader tells: of the first and the last job, of the queue, and of the log itself."""
        first, last = "j0", f"j{self._jobs - 1}"
        found = {
            " ".join(words): self._told(*words)
            for words in (
                *[(*words, job) for job in (first, last) for words in _OF_JOB],
                *_OF_ALL,
                ("replay", first, "--export", "first.bundle"),
                ("replay", "--export", "all.bundle"),
                ("replay", "--bundle", "all.bundle", "--verify"),
            )
        }
        for job in (first, last):
            explained = self._told("explain", job)
            # These count seconds up to now.
            found[f"explain {job}"] = {k: v for k, v in explained.items() if k not in ("at", "not_running")}
        for name in ("first", "all"):
            # The head of a bundle says when it was made, and the last line is the digest of all.
            found[name] = (self.root / f"{name}.bundle").read_bytes().splitlines()[1:-1]
            del found[f"replay {f'{first} ' if name == 'first' else ''}--export {name}.bundle"]
        for path in _OVER_HTTP:
            found[path] = self._asked(path.format(queue=QUEUE, job=first))
        return found

    def _told(self, *words: str) -> Any:
        """What a command prints as JSON, run in this process: one of its own would take as long as it all."""
        here = [str(self.root / word) if word.endswith((".bundle", ".toml")) else word for word in words]
        where = [] if "--bundle" in words else ["--dir", str(self.directory)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main_of_writ([*here, "--json", *where])
        assert code == 0, f"{words}: {err.getvalue()}"
        return json.loads(out.getvalue())

    def _asked(self, path: str) -> Any:
        """What the HTTP API answers."""
        info = json.loads((self.directory / "node.json").read_bytes())
        token = Path(info["token_path"]).read_text(encoding="utf-8").strip()
        request = urllib.request.Request(
            f"{info['http_url']}{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return json.load(answer)

    async def _verified(self, log: ArchivedLog) -> int:
        """The whole log against its rules, through the archive; how many records it has."""
        verifier = Verifier(log.epoch)
        first = await log.live.first_seq()
        assert first > 1, "nothing was trimmed"
        async for part in log.read():
            for message in part:
                verifier.take(Entry(message.seq, message.subject, message.body))
        report = verifier.report()
        assert report.ok, report.lines()
        assert report.jobs == self._jobs
        assert report.last_seq == await log.last_seq()
        return report.records

    async def _refolded(self, log: ArchivedLog) -> None:
        """A start from a snapshot comes to the same state as one from nothing."""
        whole, at = await recover(log)
        short, behind = await recover(log, Snapshots.beside(self.directory, log.partition))
        assert at == behind
        assert state_digest(whole) == state_digest(short), "the snapshot tells another state"

    async def rebuilt(self, log: ArchivedLog) -> None:
        """Views made anew are the views that were there all along."""
        for make in VIEWS:
            feeds = Feeds(log)
            runner = Runner(self.root / "again" / f"{make().name}.db", feeds, make)
            await runner.open()
            following = asyncio.create_task(runner.run())
            last = await log.last_seq()
            try:
                assert await runner.wait_for(last, _PATIENCE_S + self._jobs / 100), runner.halted
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await runner.close()
                await feeds.close()
            there, again = self.directory / "views" / runner.path.name, runner.path
            until = time.monotonic() + _PATIENCE_S
            while _dump(there) != _dump(again):
                assert time.monotonic() < until, (
                    f"the view {runner.name} made anew differs from the one there"
                )
                await asyncio.sleep(0.2)


def _difference(words: str, before: Any, after: Any) -> str:
    """The lines of an answer that the other does not have; empty where there are none."""
    was, now = [json.dumps(it, indent=1, sort_keys=True, default=str).splitlines() for it in (before, after)]
    return "\n".join([words, *difflib.unified_diff(was, now, n=8)]) if before != after else ""


def _dump(path: Path) -> list[str]:
    live = places.live(path)
    assert live is not None
    with closing(sqlite3.connect(live)) as db:
        return list(db.iterdump())


def main() -> int:
    """Prints what was seen to hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        told = asyncio.run(Proof(Path(root), args.jobs, args.kills, args.seed).run())
    print(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
