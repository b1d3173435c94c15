"""The checker has teeth: each tampered history, ledger or listing is found, and a whole one passes."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

QUEUE = "q"
T0 = 1_700_000_000_000_000
EPOCH = 3


class Story:
    """A small true history as plain data, with the ledger and the listing that go with it.

    j1: leased, expired, leased again and completed. j2: failed and dead.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.ledger: list[dict[str, Any]] = []
        self.listing: list[dict[str, Any]] = []
        self.stored_us: dict[int, int] = {}
        self.add("partition", "0", ("leader_elected", {"leader": "a", "version": "1"}), tenant="_writ")
        self.submit("j1")
        self.submit("j2")
        lost = self.lease("j1", 1)
        self.add("worker", "w", ("leases_renewed", {"leases": [[f"{QUEUE}~j1", lost]]}))
        expired = {"attempt": 1, "token": lost, "worker": "w", "expires_at": T0, "losses": 1}
        self.job("j1", ("lease_expired", expired | {"max_lease_losses": 5}))
        self.token = self.lease("j1", 2)
        self.end("j1", 2, self.token)
        self.job("j1", ("job_completed", {"attempt": 2, "token": self.token}))
        dead = self.lease("j2", 1)
        self.end("j2", 1, dead)
        failed = {"attempt": 1, "token": dead, "error": {"class": "policy", "type": "No"}}
        self.job("j2", ("attempt_failed", failed), ("job_dead_lettered", {"reason": "policy", "rule": "r"}))
        self.listing += [
            {"id": "j1", "queue": QUEUE, "state": "completed", "attempt": 2},
            {"id": "j2", "queue": QUEUE, "state": "dead", "attempt": 1},
        ]

    def add(self, kind: str, key: str, *events: tuple[str, dict[str, Any]], tenant: str = "default") -> int:
        """A record at the end; its sequence."""
        seq = len(self.records) + 1
        self.records.append(
            {
                "epoch": EPOCH,
                "seq": seq,
                "tenant": tenant,
                "kind": kind,
                "key": key,
                "at": T0 + seq,
                "actor": "owner",
                "events": [{"type": name, "v": 1, "data": data} for name, data in events],
            }
        )
        self.stored_us[seq] = T0 + 10 * seq
        return seq

    def job(self, job_id: str, *events: tuple[str, dict[str, Any]]) -> int:
        return self.add("job", f"{QUEUE}~{job_id}", *events)

    def submit(self, job_id: str) -> None:
        self.job(job_id, ("job_submitted", {"task": "t"}))
        self.ledger.append({"what": "ack", "queue": QUEUE, "id": job_id})

    def lease(self, job_id: str, attempt: int) -> int:
        """A grant, and the start of its execution; the token."""
        seq = self.job(job_id, ("lease_granted", {"worker": "w", "attempt": attempt}))
        token = (EPOCH << 40) + seq
        self.execution("start", job_id, attempt, token, T0 + 10 * seq + 1)
        return token

    def end(self, job_id: str, attempt: int, token: int) -> None:
        self.execution("end", job_id, attempt, token, T0 + 10 * len(self.records) + 2)

    def execution(self, what: str, job_id: str, attempt: int, token: int, at_us: int) -> None:
        entry = {"what": what, "queue": QUEUE, "id": job_id, "attempt": attempt, "token": token}
        self.ledger.append(entry | {"at_us": at_us})

    def of(self, kind: str) -> dict[str, Any]:
        """The first event of a type, to be changed in place."""
        found: dict[str, Any] = next(e for r in self.records for e in r["events"] if e["type"] == kind)
        return found

    def bodies(self) -> list[bytes]:
        """The records as bytes, chained."""
        prev, bodies = "0" * 64, list[bytes]()
        for record in self.records:
            body = json.dumps(record | {"prev": record.get("prev", prev)}).encode()
            prev = hashlib.sha256(body).hexdigest()
            bodies.append(body)
        return bodies

    def messages(self, checker: ModuleType) -> list[Any]:
        made: list[Any] = []
        for number, body in enumerate(self.bodies(), 1):
            record = json.loads(body)
            subject = f"writ.log.0.{record['tenant']}.{record['kind']}.{record['key']}"
            made.append(checker.Message(number, subject, body, self.stored_us[number]))
        return made

    def check(self, checker: ModuleType) -> dict[str, Any]:
        history = checker.fold(self.messages(checker))
        summary: dict[str, Any] = checker.check(history, self.ledger, self.listing)
        return summary


def second_end(story: Story) -> None:
    story.job("j1", ("job_completed", {"attempt": 2, "token": story.token}))


def second_end_in_a_new_lease(story: Story) -> None:
    token = story.lease("j1", 3)
    story.job("j1", ("job_completed", {"attempt": 3, "token": token}))


def missing_submit(story: Story) -> None:
    story.ledger.append({"what": "ack", "queue": QUEUE, "id": "j3"})


def submitted_twice(story: Story) -> None:
    story.job("j1", ("job_submitted", {"task": "t"}))


def acknowledged_twice(story: Story) -> None:
    story.ledger.append({"what": "ack", "queue": QUEUE, "id": "j1"})


def two_live_leases(story: Story) -> None:
    story.submit("j3")
    story.lease("j3", 1)
    story.lease("j3", 2)


def broken_chain(story: Story) -> None:
    story.records[4]["prev"] = "f" * 64


def wrong_sequence(story: Story) -> None:
    story.records[5]["seq"] = 5


def other_epoch(story: Story) -> None:
    story.records[5]["epoch"] = EPOCH + 1


def time_goes_back(story: Story) -> None:
    story.records[5]["at"] = T0


def not_ended(story: Story) -> None:
    story.submit("j3")
    story.listing.append({"id": "j3", "queue": QUEUE, "state": "pending", "attempt": 0})


def stale_completion(story: Story) -> None:
    story.of("job_completed")["data"]["token"] -= 3


def wrong_attempt(story: Story) -> None:
    story.of("job_completed")["data"]["attempt"] = 1


def renewal_of_a_dead_lease(story: Story) -> None:
    story.add("worker", "w", ("leases_renewed", {"leases": [[f"{QUEUE}~j1", story.token]]}))


def early_expiry(story: Story) -> None:
    story.of("lease_expired")["data"]["expires_at"] = T0 + 1_000


def retried_after_the_end(story: Story) -> None:
    story.job("j2", ("job_due", {}))


def ungranted_execution(story: Story) -> None:
    story.execution("start", "j1", 3, story.token + 1, T0)


def execution_of_another_job(story: Story) -> None:
    story.execution("start", "j2", 2, story.token, T0)


def two_executions_of_one_lease(story: Story) -> None:
    story.execution("start", "j1", 2, story.token, T0)


def execution_after_completion(story: Story) -> None:
    first = next(entry for entry in story.ledger if entry["what"] == "start")
    first["at_us"] = T0 + 1_000_000


def no_execution(story: Story) -> None:
    story.ledger[:] = [entry for entry in story.ledger if entry.get("token") != story.token]


def unfinished_execution(story: Story) -> None:
    story.ledger[:] = [e for e in story.ledger if (e["what"], e.get("token")) != ("end", story.token)]


def end_without_a_start(story: Story) -> None:
    story.ledger[:] = [e for e in story.ledger if (e["what"], e.get("token")) != ("start", story.token)]


def wrong_state(story: Story) -> None:
    story.listing[1]["state"] = "completed"


def wrong_listed_attempt(story: Story) -> None:
    story.listing[0]["attempt"] = 1


def unlisted(story: Story) -> None:
    story.listing.pop()


def listed_and_unknown(story: Story) -> None:
    story.listing.append({"id": "j9", "queue": QUEUE, "state": "dead", "attempt": 1})


def listed_twice(story: Story) -> None:
    story.listing.append(story.listing[0])


TAMPERINGS: list[tuple[Callable[[Story], None], str]] = [
    (second_end, "job q~j1 ends again; record 8 was its end"),
    (second_end_in_a_new_lease, "lease_granted of job q~j1, which is completed"),
    (missing_submit, "job q~j3 was acknowledged, and the log does not have it"),
    (submitted_twice, "job q~j1 was submitted in record 2 already"),
    (acknowledged_twice, "2 acknowledgements of job q~j1"),
    (two_live_leases, "two live leases of job q~j3"),
    (broken_chain, "record 5 does not continue the chain"),
    (wrong_sequence, "record 6 calls itself 5"),
    (other_epoch, "record 6 is of epoch 4"),
    (time_goes_back, "before the one ahead of it"),
    (not_ended, "job q~j3 is pending and has 0 terminal records"),
    (stale_completion, "job_completed of job q~j1 by token"),
    (wrong_attempt, "job_completed of attempt 1 of job q~j1, not 2"),
    (renewal_of_a_dead_lease, "which is no live lease"),
    (early_expiry, "expires before its time"),
    (retried_after_the_end, "job_due of job q~j2, which is dead"),
    (ungranted_execution, "which no record grants"),
    (execution_of_another_job, "was granted for q~j1, and q~j2 was executed under it"),
    (two_executions_of_one_lease, "was executed twice under one lease"),
    (execution_after_completion, "us after it had completed"),
    (no_execution, "without an execution"),
    (unfinished_execution, "without an execution"),
    (end_without_a_start, "ended and never began"),
    (wrong_state, "job q~j2: state is dead by the log, completed by the listing"),
    (wrong_listed_attempt, "job q~j1: attempt is 2 by the log, 1 by the listing"),
    (unlisted, "job q~j2 is only in the log"),
    (listed_and_unknown, "job q~j9 is only in the listing"),
    (listed_twice, "3 rows for 2 jobs"),
]


def test_a_true_history_passes(checker: ModuleType) -> None:
    """A checker compares the ledger with the raw log: where nothing is wrong it says so, and counts."""
    summary = Story().check(checker)
    assert summary["states"] == {"completed": 1, "dead": 1}
    assert summary["acknowledged"] == 2
    assert summary["executions"] == 3
    assert summary["executions repeated"] == 1
    assert summary["jobs executed again"] == 1
    assert summary["executions cut short"] == 1


@pytest.mark.parametrize(("tamper", "found"), TAMPERINGS, ids=[tamper.__name__ for tamper, _ in TAMPERINGS])
def test_a_tampered_history_is_found(
    tamper: Callable[[Story], None], found: str, checker: ModuleType
) -> None:
    """A checker compares the ledger with the raw log: it ends with the first difference, whichever it is."""
    story = Story()
    tamper(story)
    with pytest.raises(checker.Broken) as broken:
        story.check(checker)
    assert found in str(broken.value)


def test_a_missing_and_a_moved_record_are_found(checker: ModuleType) -> None:
    """A checker compares the ledger with the raw log: a cut, or a record under another subject, is found."""
    messages = Story().messages(checker)
    with pytest.raises(checker.Broken, match="record 5 follows record 3"):
        checker.fold(messages[:3] + messages[4:])
    messages[2] = messages[2]._replace(subject="writ.log.0.default.job.q~j9")
    with pytest.raises(checker.Broken, match="under the subject of another aggregate"):
        checker.fold(messages)


def test_a_line_cut_short_by_a_kill_is_no_entry(tmp_path: Path, checker: ModuleType) -> None:
    """A ledger keeps each acknowledgement and execution: a line counts from its line end on."""
    (tmp_path / "a.jsonl").write_bytes(b'{"what": "ack"}\n{"what": "ac')
    (tmp_path / "b.jsonl").write_bytes(b'{"what": "start"}\n')
    assert [entry["what"] for entry in checker.read_ledger(tmp_path)] == ["ack", "start"]


def test_the_checker_imports_nothing_of_ours(checker: ModuleType) -> None:
    """A checker that imports nothing of ours: only the standard library and nats-py."""
    tree = ast.parse(Path(str(checker.__file__)).read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"nats"}
