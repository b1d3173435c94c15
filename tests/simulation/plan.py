"""What a seed draws: jobs, what clients do and when, and faults. A plan can be cut down to shrink it."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec

from writ.schemas.ids import shard_of

from .loop import SECOND_US

TENANT: Final = "default"
PARTITIONS: Final = 2
FAULTS_END_US: Final = 16 * SECOND_US

QUEUES: Final = tuple(f"q{number}" for number in range(12))
HOME: Final = {queue: shard_of(TENANT, queue) % PARTITIONS for queue in QUEUES}
"""The partition that each queue lives in."""

MESSAGE_FAULTS: Final = ("dropped", "doubled", "delayed", "reordered")
APPEND_FAULTS: Final = ("append_lost", "append_ack_lost", "append_late", "append_partial")
TIMED_FAULTS: Final = (
    "crash_orchestrator",
    "crash_worker",
    "crash_client",
    "pause_orchestrator",
    "pause_worker",
    "pause_client",
    "clock_jump",
    "cut_orchestrator",
    "cut_worker",
    "cut_client",
    "broker_restart",
    "full",
    "slow_disk",
)
_WEIGHTS: Final = (10, 8, 4, 8, 4, 2, 5, 5, 4, 2, 5, 5, 5)
OBSERVED_FAULTS: Final = ("two_leaders", "clock_skew", "task_crash")
"""What comes of others, or is drawn with the hosts and the jobs."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that goes wrong at a time. `fuse` is how many callbacks later a crash strikes."""

    at_us: int
    kind: str
    target: int
    for_us: int
    fuse: int
    order: int


class JobPlan(msgspec.Struct, frozen=True):
    """One submit: who sends it, how, when, and what the job does.

    `how` is submit, many (with the next one of the same queue), raw, or malformed.
    """

    number: int
    at_us: int
    client: int
    queue: str
    how: str
    id: str | None
    task: str
    input: dict[str, Any]
    options: dict[str, Any]
    awaits: bool


class Deed(msgspec.Struct, frozen=True):
    """What an operator or a meddler does to a job. `what` is cancel, redrive, resubmit or meddle."""

    at_us: int
    client: int
    what: str
    job: int


class Plan(msgspec.Struct, frozen=True):
    """Everything that one seed says ahead. `off` names kinds of message and append faults left out."""

    seed: int
    queues: tuple[str, ...]
    orchestrators: int
    workers: tuple[tuple[int, float], ...]
    """Slots and seconds of waiting of each."""
    clients: int
    storm: float
    jobs: tuple[JobPlan, ...]
    deeds: tuple[Deed, ...]
    faults: tuple[Fault, ...]
    off: frozenset[str] = frozenset()
    quiet: tuple[tuple[int, int], ...] = ()
    """Spans of time, in microseconds, without faults of messages and appends."""


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    queues = _draw_queues(rng)
    clients = 2 if rng.random() < 0.3 else 1
    jobs = tuple(_draw_job(rng, number, queues, clients) for number in range(rng.randint(4, 8)))
    workers = tuple((rng.randint(1, 3), rng.choice((1.0, 2.0, 4.0))) for _ in range(rng.choice((2, 2, 3))))
    storm = rng.choice((0.3, 1.0, 1.0, 2.5))
    count = rng.choice((0, 1, 2, 3, 3, 4, 5, 7))
    faults = sorted((_draw_fault(rng) for _ in range(count)), key=lambda fault: fault.at_us)
    deeds = [_draw_deed(rng, len(jobs), clients) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    return Plan(
        seed,
        queues,
        3 if rng.random() < 0.15 else 2,
        workers,
        clients,
        storm,
        jobs,
        tuple(deeds),
        tuple(faults),
    )


def _draw_queues(rng: random.Random) -> tuple[str, ...]:
    """Two or three queues, at least one in each partition."""
    homes = [[queue for queue in QUEUES if HOME[queue] == partition] for partition in range(PARTITIONS)]
    queues = [rng.choice(home) for home in homes]
    if rng.random() < 0.25:
        queues.append(rng.choice([queue for queue in QUEUES if queue not in queues]))
    return tuple(queues)


_DOINGS: Final = (
    ("ok", 46),
    ("long", 12),
    ("flaky", 10),
    ("fail", 6),
    ("policy", 3),
    ("later", 3),
    ("listed", 3),
    ("hang", 4),
    ("stubborn", 3),
    ("crash", 4),
    ("give_up", 2),
    ("odd", 2),
    ("plain", 2),
)
_NAMES: Final = tuple(name for name, _ in _DOINGS)
_SHARES: Final = tuple(share for _, share in _DOINGS)


def _draw_job(rng: random.Random, number: int, queues: tuple[str, ...], clients: int) -> JobPlan:
    do = rng.choices(_NAMES, _SHARES)[0]
    how = rng.choices(("submit", "many", "raw", "malformed"), (60, 14, 20, 6))[0]
    given: dict[str, Any] = {"do": do, "ms": rng.choice((0, 0, 5, 50, 200, 800)), "n": 0}
    lease_s = round(rng.uniform(1, 4), 2)
    options: dict[str, Any] = {
        "lease_s": lease_s,
        "attempt_timeout_s": round(rng.uniform(6, 9), 2),
        "job_timeout_s": round(rng.uniform(25, 45), 2),
        "retry": {
            "max_attempts": rng.choice((1, 2, 3, 4, 0)),
            "initial_interval_s": round(rng.uniform(0.02, 0.8), 3),
            "backoff": rng.choice((1.0, 1.5, 2.0, 3.0)),
            "max_interval_s": rng.choice((0.5, 2.0, 100.0)),
            "jitter": rng.choice((0.0, 0.1, 1.0)),
            "max_lease_losses": rng.choice((1, 2, 3, 5)),
        },
    }
    if do == "long":
        given["ms"] = rng.randint(round(lease_s * 1_000), 5_500)
    elif do in ("hang", "stubborn"):
        options["attempt_timeout_s"] = round(rng.uniform(1.5, 3.5), 2)
        options["retry"]["max_attempts"] = rng.choice((1, 2))
    elif do in ("flaky", "later", "crash"):
        given["n"] = rng.choice((1, 1, 2, 3))
    elif do == "listed":
        options["retry"]["non_retryable_types"] = ["KeyError"]
    if do in ("fail", "hang", "stubborn") and not options["retry"]["max_attempts"]:
        options["retry"]["max_attempts"] = 3
    if rng.random() < 0.18:
        options["delay_s"] = round(rng.uniform(0.1, 7), 2)
    if rng.random() < 0.08:
        options["expires_in_s"] = round(rng.uniform(0.3, 5), 2)
    if rng.random() < 0.06:
        options["job_timeout_s"] = round(rng.uniform(1, 6), 2)
    if rng.random() < 0.4:
        options["priority"] = rng.randint(1, 5)
    named = rng.random() < 0.6
    return JobPlan(
        number,
        rng.randrange(round(0.1 * SECOND_US), 11 * SECOND_US),
        rng.randrange(clients),
        rng.choice(queues),
        how,
        f"job-{number}" if named else None,
        "plain" if do == "plain" else "work",
        given,
        options,
        rng.random() < 0.25,
    )


def _draw_deed(rng: random.Random, jobs: int, clients: int) -> Deed:
    what = rng.choices(("cancel", "redrive", "resubmit", "meddle"), (35, 30, 15, 20))[0]
    at_us = rng.randrange(SECOND_US // 2, 14 * SECOND_US)
    return Deed(at_us, rng.randrange(clients), what, rng.randrange(jobs))


def _draw_fault(rng: random.Random) -> Fault:
    kind = rng.choices(TIMED_FAULTS, _WEIGHTS)[0]
    at_us = rng.randrange(SECOND_US // 4, FAULTS_END_US - 2 * SECOND_US)
    if kind == "pause_orchestrator":
        seconds = rng.choice((0.3, 1.5, 3.0, 5.0, 7.0, 9.0))
    elif kind.startswith("crash"):
        seconds = rng.uniform(0.05, 4)
    else:
        seconds = rng.choice((0.2, 0.7, 1.5, 3.0, 6.0)) * rng.uniform(0.5, 1.5)
    fuse = rng.choice((1, 2, 3, 5, 8, 13, 21, 34)) if rng.random() < 0.8 else 1
    return Fault(at_us, kind, rng.randrange(6), round(seconds * SECOND_US), fuse, rng.randrange(3))
