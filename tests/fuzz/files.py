"""Files that the command line reads, and what a what-if supposes."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Final

from writ.broker.jwt import KeyKind
from writ.broker.keys import KeyFileError, load, new_seed
from writ.cli import contexts, declared
from writ.cli.reach import NODE_FILE, find
from writ.cli.submit import read_jobs
from writ.cli.usage import CommandError
from writ.http.oidc import OidcFault, read_settings
from writ.schemas.access import PolicyFault, policy_text, read_policy
from writ.schemas.supposed import Supposed

from .edge import Edge, Take
from .messages import SUBMITS, json_ways
from .mutations import ODD, Mutations

_APPLY: Final = b"""
[tenant]
archive_after_s = 86400

[queues.billing]
concurrency = 10
rate_per_s = 2.5
lanes = 4
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


def _of_document(mutations: Mutations, sample: bytes) -> bytes:
    """A JSON document that is changed in one of the ways there are."""
    return mutations.among(
        lambda: mutations.of_json(sample), lambda: mutations.of_words(sample),
        lambda: mutations.of_bytes(sample),
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


def apply_file(directory: Path) -> Edge:
    path = directory / "apply.toml"
    take = _of_file(path, lambda: declared.read(str(path)), CommandError)
    return Edge("apply-file", [_APPLY], take, _toml)


def access_policy() -> Edge:
    def take(text: bytes) -> str | None:
        try:
            read_policy(text.decode("utf-8", "surrogateescape"))
        except PolicyFault as fault:
            return str(fault)
        return None

    return Edge("access-policy", [policy_text().encode()], take, _toml)


def jobs_file(directory: Path) -> Edge:
    path = directory / "jobs.ndjson"
    take = _of_file(path, lambda: read_jobs(str(path), {"task": "t"}), CommandError)

    def ways(mutations: Mutations, sample: bytes) -> bytes:
        lines = sample.split(b"\n")
        at = mutations.draw.randrange(len(lines))
        lines[at] = _of_document(mutations, lines[at])
        return b"\n".join(lines)

    return Edge("jobs-file", [b"\n".join(SUBMITS[:-1])], take, ways)


def saved_contexts(directory: Path) -> Edge:
    path = directory / "writ" / "contexts.json"
    path.parent.mkdir()
    env = {"XDG_CONFIG_HOME": str(directory)}
    one = {"url": "nats://127.0.0.1:4222", "creds": "/k.nk", "tenant": "default", "principal": "bob"}
    sample = json.dumps({"current": "work", "contexts": {"work": one, "home": one}}).encode()
    take = _of_file(path, lambda: contexts.chosen(Namespace(context=None), env), CommandError)

    return Edge("contexts", [sample], take, _of_document)


def node_file(directory: Path) -> Edge:
    """What a node that runs wrote down of itself, by which commands find it."""
    path = directory / NODE_FILE
    names = {"url": "nats://127.0.0.1:4222", "key_path": "/k.nk", "tenant": "default", "principal": "bob"}
    more = {"http_url": "http://127.0.0.1:80", "token_path": None, "version": "0.1.0"}
    sample = json.dumps({"pid": os.getpid(), **names, **more}).encode()
    asked = Namespace(dir=str(directory), url=None, creds=None, tenant=None, principal=None, context=None)
    take = _of_file(path, lambda: find(asked, {}), CommandError)

    return Edge("node-file", [sample], take, _of_document)


def key_file(directory: Path) -> Edge:
    path = directory / "key.nk"
    path.touch(mode=0o600)
    take = _of_file(path, lambda: load(path), KeyFileError)
    samples = [new_seed(KeyKind.USER), new_seed(KeyKind.USER) + b"\n"]
    return Edge("key-file", samples, take, Mutations.of_bytes)


def oidc_file(directory: Path) -> Edge:
    path = directory / "oidc.toml"
    take = _of_file(path, lambda: read_settings(path), OidcFault)
    return Edge("oidc-file", [_OIDC], take, _toml)


def what_if() -> Edge:
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
    return Edge("what-if", [sample], take, json_ways(Supposed))
