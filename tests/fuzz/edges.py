"""Every decoder and edge of Writ, with valid samples of what it takes and what gives its refusals."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import h11
import msgspec

from tests.acceptance.access_matrix import SHOP, TENANT, Cell, message
from tests.orchestrator.engine.conftest import Twin
from tests.schemas.test_codec import golden
from writ.broker.accounts import Principal as Account
from writ.broker.gate import Entry, Gate
from writ.broker.jwt import KeyKind, Signer
from writ.broker.keys import KeyFileError, load, new_seed
from writ.broker.trust import Trust
from writ.cli import contexts, declared
from writ.cli.submit import _read_jobs
from writ.cli.usage import CommandError
from writ.http.oidc import OidcFault, read_settings
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.messages import open_request, open_submit
from writ.orchestrator.replay import bundle, offline
from writ.orchestrator.replay.checked import signed_in
from writ.orchestrator.replay.verify import verify_stretch
from writ.projections.asked import Refused, address_of, parse
from writ.schemas.access import PolicyFault, policy_text, read_policy
from writ.schemas.bounds import MESSAGE_MAX_BYTES
from writ.schemas.checkpoints import NoteError, key_in
from writ.schemas.codec import CodecError, decode
from writ.schemas.commands import CONTROL_VERBS, LEASE_VERBS, SubmitJob
from writ.schemas.events import CommandRejected
from writ.schemas.principals import Role
from writ.schemas.rejections import Rejection
from writ.schemas.supposed import Supposed
from writ.schemas.verbs import QUERY_VERBS
from writ.testing import VirtualLoop

from .mutations import ODD, Mutations

Take = Callable[[bytes], str | None]
"""Takes an input: None where it is taken, else the reason of its refusal. What it raises is a fault."""

Ways = Callable[[Mutations, bytes], bytes]
"""A malformed input, from a sample."""


class Edge:
    """One edge, from `Making.open` to `close`."""

    def __init__(
        self, name: str, samples: Sequence[bytes], take: Take, ways: Ways,
        clock: Callable[[], float] = time.thread_time, close: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        assert samples, f"{name} has no samples"
        self.name = name
        self.samples = samples
        self.take = take
        self.clock = clock
        self.close = close
        self._ways = ways

    def malformed(self, mutations: Mutations) -> bytes:
        """An input, no longer than what the broker carries in one message."""
        return self._ways(mutations, mutations.draw.choice(self.samples))[:MESSAGE_MAX_BYTES]


class Making(NamedTuple):
    """An edge that is made when its turn comes."""

    name: str
    open: Callable[[], Edge]


def edges(directory: Path) -> Iterator[Making]:
    """All of them. Those that want a node's files, or a node, share one that runs in the directory."""
    node = Node(directory / "node")
    try:
        yield Making("submit", _submit)
        yield Making("lease", partial(_requests, "lease", LEASE_VERBS))
        yield Making("control", partial(_requests, "control", CONTROL_VERBS))
        yield Making("query", _query)
        yield Making("record", _record)
        yield Making("gate", _gate)
        yield Making("engine-submit", partial(_engine, "submit"))
        yield Making("engine-lease", partial(_engine, "lease"))
        yield Making("engine-control", partial(_engine, "control"))
        yield Making("apply-file", partial(_apply_file, directory))
        yield Making("access-policy", _access_policy)
        yield Making("jobs-file", partial(_jobs_file, directory))
        yield Making("contexts", partial(_contexts, directory))
        yield Making("key-file", partial(_key_file, directory))
        yield Making("oidc-file", partial(_oidc_file, directory))
        yield Making("what-if", _what_if)
        yield Making("bundle", partial(_bundle, directory, node))
        yield Making("proof", partial(_proof, directory, node))
        yield Making("checkpoints", partial(_checkpoints, directory, node))
        yield Making("public-key", partial(_public_key, node))
        yield Making("http", partial(_http, node))
    finally:
        node.close()


# --- messages -------------------------------------------------------------------------------------------

_JOBS: Final = (
    {"task": "t"},
    {"task": "invoices.extract", "id": "a-7", "input": {"n": [1, 2.5, None, "é"]}, "priority": 2},
    {"task": "t", "not_before": "2030-01-01T00:00:00Z", "retry": {"non_retryable_types": ["E"]}},
    {"task": "t", "tags": {"env": "prod"}, "unique_key": "u", "fairness_key": "f", "concurrency_key": "c"},
    {"task": "t", "after": ["mail~a"], "input_from": {"x": "mail~a"}, "batch": "b", "approval": {}},
)  # fmt: skip
_SUBMITS: Final = (
    *[json.dumps(job).encode() for job in _JOBS],
    json.dumps([{"task": "t"}, {"task": "t", "id": "b"}]).encode(),
)


def _json_ways(kind: Any) -> Ways:
    """Of JSON: by its type, as a tree, by words and by bytes."""

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        return mutations.among(
            lambda: mutations.of_type(kind), lambda: mutations.of_json(sample),
            lambda: mutations.of_json(sample), lambda: mutations.of_words(sample),
            lambda: mutations.of_bytes(sample),
        )  # fmt: skip

    return ways


def _submit() -> Edge:
    def take(body: bytes) -> str | None:
        found = open_submit(1, 7, "writ.shard.3.submit.default.owner.mail", body)
        return " | ".join([each.reason for each in found.refused]) if found.refused else None

    return Edge("submit", _SUBMITS, take, _json_ways(SubmitJob))


def _bodies(verbs: Sequence[str]) -> tuple[bytes, ...]:
    """A valid message of each verb, behind a line with the verb."""
    cells = [Cell(Role.OWNER, TENANT, verb, SHOP, True) for verb in verbs]
    return tuple([f"{c.operation}\n{json.dumps(message(c, 1))}".encode() for c in cells])


def _verb_ways(verbs: dict[str, Any]) -> Ways:
    """Of a message behind its verb: the message is malformed, and now and then the verb."""

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        verb, _, body = sample.partition(b"\n")
        if mutations.draw.random() < 0.02:
            verb = mutations.of_words(verb).replace(b"\n", b"").replace(b".", b"")
            return verb + b"\n" + body
        return verb + b"\n" + _json_ways(verbs[verb.decode()])(mutations, body)

    return ways


def _taken(sample: bytes) -> tuple[str, bytes]:
    verb, _, body = sample.partition(b"\n")
    return verb.decode("latin-1"), body


def _requests(word: str, verbs: dict[str, Any]) -> Edge:
    def take(sample: bytes) -> str | None:
        verb, body = _taken(sample)
        if _unspeakable(verb):
            return f"{verb!r} cannot stand in a subject"
        asked = open_request(f"writ.shard.3.{word}.default.owner.{verb}.mail", body, lambda _: None)
        return asked.command.reason if isinstance(asked.command, Rejection) else None

    return Edge(word, _bodies(list(verbs)), take, _verb_ways(verbs))


def _query() -> Edge:
    kinds = {verb: kind for verb, (kind, _) in QUERY_VERBS.items()}

    def take(sample: bytes) -> str | None:
        verb, body = _taken(sample)
        try:
            _, _, verb = address_of(f"writ.query.default.owner.{verb}")
            if verb not in kinds:
                return f"no query is called {verb}"
            parse(body, kinds[verb])
        except Refused as refused:
            return refused.rejection.reason
        return None

    samples = [each for each in _bodies([v for v in kinds if v != "bearer"])]
    return Edge("query", samples, take, _verb_ways(kinds))


def _record() -> Edge:
    def take(body: bytes) -> str | None:
        try:
            decode(body)
        except CodecError as error:
            return str(error)
        return None

    samples = [case["body"].encode() for _, case in golden()]

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        return mutations.among(
            partial(mutations.of_json, sample), partial(mutations.of_json, sample),
            partial(mutations.of_words, sample), partial(mutations.of_bytes, sample),
        )  # fmt: skip

    return Edge("record", samples, take, ways)


# --- the broker's questions -----------------------------------------------------------------------------

_NOW_US: Final = 1_790_000_000_000_000


class _At:
    def wall_us(self) -> int:
        return _NOW_US

    mono_us = wall_us


class _Bot:
    """Knows one principal, by whatever it shows."""

    def __init__(self, key: str) -> None:
        self._entry = Entry(Account("default", "bot", key, frozenset({"submit"})))
        self._key = key

    def by_key(self, public: str) -> Entry | None:
        return self._entry if public == self._key else None

    def by_token(self, digest: str) -> Entry | None:
        return self._entry if digest == hashlib.sha256(b"right").hexdigest() else None


def _gate() -> Edge:
    """Both what nobody has signed, and what a broker has: with other claims in it."""
    server, user = Signer(KeyKind.SERVER, b"s" * 32), Signer(KeyKind.USER, b"u" * 32)
    trust = Trust(Signer(KeyKind.OPERATOR, b"o" * 32))
    gate = Gate(trust, _Bot(user.public), _At())
    signature = base64.urlsafe_b64encode(user.sign(b"n")).decode().rstrip("=")
    asked = {
        "aud": "nats-authorization-request",
        "nats": {
            "server_id": {"id": server.public}, "user_nkey": user.public,
            "connect_opts": {"nkey": user.public, "sig": signature}, "client_info": {"nonce": "n"},
        },
    }  # fmt: skip
    other = msgspec.json.decode(msgspec.json.encode(asked))
    other["nats"]["connect_opts"] = {"auth_token": "right", "user": "x"}

    def sealed(claims: bytes) -> bytes:
        """The claims, signed by the server whatever they are."""
        head = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"ed25519-nkey"}').rstrip(b"=")
        body = claims.replace(b'"nats"', b'"iss":"%s","nats"' % server.public.encode(), 1)
        text = head + b"." + base64.urlsafe_b64encode(body).rstrip(b"=")
        return text + b"." + base64.urlsafe_b64encode(server.sign(text)).rstrip(b"=")

    def take(request: bytes) -> str | None:
        answer = gate.answer(request)
        if answer is None:
            return "it is no question of a broker"
        verdict = msgspec.json.decode(base64.urlsafe_b64decode(answer.split(b".")[1] + b"=="))["nats"]
        return str(verdict["error"]) if "error" in verdict else None

    documents = [json.dumps(each, separators=(",", ":")).encode() for each in (asked, other)]

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        claims = mutations.draw.choice(documents)
        return mutations.among(
            lambda: mutations.of_bytes(sample),
            lambda: sealed(mutations.of_json(claims)), lambda: sealed(mutations.of_json(claims)),
            lambda: sealed(mutations.of_words(claims)), lambda: sealed(mutations.of_bytes(claims)),
        )  # fmt: skip

    return Edge("gate", [sealed(each) for each in documents], take, ways)


# --- the engine -----------------------------------------------------------------------------------------

_TWIN_LIFE: Final = 4_000
"""Inputs to one engine: the next one begins with an empty log."""


_BETWEEN_S: Final = 0.2
"""Of virtual time: whoever is refused too often within a second is told to ask later, and nothing else."""

_ASKING: Final = ("owner", "robot")


class _Engine:
    """An engine on the in-memory log, which is asked one thing after the other in virtual time."""

    def __init__(self) -> None:
        self._loop = VirtualLoop()
        self._twin: Twin | None = None
        self._asked = 0

    def run(self, work: Callable[[Twin], Coroutine[Any, Any, str | None]]) -> str | None:
        return self._loop.run_until_complete(self._run(work))

    async def _run(self, work: Callable[[Twin], Coroutine[Any, Any, str | None]]) -> str | None:
        if self._twin is None or self._asked >= _TWIN_LIFE:
            if self._twin is not None:
                await self._twin.crash()
            self._twin, self._asked = Twin(lambda _: {}), 0
            # Who is asked in the name of must be known: a message that is no fault may make a tenant.
            keys = ("U" + "A" * 55, "U" + "B" * 55)
            self._twin.founders = tuple(
                [Founder("default", who, key, (Role.OWNER,)) for who, key in zip(_ASKING, keys, strict=True)]
            )
            await self._twin.start()
        self._asked += 1
        await asyncio.sleep(_BETWEEN_S)
        return await work(self._twin)

    def close(self) -> None:
        if self._twin is not None:
            self._loop.run_until_complete(self._twin.crash())
        self._loop.close()


async def _decided(twin: Twin, body: bytes) -> str | None:
    """What the log tells of a submit, once it has been decided on."""
    before = await twin.log.last_seq()
    seq = await twin.submit(body)
    engine = twin.engine
    assert engine is not None
    for _ in range(2_000):
        if engine.state.source.seq >= seq:
            break
        await asyncio.sleep(0.001)
    else:
        raise AssertionError("a submit was not decided on")
    assert all(not task.done() for _, task in twin.running), "the engine has ended"
    reasons = [
        each.reason
        async for part in _after(twin, before)
        for record in part
        for event in record.events
        if isinstance(event, CommandRejected)
        for each in event.refused
    ]
    return " | ".join(reasons) if reasons else None


async def _after(twin: Twin, seq: int) -> Any:
    async for part in twin.log.read(seq + 1):
        yield [decode(each.body) for each in part]


def _engine(word: str) -> Edge:
    engine = _Engine()
    close = engine.close
    if word == "submit":
        plain = _submit()
        return Edge(
            "engine-submit", [plain.samples[0]], lambda body: engine.run(lambda twin: _decided(twin, body)),
            lambda mutations, _: plain.malformed(mutations), close=close,
        )  # fmt: skip
    verbs = LEASE_VERBS if word == "lease" else CONTROL_VERBS
    plain = _requests(word, verbs)

    async def ask(twin: Twin, sample: bytes) -> str | None:
        verb, body = _taken(sample)
        if _unspeakable(verb):
            return f"{verb!r} cannot stand in a subject"
        asking = asyncio.ensure_future(twin.raw(verb, body, kind=word))
        done, _ = await asyncio.wait({asking}, timeout=600.0)  # of virtual time: an acquire may wait
        assert done, "a request was not answered"
        assert all(not task.done() for _, task in twin.running), "the engine has ended"
        error = asking.result().error
        return None if error is None else error.reason

    def neighbour(sample: bytes) -> str | None:
        return engine.run(lambda twin: ask(twin, sample))

    good = {
        "lease": [b'acquire\n{"worker": "w", "wait_s": 0}'],
        "control": [b'declare\n{"policy": {"concurrency": 3}}', b"list_prices\n{}", b"get_tenant\n{}"],
    }[word]
    return Edge(
        f"engine-{word}", good, neighbour, lambda mutations, _: plain.malformed(mutations), close=close
    )


def _unspeakable(verb: str) -> bool:
    """Whether no broker would carry a request of this verb."""
    return not verb or not verb.isascii() or not verb.isprintable() or any(c in verb for c in " .*>")


# --- files of the command line --------------------------------------------------------------------------

_APPLY: Final = b"""
[tenant]
archive_after_s = 86400

[queues.billing]
concurrency = 10
rate_per_s = 2.5
burst = 5
retry = {max_attempts = 3, initial_interval_s = 1.5}

[schedules.nightly]
queue = "billing"
task = "invoices.close"
cron = "0 3 * * *"
tz = "Europe/Berlin"
input = {n = 1}

[prices.small]
input = 0.25
output = 1.25
"""
_OIDC: Final = b"""
issuer = "https://login.example.com"
client_id = "writ"
scopes = ["openid", "profile"]

[[rules]]
subject = "7"
principal = "bob"

[[rules]]
group = "staff"
principal_claim = "nickname"
"""


def _toml(mutations: Mutations, sample: bytes) -> bytes:
    return mutations.among(
        lambda: mutations.of_words(sample), lambda: mutations.of_words(sample),
        lambda: mutations.of_lines(sample), lambda: mutations.of_bytes(sample),
        lambda: sample + b"\nx = " + mutations.draw.choice(ODD) + b"\n",
    )  # fmt: skip


def _of_file(path: Path, read: Callable[[], object], *refusals: type[Exception]) -> Take:
    """Takes what is written to a file."""

    def take(content: bytes) -> str | None:
        path.write_bytes(content)
        try:
            read()
        except refusals as error:
            return str(error)
        return None

    return take


def _apply_file(directory: Path) -> Edge:
    path = directory / "apply.toml"
    take = _of_file(path, lambda: declared.read(str(path)), CommandError)
    return Edge("apply-file", [_APPLY], take, _toml)


def _access_policy() -> Edge:
    def take(text: bytes) -> str | None:
        try:
            read_policy(text.decode("utf-8", "surrogateescape"))
        except PolicyFault as fault:
            return str(fault)
        return None

    return Edge("access-policy", [policy_text().encode()], take, _toml)


def _jobs_file(directory: Path) -> Edge:
    path = directory / "jobs.ndjson"
    take = _of_file(path, lambda: _read_jobs(str(path), {"task": "t"}), CommandError)

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        lines = sample.split(b"\n")
        at = mutations.draw.randrange(len(lines))
        lines[at] = mutations.among(
            lambda: mutations.of_json(lines[at]), lambda: mutations.of_words(lines[at]),
            lambda: mutations.of_bytes(lines[at]),
        )  # fmt: skip
        return b"\n".join(lines)

    return Edge("jobs-file", [b"\n".join(_SUBMITS[:-1])], take, ways)


def _contexts(directory: Path) -> Edge:
    path = directory / "writ" / "contexts.json"
    path.parent.mkdir()
    env = {"XDG_CONFIG_HOME": str(directory)}
    one = {"url": "nats://127.0.0.1:4222", "creds": "/k.nk", "tenant": "default", "principal": "bob"}
    sample = json.dumps({"current": "work", "contexts": {"work": one, "home": one}}).encode()
    take = _of_file(path, lambda: contexts.chosen(Namespace(context=None), env), CommandError)

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        return mutations.among(
            lambda: mutations.of_json(sample), lambda: mutations.of_words(sample),
            lambda: mutations.of_bytes(sample),
        )  # fmt: skip

    return Edge("contexts", [sample], take, ways)


def _key_file(directory: Path) -> Edge:
    path = directory / "key.nk"
    path.touch(mode=0o600)
    take = _of_file(path, lambda: load(path), KeyFileError)
    samples = [new_seed(KeyKind.USER), new_seed(KeyKind.USER) + b"\n"]
    return Edge("key-file", samples, take, Mutations.of_bytes)


def _oidc_file(directory: Path) -> Edge:
    path = directory / "oidc.toml"
    take = _of_file(path, lambda: read_settings(path), OidcFault)
    return Edge("oidc-file", [_OIDC], take, _toml)


def _what_if() -> Edge:
    """What a what-if supposes, as the API takes it."""
    from writ.http.problems import Fault
    from writ.http.shapes import body_of

    def take(body: bytes) -> str | None:
        try:
            body_of(body, Supposed).price_tables()
        except Fault as fault:
            return fault.problem.detail
        return None

    queues = {"billing": {"concurrency": 2, "retry": {"max_attempts": 9, "backoff": 1.5}}}
    prices = {"small": [{"input": 0.5, "output": 1.0, "from": "2026-01-01T00:00:00Z"}]}
    sample = json.dumps({"queues": queues, "prices": prices}).encode()
    return Edge("what-if", [sample], take, _json_ways(Supposed))


# --- what a node leaves: bundles, proofs, checkpoints ---------------------------------------------------


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
            self.directory.mkdir()
            self._info = json.loads(self.writ("up", "--detach", "--json"))
            for number in range(5):
                self.writ("submit", "mail", "t", f'{{"n": {number}}}', "--id", f"j{number}")
            self.writ("cancel", "j1", "--reason", "to try")
        return self._info

    def writ(self, *words: str) -> str:
        command = [sys.executable, "-P", "-m", "writ", *words]
        done = subprocess.run(
            command, cwd=self.directory, env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def http_pid(self) -> int:
        """The process of the HTTP API, which starts with the first connection."""
        address = urlsplit(self.info["http_url"])
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


def _bundle(directory: Path, node: Node) -> Edge:
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


def _proof(directory: Path, node: Node) -> Edge:
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


def _checkpoints(directory: Path, node: Node) -> Edge:
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
        found = signed_in(folder, 0)
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


def _public_key(node: Node) -> Edge:
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
            with suppress(BrokenPipeError, ConnectionResetError):
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


def _http(node: Node) -> Edge:
    """Requests to a node that runs: heads, paths, query strings, headers and bodies."""
    port = int(str(urlsplit(node.info["http_url"]).port))
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
