"""What a node leaves and serves: bundles, proofs, checkpoints, HTTP."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import h11

from writ.broker.note_places import NoteFolder
from writ.orchestrator.replay import bundle, offline
from writ.orchestrator.replay.checked import signed_in
from writ.orchestrator.replay.verify import verify_stretch
from writ.schemas.checkpoints import NoteError, key_in

from .edge import Edge
from .mutations import ODD, Mutations


class Node:
    """A node that runs as a user starts it, with a few jobs in its log; started when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._info: dict[str, Any] | None = None
        gone = ("NATS_", "WRIT_")
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(gone)}

    @property
    def info(self) -> dict[str, Any]:
        if self._info is None:
            self._info = self._started()
        return self._info

    def _started(self) -> dict[str, Any]:
        self.directory.mkdir()
        info: dict[str, Any] = json.loads(self.writ("up", "--detach", "--json"))
        for number in range(5):
            self.writ("submit", "mail", "t", f'{{"n": {number}}}', "--id", f"j{number}")
        self.writ("cancel", "j1", "--reason", "to try")
        return info

    def writ(self, *words: str) -> str:
        command = [sys.executable, "-P", "-m", "writ", *words]
        done = subprocess.run(
            command, cwd=self.directory, env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def http_pid(self) -> int:
        """The process of the HTTP API, which starts with the first connection."""
        address = urlsplit(str(self.info["http_url"]))
        with socket.create_connection((str(address.hostname), int(str(address.port))), timeout=20) as plain:
            plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert plain.recv(100)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                words = stat.with_name("cmdline").read_bytes().split(b"\x00")
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if b"writ.http" in words and parent == self.info["pid"]:
                    return int(stat.parent.name)
        raise AssertionError("the node has no process for HTTP")

    def close(self) -> None:
        if self._info is not None:
            self.writ("down")


def _cpu_s(pid: int) -> float:
    """What a process has had of the processors: the machine may have others to do."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _resealed(content: bytes) -> bytes:
    """A bundle with the checksum that is right for what stands in it."""
    kept = content[: content.rstrip(b"\n").rfind(b"\n") + 1]
    return kept + b'{"sha256":"%s"}\n' % hashlib.sha256(kept).hexdigest().encode()


def of_bundle(directory: Path, node: Node) -> Edge:
    """A bundle is read, and all that it holds is verified; most have a checksum that is right."""
    assert node.info
    made, path = directory / "sample.writ", directory / "bundle.writ"
    node.writ("replay", "--export", str(made))
    sample = made.read_bytes()

    def read() -> str | None:
        _, stretch = bundle.read(path)
        report = verify_stretch(stretch)
        return None if report.ok else " | ".join(report.lines())

    def take(content: bytes) -> str | None:
        path.write_bytes(content)
        try:
            return read()
        except bundle.BundleError as error:
            return str(error)

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        lines = sample.split(b"\n")
        at = mutations.draw.randrange(len(lines))
        lines[at] = mutations.among(
            lambda: mutations.of_json(lines[at]), lambda: mutations.of_words(lines[at])
        )
        changed = b"\n".join(lines)
        return mutations.among(
            lambda: _resealed(changed), lambda: _resealed(changed), lambda: changed,
            lambda: _resealed(mutations.of_bytes(sample)),
            lambda: mutations.of_bytes(gzip.compress(sample, 1)),
        )  # fmt: skip

    return Edge("bundle", [sample, gzip.compress(sample)], take, ways)


def of_proof(directory: Path, node: Node) -> Edge:
    """A proof of a job, by the verifier that needs nothing but Python."""
    assert node.info
    path = directory / "proof.json"
    node.writ("audit", "prove", "j1", "--out", str(path))
    sample, key = path.read_bytes(), node.writ("audit", "key").strip().splitlines()[0]

    def take(content: bytes) -> str | None:
        path.write_bytes(content)
        said = io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            code = offline.main([str(path), "--key", key])
        return None if code == 0 else said.getvalue()

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        return mutations.among(
            lambda: mutations.of_json(sample), lambda: mutations.of_json(sample),
            lambda: mutations.of_words(sample), lambda: mutations.of_bytes(sample),
        )  # fmt: skip

    return Edge("proof", [sample], take, ways)


def of_checkpoints(directory: Path, node: Node) -> Edge:
    """A folder of checkpoints, of which the notes or the keys are changed."""
    assert node.info
    node.writ("audit", "checkpoint")
    (made,) = Path(node.directory / ".writ").glob("**/checkpoints")
    folder = directory / "checkpoints"
    folder.mkdir()
    keys, notes = (made / "keys").read_bytes(), (made / "log-0").read_bytes()

    def take(content: bytes) -> str | None:
        told_keys, _, told_notes = content.partition(b"\x00\x00")
        (folder / "keys").write_bytes(told_keys)
        (folder / "log-0").write_bytes(told_notes)
        found = signed_in(NoteFolder(folder), 0)
        return " | ".join(found.faults) if found.faults else None

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        del sample
        parts = [keys, notes]
        at = mutations.draw.randrange(2)
        part = parts[at]
        parts[at] = mutations.among(
            lambda: mutations.of_words(part),
            lambda: mutations.of_lines(part),
            lambda: mutations.of_bytes(part),
        )
        return b"\x00\x00".join(parts)

    return Edge("checkpoints", [keys + b"\x00\x00" + notes], take, ways)


def of_public_key(node: Node) -> Edge:
    assert node.info
    sample = node.writ("audit", "key").strip().splitlines()[0].encode()

    def take(text: bytes) -> str | None:
        try:
            key_in(text.decode("utf-8", "surrogateescape"))
        except NoteError as error:
            return str(error)
        return None

    return Edge("public-key", [sample], take, Mutations.of_bytes)


# --- HTTP -----------------------------------------------------------------------------------------------


_CHUNKED: Final = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


class _Http:
    """Sends bytes to a node's HTTP port, and reads one answer to them."""

    def __init__(self, port: int) -> None:
        self._port = port

    def take(self, request: bytes) -> str | None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=20) as plain:
            with suppress(OSError):  # it may answer, and end, before all has come
                plain.sendall(request)
                if not _is_whole(request):
                    plain.shutdown(socket.SHUT_WR)  # else it waits for the rest, as it should
            answer = http.client.HTTPResponse(plain)
            try:
                answer.begin()
                body = answer.read()
            except ConnectionResetError:
                return "the connection is closed, as more came than is read"
            except (http.client.BadStatusLine, http.client.IncompleteRead):
                return "the request was not whole, and is not answered"
        assert answer.status < 500 or answer.status == 503, f"{answer.status} {body[:300]!r}"
        if answer.status < 400:
            return None
        return str(json.loads(body)["detail"]) if body else f"{answer.status}"


def _is_whole(request: bytes) -> bool:
    """Whether a request ends, or is wrong before it does."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)
    try:
        connection.receive_data(request)
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.ConnectionClosed):
                return False  # nothing was sent: it would be told so for ever
            if isinstance(event, h11.EndOfMessage) or event is h11.PAUSED:
                return True
    except h11.RemoteProtocolError:
        return True
    return False


def _http_samples(token: str, port: int) -> list[bytes]:
    head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"

    def request(method: str, path: str, body: object = None) -> bytes:
        sent = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n"
        return f"{method} {path} HTTP/1.1\r\n{head}{kind}Connection: close\r\n\r\n".encode() + sent

    return [
        request("GET", "/v1/jobs?states=pending&queue=mail&limit=3"),
        request("GET", "/v1/queues/mail/jobs/j1"),
        request("GET", "/v1/queues/mail/jobs/j1/timeline"),
        request("GET", "/v1/log?limit=5&after=2"),
        request("GET", "/v1/session"),
        request("GET", "/v1/audit?refused=true"),
        request("GET", "/healthz"),
        request("GET", "/login"),
        request("PUT", "/v1/queues/other", {"policy": {"concurrency": 3}, "reason": "to try"}),
        request("POST", "/v1/replay/what-if", {"queues": {"mail": {"concurrency": 1}}}),
        request("POST", "/v1/session", {"token": token}),
    ]  # fmt: skip


def of_http(node: Node) -> Edge:
    """Requests to a node that runs: heads, paths, query strings, headers and bodies."""
    port = int(str(urlsplit(str(node.info["http_url"])).port))
    token = Path(node.info["token_path"]).read_text(encoding="utf-8").strip()
    samples = _http_samples(token, port)

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        head, _, body = sample.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        line, odd = mutations.draw.randrange(len(lines)), mutations.draw.choice(ODD)
        with_line = [*lines[:line], mutations.of_words(lines[line]), *lines[line + 1 :]]
        method, path, version = lines[0].split(b" ")
        target = mutations.among(
            lambda: mutations.of_words(path), lambda: mutations.of_bytes(path),
            lambda: path + b"?limit=" + odd,
            lambda: path.replace(b"mail", odd), lambda: path + b"/%00%ff%2e%2e/" + odd,
        )  # fmt: skip
        other = mutations.of_json(body) if body else odd
        sized = b"\r\n".join([each for each in lines if not each.startswith(b"Content-Length")])
        return mutations.among(
            lambda: b"\r\n".join(with_line) + b"\r\n\r\n" + body,
            lambda: b"\r\n".join([b" ".join((method, target, version)), *lines[1:]]) + b"\r\n\r\n" + body,
            lambda: sized + b"\r\nContent-Length: %d\r\n\r\n" % len(other) + other,
            lambda: sized + _CHUNKED + b"%x\r\n" % len(other) + other + _LAST_CHUNK,
            lambda: head + b"\r\nX-Odd: " + odd + b"\r\n\r\n" + body,
            lambda: mutations.of_bytes(sample),
        )  # fmt: skip

    return Edge("http", samples, _Http(port).take, ways, clock=partial(_cpu_s, node.http_pid()))
