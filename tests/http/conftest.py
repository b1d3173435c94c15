"""A node with its HTTP API, and a caller that speaks HTTP and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

TASKS = '''
"""Tasks of a user."""
from writ import task


@task
def hello(name: str) -> str:
    return f"hello {name}"


@task
def broken(n: int = 0) -> None:
    raise ValueError(f"no good: {n}")
'''
WAIT_S = 60.0


@dataclass(frozen=True)
class Got:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def position(self) -> int:
        return int(self.headers["writ-position"])

    def is_problem(self, status: int) -> bool:
        """Whether it is a problem document that says the same as the status line."""
        said = self.headers["content-type"] == "application/problem+json" and self.document["status"]
        return (self.status, said) == (status, status) and bool(self.document["detail"])


class Events:
    """A reader of server-sent events."""

    def __init__(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._answer = answer

    def next(self) -> dict[str, str]:
        """The next event or comment, by its fields; a comment has none but ``."""
        found: dict[str, str] = {}
        while line := self._answer.readline().decode().rstrip("\n"):
            name, _, value = line.partition(":")
            found[name] = value.strip()
        return found

    def until(self, wanted: Callable[[dict[str, str]], object]) -> list[dict[str, str]]:
        """The events up to the first that is wanted, comments left out."""
        found: list[dict[str, str]] = []
        while not found or not wanted(found[-1]):
            event = self.next()
            found += [] if "" in event else [event]
        return found

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


class Api:
    """A node that `writ up --detach` has started in a directory, by its HTTP API."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._env = {
            name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "WRIT_"))
        }
        self.info: dict[str, Any] = {}

    def writ(self, *words: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of the command line, in the directory."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "writ", *words],
            cwd=self.directory, env=self._env, capture_output=True, text=True, check=False, timeout=WAIT_S,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stderr
        return done

    def up(self, *words: str) -> None:
        self.info = json.loads(self.writ("up", "--detach", "--json", *words).stdout)

    def worker(self, *words: str) -> subprocess.Popen[bytes]:
        """A worker for the tasks above, in the background."""
        (self.directory / "tasks.py").write_text(TASKS, encoding="utf-8")
        return self.worker_of("tasks.py", *words)

    def worker_of(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        """A worker for the tasks in a file of the directory, in the background."""
        command = [sys.executable, "-P", "-m", "writ", "worker", module, *words]
        return subprocess.Popen(
            command, cwd=self.directory, env=self._env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def port(self) -> int:
        port = urlsplit(str(self.info["http_url"])).port
        assert port is not None
        return port

    @property
    def token(self) -> str:
        return Path(self.info["token_path"]).read_text(encoding="utf-8").strip()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def ask(
        self, method: str, path: str, body: object = None, *, sent: bytes | None = None,
        token: str | None = "", headers: dict[str, str] | None = None, **query: Any,
    ) -> Got:  # fmt: skip
        """One request: `body` is sent as JSON, `sent` as it is; `token` None leaves it out."""
        given = {} if token is None else {"Authorization": f"Bearer {token or self.token}"}
        if body is not None:
            sent, given["Content-Type"] = json.dumps(body).encode(), "application/json"
        address = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        connection = self.connection()
        try:
            connection.request(method, address, sent, given | (headers or {}))
            answer = connection.getresponse()
            kept = {name.lower(): value for name, value in answer.getheaders()}
            cookies = tuple(answer.headers.get_all("Set-Cookie", []))
            return Got(answer.status, kept, answer.read(), cookies)
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Got:
        return self.ask("GET", path, **query)

    def post(self, path: str, body: object = None) -> Got:
        return self.ask("POST", path, body)

    def submit(self, queue: str, task: str, **job: Any) -> Any:
        """What a job's submit is answered; it must be accepted."""
        got = self.post(f"/v1/queues/{queue}/jobs", {"task": task, **job})
        assert got.status == 201, got.body
        return got.document

    @contextmanager
    def events(self, last_id: str | None = None, small: bool = False, **query: Any) -> Generator[Events]:
        """A stream of records; with `small` buffers in between, so that a slow reader is soon felt."""
        connection = self.connection()
        if small:
            connection.sock = socket.socket()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.sock.settimeout(WAIT_S)
            connection.sock.connect(("127.0.0.1", self.port))
        given = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        if last_id is not None:
            given["Last-Event-ID"] = last_id
        connection.request("GET", f"/v1/log?{urlencode(query)}", headers=given)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        reader = Events(connection, answer)
        try:
            yield reader
        finally:
            reader.close()

    def child(self, named: str) -> int | None:
        """The node's child process with a word in its command line."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
                command = stat.with_name("cmdline").read_text().split("\0")
            except OSError:
                continue
            if int(parent) == self.info["pid"] and state != "Z" and any(named in word for word in command):
                return int(stat.parent.name)
        return None

    @staticmethod
    def until(found: Callable[[], object]) -> None:
        """Waits for a condition."""
        until = time.monotonic() + WAIT_S
        while not found():
            assert time.monotonic() < until, "it did not come about in time"
            time.sleep(0.02)

    def ended(self, queue: str, job: str) -> Any:
        """The job, as soon as it has ended."""
        found: dict[str, Any] = {}

        def look() -> bool:
            found.update(self.get(f"/v1/queues/{queue}/jobs/{quote(job, safe='')}").document)
            return found["state"] in ("completed", "cancelled", "dead")

        self.until(look)
        return found


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A node that a module shares."""
    yield from node_in(tmp_path_factory.mktemp("node"))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Api]:
    """A directory for a node of one test, which starts it."""
    yield from node_in(tmp_path, start=False)


def node_in(directory: Path, *words: str, start: bool = True) -> Iterator[Api]:
    """A node in a directory, with further words for `writ up`; it is ended behind the test."""
    api = Api(directory)
    try:
        if start:
            api.up(*words)
        yield api
    finally:
        with suppress(subprocess.TimeoutExpired):
            api.writ("down")
