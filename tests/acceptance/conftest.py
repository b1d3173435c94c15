"""What the acceptance tests stand on: a node in this process, a node of the command line, raw sockets."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from writ.broker.connect import Target, connect
from writ.broker.doors import local_principal
from writ.broker.log import JetStreamLog
from writ.broker.ports import Stored
from writ.node import Node
from writ.orchestrator.state import Partition
from writ.schemas.codec import decode
from writ.schemas.lifecycle import Job
from writ.schemas.records import Record

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from writ.broker.accounts import Principal, Role
    from writ.broker.hardened import HardenedClient as Nats

FOREIGN = Path(__file__).parent / "foreign"
WAIT_S = 60.0


@pytest.fixture(scope="session")
def raw() -> ModuleType:
    """The client in plain sockets of `foreign/raw.py`, as a module."""
    name = "writ_test_raw"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOREIGN / "raw.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


# --- a node in this process -----------------------------------------------------------------------------


class Live:
    """A running node, with a connection of the broker's own user to look at everything."""

    def __init__(self, node: Node, link: Nats, raw: ModuleType) -> None:
        self.node = node
        self.link = link
        self._raw = raw

    @property
    def log(self) -> JetStreamLog:
        return JetStreamLog(self.link, 0, 1)

    @property
    def jetstream(self) -> JetStreamContext:
        return self.link.jetstream()  # pyright: ignore[reportUnknownMemberType] - untyped in a part

    @property
    def state(self) -> Partition:
        assert self.node.engine is not None
        return self.node.engine.state

    def client(self, who: str = "owner", timeout_s: float = WAIT_S) -> Any:
        """A connection in plain sockets; use it in `asyncio.to_thread`."""
        until = time.monotonic() + WAIT_S
        while True:
            try:
                return self._raw.Raw(self.node.url, self.node.broker.key_path(who), timeout_s)
            except ConnectionError:  # the gate is in this process, and may be too busy to answer in time
                if time.monotonic() > until:
                    raise

    async def play(self, script: Callable[[Any], Any], who: str = "owner") -> Any:
        """Runs a script on a raw connection in a thread."""

        def run() -> Any:
            with self.client(who) as client:
                return script(client)

        return await asyncio.to_thread(run)

    async def stored(self, start: int = 1) -> list[Stored]:
        return [message async for part in self.log.read(start) for message in part]

    async def records(self, start: int = 1) -> list[Record]:
        return [decode(message.body) for message in await self.stored(start)]

    async def until(self, wanted: Callable[[Record], bool], start: int = 1) -> Record:
        """The first record that is as wanted, now or later."""
        async with asyncio.timeout(WAIT_S):
            reader = self.log.read(start, follow=True)
            async for part in reader:
                for message in part:
                    record = decode(message.body)
                    if wanted(record):
                        await reader.aclose()  # type: ignore[attr-defined]
                        return record
        raise AssertionError("the log ended")

    async def job(self, key: str, tenant: str = "default") -> Job:
        """The job, as soon as the engine has it."""
        await self.until(lambda r: (r.tenant, r.kind, r.key) == (tenant, "job", key))
        return self.state.jobs[f"{tenant}.{key}"]

    async def folded(self) -> Partition:
        """The state that the log alone tells."""
        state = Partition(0, 1)
        for message in await self.stored():
            state.apply(decode(message.body), message.body)
        return state

    async def check(self) -> None:
        """What the engine remembers is what the log tells."""
        told = await self.folded()
        if told.seq != self.state.seq:  # a record was stored in between
            told = await self.folded()
        mine = self.state
        assert (told.seq, told.prev, told.source) == (mine.seq, mine.prev, mine.source)
        assert told.jobs == mine.jobs

    async def streams(self) -> dict[str, tuple[int, int, int]]:
        """Messages, first and last sequence of every stream."""
        infos = await self.jetstream.streams_info()
        return {str(i.config.name): (i.state.messages, i.state.first_seq, i.state.last_seq) for i in infos}


@pytest.fixture
async def live(tmp_path: Path, request: pytest.FixtureRequest, raw: ModuleType) -> AsyncIterator[Live]:
    """A node; parametrized (indirectly) with `{"mallory": ["submit"]}` it has further principals."""
    directory = tmp_path / "writ"
    more: dict[str, list[Role]] = getattr(request, "param", {})
    principals: list[Principal] = []
    for name, roles in more.items():
        (directory / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        tenant, dot, bare = name.partition(".")
        who = (tenant, bare) if dot else ("default", name)
        principals.append(local_principal(directory, *who, frozenset(roles)))
    node = await Node.start(directory, principals=tuple(principals))
    try:
        link = await connect(Target(node.url, node.broker.key_path("log")), "test", inbox_prefix="_INBOX")
        try:
            yield Live(node, link, raw)
        finally:
            await link.close()
    finally:
        await node.stop()


# --- a node of the command line -------------------------------------------------------------------------


class Place:
    """A directory with a node that `writ up` runs, and nothing known of it but what the CLI prints."""

    def __init__(self, root: Path, raw: ModuleType) -> None:
        self.root = root
        self._raw = raw
        self._up: subprocess.Popen[bytes] | None = None

    def writ(
        self, *arguments: str, check: bool = True, timeout_s: float = 2 * WAIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Runs `writ ARGUMENTS` here, to its end, which is to be a good one unless told not to `check`."""
        ran = subprocess.run(
            [sys.executable, "-m", "writ", *arguments],
            cwd=self.root,
            env=self._clean(),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        said = f"writ {' '.join(arguments)} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}"
        assert ran.returncode == 0 or not check, said
        return ran

    def json(self, *arguments: str) -> Any:
        return json.loads(self.writ(*arguments, "--json").stdout)

    @staticmethod
    def _clean() -> dict[str, str]:
        hidden = ("NATS_URL", "NATS_NKEY", "WRIT_TENANT", "WRIT_PRINCIPAL")
        return {name: value for name, value in os.environ.items() if name not in hidden}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts `writ ARGUMENTS` here; what it says goes to a file."""
        with (self.root / f"{arguments[0]}.log").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "writ", *arguments],
                cwd=self.root,
                env=self._clean(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )

    def up(self, *options: str) -> None:
        """Returns when the node answers."""
        self._up = up = self.start("up", *options)
        asked = self.writ("status", "--wait", str(int(WAIT_S)), check=False)
        said = (self.root / "up.log").read_text()
        assert asked.returncode == 0, f"{asked.stdout}{asked.stderr}\nwrit up ({up.poll()}): {said}"

    def down(self) -> None:
        if self._up is not None:
            self.writ("down", check=False)
            stop(self._up)
            self._up = None

    def log_by_subject(self, pattern: bytes) -> list[Any]:
        """The log's messages under a subject, in order, by the broker's direct reads in plain sockets."""
        url = self.json("env")["NATS_URL"]
        found: list[Any] = []
        with self._raw.Raw(url, self.root / ".writ" / "keys" / "log.creds") as client:
            inbox = client.subscribe(b"_INBOX.read")
            after = 0
            while True:
                body = json.dumps({"next_by_subj": pattern.decode(), "seq": after + 1}).encode()
                client.publish(b"$JS.API.DIRECT.GET.WRIT_LOG_0", body, b"_INBOX.read")
                said = client.next()
                assert said.sid == inbox
                if said.headers.startswith(b"NATS/1.0 404"):
                    return found
                (after,) = (
                    int(line.partition(b":")[2])
                    for line in said.headers.split(b"\r\n")
                    if line.startswith(b"Nats-Sequence:")
                )
                found.append(said)

    @staticmethod
    def until(condition: Callable[[], bool], within_s: float = WAIT_S) -> None:
        """Returns as soon as the condition holds."""
        end = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.05)

    @contextmanager
    def worker(self, module: str, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
        """A worker process, ended with the block."""
        process = self.start("worker", module, *arguments)
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process of ours: by SIGTERM, by force where it does not listen."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(WAIT_S)
        return
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, raw: ModuleType) -> Iterator[Place]:
    """A node in a directory of its own, shared by the tests of a file."""
    place = Place(tmp_path_factory.mktemp("place"), raw)
    try:
        place.up()
        yield place
    finally:
        place.down()


@pytest.fixture
def own_place(tmp_path: Path, raw: ModuleType) -> Iterator[Place]:
    """A node in a directory of its own, for one test."""
    place = Place(tmp_path, raw)
    try:
        place.up()
        yield place
    finally:
        place.down()


@pytest.fixture(scope="session")
def strictly() -> Callable[[bytes], Any]:
    """A JSON parser that takes nothing which is not JSON."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    def parse(body: bytes) -> Any:
        return json.loads(body.decode("utf-8", "strict"), parse_constant=refuse)

    return parse


__all__: Sequence[str] = ("Live", "Place")
