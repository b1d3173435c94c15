"""`explain` against what is known of a run without it: its plan, the checker's fold, and the log's bare JSON.

Nothing here uses the code that explains, nor the codec or the lifecycle that it rests on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tests.simulation.plan import JobPlan
from writ.orchestrator.replay.explain import Answer, Explanation, explain
from writ.orchestrator.replay.history import steps

from .runs import Run

_FIRST: Final = {
    "job_due": "pending", "lease_granted": "running", "attempt_started": "running",
    "lease_expired": "pending", "lease_released": "pending", "attempt_failed": "retrying",
    "retry_scheduled": "retrying", "compensation_due": "pending", "compensation_ended": "pending",
    "job_completed": "completed", "job_cancelled": "cancelled", "job_dead_lettered": "dead",
    "job_redriven": "pending", "job_rerun": "pending", "job_suspended": "suspended",
}  # fmt: skip
"""The state that an event leads to, where the event alone says so."""

_ERRORS: Final = {
    "fail": {("application", "ValueError")},
    "flaky": {("application", "ValueError")},
    "listed": {("application", "KeyError")},
    "policy": {("policy", "FailJob")},
    "later": {("application", "RetryAfter")},
    "outage": {("application", "ConnectionError")},
}
"""How attempts of a task can fail by what it does, apart from time limits and cancels."""

_RETRIES: Final = (
    "attempt_failed", "lease_expired", "lease_released", "job_snoozed", "retry_scheduled",
    "job_dead_lettered", "job_cancelled",
)  # fmt: skip
_NOTED: Final = (
    "tool_called",
    "step_done",
    "step_failed",
    "step_compensated",
    "usage_recorded",
    "asset_read",
)
_WORDS: Final = {
    "pending": "It has been ready for", "running": "It is running", "scheduled": "It is not due",
    "retrying": "It waits out the backoff", "suspended": "It is suspended", "completed": "It completed",
    "cancelled": "It was cancelled", "dead": "It became a dead letter",
}  # fmt: skip


class Bare(NamedTuple):
    """One event of a job as it stands in the log."""

    seq: int
    at: int
    actor: str
    type: str
    data: dict[str, Any]


class Wrong(AssertionError):
    """An answer that is not what is known."""


def need(holds: object, why: str) -> None:
    if not holds:
        raise Wrong(why)


def bare_events(run: Run, partition: int, key: str) -> list[Bare]:
    """The job's own events, in order."""
    found: list[Bare] = []
    for entry in run.stretches[partition].entries:
        if entry.subject.split(".")[4:] == ["job", key]:
            record = json.loads(entry.body)
            found += [
                Bare(record["seq"], record["at"], record["actor"], event["type"], event["data"])
                for event in record["events"]
            ]
    return found


def jobs_of(run: Run) -> list[tuple[int, str]]:
    """Each job of a run: its partition and its key."""
    return [
        (partition, key.partition(".")[2])
        for partition, fold in enumerate(run.folds)
        for key in sorted(fold.jobs)
    ]


def check_random_jobs(run: Run, rng: random.Random, count: int) -> int:
    """Explains some jobs of a run, as they ended and as they stood before; how many. Raises Wrong."""
    jobs = jobs_of(run)
    chosen = rng.sample(jobs, min(count, len(jobs)))
    for partition, key in chosen:
        known = bare_events(run, partition, key)
        check(run, partition, key, known)
        upto = rng.choice(known).seq
        check(run, partition, key, [event for event in known if event.seq <= upto], upto)
    return len(chosen)


def check(run: Run, partition: int, key: str, known: list[Bare], upto: int | None = None) -> None:
    """Explains a job as of a record, or of the end, and compares. Raises Wrong."""
    stretch = run.stretches[partition]
    entries = [entry for entry in stretch.entries if upto is None or entry.seq <= upto]
    told = explain(steps(entries, stretch.tenant, key), known[-1].at)
    plan = next((job for job in run.plan.jobs if key == f"{job.queue}~{job.id}"), None)
    try:
        _check(told, known, plan)
        if upto is None:
            job = run.folds[partition].jobs[f"{stretch.tenant}.{key}"]
            need(told.state.value == job.state, f"it is {job.state}, not {told.state}")
            if not job.live:
                need(told.not_running.records == (job.ended_by,), f"it was ended by record {job.ended_by}")
    except Wrong as wrong:
        raise Wrong(f"seed {run.plan.seed}, {key} at {upto}: {wrong}; told: {told.lines()}") from None


def _check(told: Explanation, known: list[Bare], plan: JobPlan | None) -> None:
    state = _state(known)
    need(told.state.value == state, f"it is {state}, not {told.state}")
    _who(told.who, known, plan)
    _code(told.code, known, plan)
    _tools(told.tools, known)
    _retries(told.retries, known, plan)
    _policies(told.policies, known, plan)
    _reproducible(told.reproducible, known)
    need(told.not_running.sentences[0].startswith(_WORDS[state]), f"it is {state}")
    if state == "running":
        need(_seqs(known, "lease_granted")[-1] in told.not_running.records, "does not cite the lease")
    if state == "dead":
        need(known_dead(known).data["rule"] in told.not_running.sentences[0], "another reason of its death")


def known_dead(known: list[Bare]) -> Bare:
    return [event for event in known if event.type == "job_dead_lettered"][-1]


def _seqs(known: list[Bare], *types: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(event.seq for event in known if event.type in types))


def _state(known: list[Bare]) -> str:
    """Where a job stands, from its events' names alone."""
    state, due_at, failed, attempts = "", 0, 0, 0
    for event in known:
        data, later = event.data, event.data.get("due_at")
        if event.type == "job_submitted":
            state, due_at = ("scheduled" if later else "pending"), later or event.at
        elif event.type == "job_snoozed":
            state, due_at = "scheduled", data["due_at"]
        elif event.type == "job_edited":
            due_at = later or due_at
            waits = "scheduled" if due_at > event.at else "pending"
            state = state if state == "suspended" else waits
        elif event.type == "job_resumed":
            after = "retrying" if failed and attempts else "scheduled"
            state = after if due_at > event.at else "pending"
        else:
            state = _FIRST.get(event.type, state)
        if event.type == "retry_scheduled":
            due_at = data["due_at"]
        attempts += event.type == "lease_granted"
        failed += event.type == "attempt_failed"
        if event.type in ("job_redriven", "job_rerun"):
            due_at, failed, attempts = event.at, 0, 0
    return state


def _listed(answer: Answer) -> Iterator[str]:
    """The sentences of an answer that are not about those left out."""
    return (sentence for sentence in answer.sentences if not sentence.startswith("("))


def _who(answer: Answer, known: list[Bare], plan: JobPlan | None) -> None:
    triggers = [
        e for e in known if e.type in ("job_submitted", "job_redriven", "job_rerun", "cancel_requested")
    ]
    need(
        answer.records == _seqs(known, *{e.type for e in triggers}),
        "cites other records than those who asked",
    )
    for sentence, event in zip(_listed(answer), triggers[-len(list(_listed(answer))) :], strict=True):
        need(sentence.startswith(f"{event.actor} "), f"{event.actor} did it: {sentence}")
    if plan is not None and triggers[0].data.get("schedule") is None:
        need(triggers[0].actor == f"client{plan.client}", f"client{plan.client} submitted it")


def _tools(answer: Answer, known: list[Bare]) -> None:
    noted = [event for event in known if event.type in _NOTED]
    need(answer.records == _seqs(known, *_NOTED), "cites other calls, steps and usage")
    told = list(_listed(answer))
    for sentence, event in zip(told, noted[-len(told) :] if noted else [], strict=bool(noted)):
        if event.type == "tool_called":
            words = (f"tool {event.data['tool']}", f"(digest {event.data['digest'][:12]})")
            need(all(word in sentence for word in words), f"{words} was called: {sentence}")


def _code(answer: Answer, known: list[Bare], plan: JobPlan | None) -> None:
    grants = [event for event in known if event.type == "lease_granted"]
    need(answer.records == _seqs(known, "job_submitted", "lease_granted"), "cites other leases")
    if plan is not None:
        need(answer.sentences[0].startswith(f"Task {plan.task};"), f"its task is {plan.task}")
    told = [sentence for sentence in _listed(answer) if sentence.startswith("Attempt ")]
    for sentence, event in zip(told, grants[-len(told) :] if told else [], strict=True):
        words = (
            f" went to worker {event.data['worker']} of principal {event.data.get('principal', event.actor)}."
        )
        need(sentence.startswith(f"Attempt {event.data['attempt']}") and sentence.endswith(words), sentence)


def _retries(answer: Answer, known: list[Bare], plan: JobPlan | None) -> None:
    troubles = [event for event in known if event.type in _RETRIES or _completed_after(known, event)]
    need(answer.records == tuple(dict.fromkeys(e.seq for e in troubles)), "cites other failures and verdicts")
    told = list(_listed(answer)) if troubles else []
    for sentence, event in zip(told, troubles[-len(told) :] if told else [], strict=True):
        data = event.data
        if event.type == "attempt_failed":
            error = data["error"]
            words = f"Attempt {data['attempt']} failed with {error['class']} error {error['type']}"
            need(sentence.startswith(words), f"{words}: {sentence}")
            usual = _ERRORS.get(plan.input["do"]) if plan is not None else None
            if usual is not None and error["class"] not in ("timeout", "cancelled", "system"):
                need((error["class"], error["type"]) in usual, f"{plan} failed with {error}")
        elif event.type == "lease_expired":
            words = f"worker {data['worker']} did not renew it: loss {data['losses']} of "
            need(words in sentence, f"{words}: {sentence}")
        elif event.type == "retry_scheduled":
            _delay(sentence, event)
        elif event.type == "job_dead_lettered":
            need(f"dead-lettered as {data['reason']}: {data['rule']}" in sentence, sentence)
        else:
            words = "cancelled: " if event.type == "job_cancelled" else f"Attempt {data['attempt']} "
            need(words in sentence, f"{words}: {sentence}")


def _completed_after(known: list[Bare], event: Bare) -> bool:
    """Whether an event is the success of a job that had failed or lost a lease in its round."""
    if event.type != "job_completed":
        return False
    opened = [
        e for e in known if e.type in ("job_submitted", "job_redriven", "job_rerun") and e.seq <= event.seq
    ][-1]
    troubled = (
        e.type in ("attempt_failed", "lease_expired") for e in known if opened.seq <= e.seq <= event.seq
    )
    return any(troubled)


def _delay(sentence: str, event: Bare) -> None:
    """The numbers of a retry's delay, computed here from its recorded inputs."""
    data = event.data
    base, jitter, seed = data["base_s"], data["jitter"], data["seed"]
    wait_s = max(base * (1 - jitter + 2 * jitter * seed), data.get("retry_after_s") or 0)
    due_at = max(event.at + round(wait_s * 1e6), data.get("budget_at") or 0)
    need(abs(due_at - data["due_at"]) <= 1, f"due at {due_at}, recorded {data['due_at']}")
    need(f"backoff {base:g} s for failure {data['failures']}, jitter {jitter:g}" in sentence, sentence)
    need(f"by seed {seed:.4f}" in sentence, sentence)
    need(f"of max_attempts {data['max_attempts']}" in sentence, sentence)


def _policies(answer: Answer, known: list[Bare], plan: JobPlan | None) -> None:
    given = known[0].data.get("retry", {})
    most = given.get("max_attempts", 5) or "no"
    need(
        f"at most {most} attempts, {given.get('initial_interval_s', 1.0):g} s times" in answer.sentences[0],
        "retry",
    )
    if plan is not None and "retry" in plan.options and "max_attempts" in plan.options["retry"]:
        need(
            (plan.options["retry"]["max_attempts"] or "no") == most,
            f"the submit said {plan.options['retry']}",
        )
    lease_s = known[0].data.get("limits", {}).get("lease_s", 30.0)
    need(f"lease {lease_s:g} s" in answer.sentences[1], f"its lease_s is {lease_s}")
    verdicts = _seqs(known, "retry_scheduled", "job_dead_lettered")
    gates = tuple(
        event.seq
        for event in known
        if event.type in ("job_suspended", "job_resumed") and event.data["reason"] == "approval"
    )
    wanted = {known[0].seq, *verdicts, *gates}
    need(
        set(answer.records) == wanted, f"cites {answer.records}; the verdicts and gates are {sorted(wanted)}"
    )
    said = sum(sentence.startswith("Verdict: ") for sentence in answer.sentences)
    events = sum(event.type in ("retry_scheduled", "job_dead_lettered") for event in known)
    need(said == events or said >= 15, f"{events} verdicts were recorded, {said} are told")


def _reproducible(answer: Answer, known: list[Bare]) -> None:
    """The input's digest, computed here from the bytes that the log holds."""
    sealed = known[0].data["input"]
    plain = json.dumps(sealed["plain"], separators=(",", ":"), ensure_ascii=False).encode()
    digest = hashlib.sha256(plain).hexdigest()
    need(sealed["digest"] == digest, "the digest of the input is not of the input")
    edited = any(event.type == "job_edited" and "input" in event.data for event in known)
    need(edited or digest[:16] in " ".join(answer.sentences), f"its input has digest {digest[:16]}")
    need(known[0].seq in answer.records, "does not cite the submit")
