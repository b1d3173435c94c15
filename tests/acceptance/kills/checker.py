"""Compares the raw log with a ledger kept beside Writ, and with what Writ says of itself.

A program of its own: it knows the wire format and imports nothing of Writ.

    python checker.py --url URL --key SEED_FILE --ledger DIRECTORY --jobs JOBS.json

The ledger is every `*.jsonl` file of the directory, one object a line:

    {"what": "ack", "queue": ..., "id": ...}                      the client was told that it is stored
    {"what": "start", "queue": ..., "id": ..., "token": ..., "attempt": ..., "at_us": ...}
    {"what": "end", ...}                                          user code began, and ended
    {"what": "clock"}                  a clock was wrong for a while: times of several are not compared

`JOBS.json` is the output of `writ jobs --json`. Exits 0 with a summary, or 1 with the first difference.
"""
# nats-py leaves its options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import ssl
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

CONNECTS = 6
CONNECT_S = 5.0
"""How often it is tried to connect, and for how long each time."""

TERMINAL = {"job_completed": "completed", "job_cancelled": "cancelled", "job_dead_lettered": "dead"}
ALLOWED: dict[str, tuple[str, ...]] = {
    "job_due": ("scheduled", "retrying"),
    "lease_granted": ("pending",),
    "attempt_started": ("running",),
    "attempt_failed": ("running",),
    "lease_expired": ("running",),
    "lease_released": ("running",),
    "retry_scheduled": ("retrying",),
    "cancel_requested": ("scheduled", "pending", "running", "retrying"),
    "job_completed": ("running",),
    "job_cancelled": ("scheduled", "pending", "retrying"),
    "job_dead_lettered": ("scheduled", "pending", "retrying"),
    "job_redriven": ("dead",),
}
LEADS_TO = {
    "job_due": "pending",
    "lease_granted": "running",
    "attempt_failed": "retrying",
    "lease_expired": "pending",
    "lease_released": "pending",
    "job_redriven": "pending",
} | TERMINAL
OF_A_LEASE = ("attempt_started", "attempt_failed", "lease_expired", "lease_released", "job_completed")
ENDS_A_LEASE = ("attempt_failed", "lease_expired", "lease_released", "job_completed")
GENESIS = "0" * 64
TENANT = "default"


class Broken(Exception):
    """The first difference found."""


class Message(NamedTuple):
    """A message of the log stream as the broker keeps it; `stored_us` is the broker's time of storing."""

    seq: int
    subject: str
    body: bytes
    stored_us: int


# --- the log ----------------------------------------------------------------------------------------------


class History:
    """A fold of the raw log, message by message. Raises Broken at the first record that cannot be."""

    def __init__(self) -> None:
        self.seq = 0
        self.prev = GENESIS
        self.epoch = 0
        self.at = 0
        self.jobs: dict[str, dict[str, Any]] = {}
        self.grants: dict[int, dict[str, Any]] = {}
        self.events: Counter[str] = Counter()
        self.leaders: list[str] = []
        self.ended = 0
        """How many jobs have ended."""

        self._live: Counter[str] = Counter()

    @property
    def live(self) -> dict[str, int]:
        """How many leases each worker holds now."""
        return {worker: count for worker, count in self._live.items() if count}

    def take(self, message: Message) -> None:
        record = self._chained(message)
        for event in record["events"]:
            self.events[event["type"]] += 1
            if record["kind"] == "job":
                self._job_event(message, record, event["type"], event["data"])
            elif event["type"] == "leases_renewed":
                self._renewed(message.seq, event["data"]["leases"])
            elif event["type"] == "leader_elected":
                self.leaders.append(event["data"]["leader"])

    def _chained(self, message: Message) -> dict[str, Any]:
        seq = message.seq
        if seq != self.seq + 1:
            raise Broken(f"record {seq} follows record {self.seq}")
        record: dict[str, Any] = json.loads(message.body)
        if record["seq"] != seq:
            raise Broken(f"record {seq} calls itself {record['seq']}")
        if record["prev"] != self.prev:
            raise Broken(f"record {seq} does not continue the chain: its prev is not the digest of the last")
        if seq > 1 and record["epoch"] != self.epoch:
            raise Broken(f"record {seq} is of epoch {record['epoch']}, the one before of {self.epoch}")
        if message.subject != f"writ.log.0.{record['tenant']}.{record['kind']}.{record['key']}":
            raise Broken(f"record {seq} stands under the subject of another aggregate: {message.subject}")
        if record["at"] < self.at:
            raise Broken(f"record {seq} is at {record['at']}, before the one ahead of it")
        if not record["events"]:
            raise Broken(f"record {seq} holds no event")
        self.seq, self.epoch, self.at = seq, record["epoch"], record["at"]
        self.prev = hashlib.sha256(message.body).hexdigest()
        return record

    def _job_event(self, message: Message, record: dict[str, Any], kind: str, data: dict[str, Any]) -> None:
        key, seq, at = record["key"], message.seq, record["at"]
        job = self.jobs.get(key)
        if kind == "job_submitted":
            if job is not None:
                raise Broken(f"record {seq}: job {key} was submitted in record {job['submitted']} already")
            due = data.get("due_at")
            self.jobs[key] = {
                "state": "scheduled" if due is not None and due > at else "pending",
                "tenant": record["tenant"],
                "submitted": seq,
                "attempt": 0,
                "round": 1,
                "token": 0,
                "worker": "",
                "ends": [],
                "completed": None,
            }
            return
        if job is None:
            raise Broken(f"record {seq}: {kind} of job {key}, which was never submitted")
        if kind in TERMINAL and job["ends"]:
            raise Broken(f"record {seq}: job {key} ends again; record {job['ends'][0]} was its end")
        if kind == "lease_granted" and job["token"]:
            raise Broken(f"record {seq}: two live leases of job {key}: the first is {job['token']}")
        if job["state"] not in ALLOWED[kind]:
            raise Broken(f"record {seq}: {kind} of job {key}, which is {job['state']}")
        if kind in OF_A_LEASE and data["token"] != job["token"]:
            raise Broken(f"record {seq}: {kind} of job {key} by token {data['token']}, not {job['token']}")
        if kind in OF_A_LEASE and data["attempt"] != job["attempt"]:
            raise Broken(
                f"record {seq}: {kind} of attempt {data['attempt']} of job {key}, not {job['attempt']}"
            )
        if kind == "lease_expired" and data["expires_at"] > at:
            raise Broken(f"record {seq}: the lease of job {key} expires before its time")
        job["state"] = LEADS_TO.get(kind, job["state"])
        if kind == "lease_granted":
            self._granted(job, key, record, data)
        elif kind in ENDS_A_LEASE:
            self._live[job["worker"]] -= 1
            job["token"], job["worker"] = 0, ""
        if kind in TERMINAL:
            self.ended += 1
            job["ends"].append(seq)
        if kind == "job_completed":
            job["completed"] = (data["token"], message.stored_us, seq)
        elif kind == "job_redriven":
            self.ended -= 1
            job.update(ends=[], attempt=0, round=job["round"] + 1)

    def _granted(self, job: dict[str, Any], key: str, record: dict[str, Any], data: dict[str, Any]) -> None:
        token = (record["epoch"] << 40) + record["seq"]
        job["attempt"] += 1
        if data["attempt"] != job["attempt"]:
            raise Broken(
                f"record {record['seq']}: grant {job['attempt']} of job {key} says {data['attempt']}"
            )
        job["token"], job["worker"] = token, data["worker"]
        self._live[data["worker"]] += 1
        self.grants[token] = {"key": key, "attempt": job["attempt"], "worker": data["worker"]}

    def _renewed(self, seq: int, leases: list[list[Any]]) -> None:
        for key, token in leases:
            job = self.jobs.get(key)
            if job is None or job["token"] != token:
                raise Broken(f"record {seq} renews token {token} of job {key}, which is no live lease")


def fold(messages: Iterable[Message]) -> History:
    """The whole log."""
    history = History()
    for message in messages:
        history.take(message)
    return history


# --- what the log is compared with ------------------------------------------------------------------------


def read_ledger(directory: Path) -> list[dict[str, Any]]:
    """Every whole line; one cut short by a kill was never said to be written."""
    entries: list[dict[str, Any]] = []
    for path in sorted(directory.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        entries.extend(json.loads(line) for line in lines[:-1])
    return entries


def check_ends(history: History) -> None:
    """Every job has ended, exactly once in its round."""
    for key, job in history.jobs.items():
        if job["state"] not in TERMINAL.values() or len(job["ends"]) != 1:
            raise Broken(f"job {key} is {job['state']} and has {len(job['ends'])} terminal records")


def check_submits(history: History, ledger: list[dict[str, Any]]) -> int:
    """No acknowledged submit is missing; how many there are."""
    acks = [f"{entry['queue']}~{entry['id']}" for entry in ledger if entry["what"] == "ack"]
    for key, count in Counter(acks).items():
        if key not in history.jobs:
            raise Broken(f"the submit of job {key} was acknowledged, and the log does not have it")
        if count > 1:
            raise Broken(f"the ledger holds {count} acknowledgements of job {key}")
    return len(acks)


def check_executions(history: History, ledger: list[dict[str, Any]]) -> dict[str, int]:
    """Every execution was granted, none began after completion, no job completed without one."""
    started: dict[int, dict[str, Any]] = {}
    ended: set[int] = set()
    timed = all(each["what"] != "clock" for each in ledger)
    for entry in ledger:
        if entry["what"] in ("ack", "clock"):
            continue
        key, token = f"{entry['queue']}~{entry['id']}", entry["token"]
        grant = history.grants.get(token)
        if grant is None:
            raise Broken(f"job {key} was executed under token {token}, which no record grants")
        if (grant["key"], grant["attempt"]) != (key, entry["attempt"]):
            raise Broken(f"token {token} was granted for {grant['key']}, and {key} was executed under it")
        if entry["what"] == "end":
            ended.add(token)
            continue
        if token in started:
            raise Broken(f"job {key} was executed twice under one lease, {token}")
        started[token] = entry
        completed = history.jobs[key]["completed"]
        if timed and completed is not None and entry["at_us"] > completed[1]:
            late_us = entry["at_us"] - completed[1]
            raise Broken(f"job {key} was executed under token {token} {late_us} us after it had completed")
    for token in ended - started.keys():
        raise Broken(f"an execution under token {token} ended and never began")
    for key, job in history.jobs.items():
        if job["completed"] is not None and job["completed"][0] not in ended:
            raise Broken(f"job {key} completed under token {job['completed'][0]} without an execution")
    runs = Counter(f"{entry['queue']}~{entry['id']}" for entry in started.values())
    return {
        "executions": len(started),
        "jobs executed again": sum(1 for count in runs.values() if count > 1),
        "executions repeated": sum(count - 1 for count in runs.values()),
        "executions cut short": len(started.keys() - ended),
    }


def check_listing(history: History, listed: list[dict[str, Any]]) -> None:
    """`writ jobs --json` says what the log says."""
    said = {f"{job['queue']}~{job['id']}": job for job in listed}
    if len(said) != len(listed):
        raise Broken(f"the listing has {len(listed)} rows for {len(said)} jobs")
    mine = {key: job for key, job in history.jobs.items() if job["tenant"] == TENANT}
    for key in sorted(said.keys() ^ mine.keys()):
        raise Broken(f"job {key} is only in {'the listing' if key in said else 'the log'}")
    for key, job in mine.items():
        for field in ("state", "attempt"):
            if said[key][field] != job[field]:
                raise Broken(
                    f"job {key}: {field} is {job[field]} by the log, {said[key][field]} by the listing"
                )


def check(history: History, ledger: list[dict[str, Any]], listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything; the summary. Raises Broken."""
    check_ends(history)
    acknowledged = check_submits(history, ledger)
    executions = check_executions(history, ledger)
    check_listing(history, listed)
    return {
        "records": history.seq,
        "jobs": len(history.jobs),
        "acknowledged": acknowledged,
        "states": dict(Counter(job["state"] for job in history.jobs.values())),
        "attempts": dict(sorted(Counter(job["attempt"] for job in history.jobs.values()).items())),
        **executions,
        "leaders": len(history.leaders),
        "events": dict(sorted(history.events.items())),
    }


# --- reading the raw log ----------------------------------------------------------------------------------


async def connect(url: str, key: Path) -> Client:
    """A plain connection as the user whose credentials are in `key`; by TLS where a `ca.pem` is beside it."""

    async def ignore(_: Exception) -> None:
        """What matters shows as an answer that does not come."""

    for _ in range(CONNECTS):  # behind a handshake that fails, as a late one does, nats-py hangs
        connecting = nats.connect(
            url.split(","),
            user_credentials=str(key),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            error_cb=ignore,
            **_tls(key.with_name("ca.pem")),
        )
        with suppress(TimeoutError):
            return await asyncio.wait_for(connecting, CONNECT_S)
    raise TimeoutError(f"no connection to {url} in {CONNECTS} times {CONNECT_S} s")


def _tls(authority: Path) -> dict[str, Any]:
    if not authority.exists():
        return {}
    return {"tls": ssl.create_default_context(cafile=authority), "tls_handshake_first": True}


async def read_from(client: Client, stream: str, start: int, timeout_s: float = 5.0) -> list[Message]:
    """The messages from sequence `start` on, as far as one answer of the broker goes; maybe none.

    Raises TimeoutError where the broker does not answer, ConnectionError where it cannot.
    """
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=answers.put)
    found: list[Message] = []
    try:
        ask = json.dumps({"seq": start, "batch": 1000}).encode()
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", ask, reply=inbox)
        while True:
            answer = await asyncio.wait_for(answers.get(), timeout_s)
            headers = answer.headers or {}
            if headers.get("Status") in ("204", "404"):  # end of batch; nothing there
                return found
            if "Nats-Sequence" not in headers:
                raise ConnectionError(f"stream {stream} cannot be read: {headers}")
            found.append(
                Message(
                    int(headers["Nats-Sequence"]),
                    headers["Nats-Subject"],
                    answer.data,
                    _micros(headers["Nats-Time-Stamp"]),
                )
            )
    finally:
        await subscription.unsubscribe()


def _micros(stamp: str) -> int:
    """RFC 3339 with up to nine digits behind the dot, as microseconds since 1970."""
    whole, _, rest = stamp.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 1_000_000 + int(rest.ljust(6, "0")[:6])


async def read_log(url: str, key: Path, stream: str) -> list[Message]:
    """The whole stream."""
    client = await connect(url, key)
    try:
        messages: list[Message] = []
        while found := await read_from(client, stream, len(messages) + 1):
            messages.extend(found)
        return messages
    finally:
        await client.close()


def main() -> int:
    arguments = argparse.ArgumentParser(description="Compare the raw log with a ledger and a listing.")
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--key", type=Path, required=True)
    arguments.add_argument("--stream", default="WRIT_LOG_0")
    arguments.add_argument("--ledger", type=Path, required=True)
    arguments.add_argument("--jobs", type=Path, required=True)
    given = arguments.parse_args()
    try:
        history = fold(asyncio.run(read_log(given.url, given.key, given.stream)))
        summary = check(history, read_ledger(given.ledger), json.loads(given.jobs.read_bytes()))
    except Broken as broken:
        print(f"BROKEN: {broken}")
        return 1
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
