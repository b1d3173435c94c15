"""Messages: submits, what workers and operators ask, queries, records; and what the broker asks the gate."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from tests.acceptance.access_matrix import SHOP, TENANT, Cell, message
from tests.schemas.test_codec import golden
from writ.broker.accounts import Principal as Account
from writ.broker.gate import Entry, Gate
from writ.broker.jwt import KeyKind, Signer
from writ.broker.trust import Trust
from writ.orchestrator.messages import open_request, open_submit
from writ.projections.asked import Refused, address_of, parse
from writ.schemas.codec import CodecError, decode
from writ.schemas.commands import SubmitJob
from writ.schemas.principals import Role
from writ.schemas.rejections import Rejection
from writ.schemas.verbs import QUERY_VERBS

from .edge import Edge, Ways
from .mutations import Mutations

_JOBS: Final = (
    {"task": "t"},
    {"task": "invoices.extract", "id": "a-7", "input": {"n": [1, 2.5, None, "é"]}, "priority": 2},
    {"task": "t", "not_before": "2030-01-01T00:00:00Z", "retry": {"non_retryable_types": ["E"]}},
    {"task": "t", "tags": {"env": "prod"}, "unique_key": "u", "fairness_key": "f", "concurrency_key": "c"},
    {"task": "t", "after": ["mail~a"], "input_from": {"x": "mail~a"}, "batch": "b", "approval": {}},
)  # fmt: skip
SUBMITS: Final = (
    *[json.dumps(job).encode() for job in _JOBS],
    json.dumps([{"task": "t"}, {"task": "t", "id": "b"}]).encode(),
)


def json_ways(kind: Any) -> Ways:
    """Of JSON: by its type, as a tree, by words and by bytes."""

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        return mutations.among(
            lambda: mutations.of_type(kind), lambda: mutations.of_json(sample),
            lambda: mutations.of_json(sample), lambda: mutations.of_words(sample),
            lambda: mutations.of_bytes(sample),
        )  # fmt: skip

    return ways


def submit() -> Edge:
    def take(body: bytes) -> str | None:
        found = open_submit(1, 7, "writ.shard.3.submit.default.owner.mail", body)
        return " | ".join([each.reason for each in found.refused]) if found.refused else None

    return Edge("submit", SUBMITS, take, json_ways(SubmitJob))


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
        return verb + b"\n" + json_ways(verbs[verb.decode()])(mutations, body)

    return ways


def taken(sample: bytes) -> tuple[str, bytes]:
    verb, _, body = sample.partition(b"\n")
    return verb.decode("latin-1"), body


def unspeakable(verb: str) -> bool:
    """Whether no broker would carry a request of this verb."""
    return not verb or not verb.isascii() or not verb.isprintable() or any(c in verb for c in " .*>")


def requests(word: str, verbs: dict[str, Any]) -> Edge:
    def take(sample: bytes) -> str | None:
        verb, body = taken(sample)
        if unspeakable(verb):
            return f"{verb!r} cannot stand in a subject"
        asked = open_request(f"writ.shard.3.{word}.default.owner.{verb}.mail", body, lambda _: None)
        return asked.command.reason if isinstance(asked.command, Rejection) else None

    return Edge(word, _bodies(list(verbs)), take, _verb_ways(verbs))


def query() -> Edge:
    kinds = {verb: kind for verb, (kind, _) in QUERY_VERBS.items()}

    def take(sample: bytes) -> str | None:
        verb, body = taken(sample)
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


def record() -> Edge:
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


def gate() -> Edge:
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
