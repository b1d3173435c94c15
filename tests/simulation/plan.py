"""What a seed draws: the world's size, its faults, and by `workload` what clients do. It can be cut down."""

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
    """One submit: who sends it, how, when, and what the job does. `options` is as on the wire.

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
    """What an operator or a meddler does, to a job by its number or to a queue.

    `when` is a state of the job that is waited for a while; `how` goes with the command.
    """

    at_us: int
    client: int
    what: str
    queue: str
    job: int = -1
    when: str = ""
    how: dict[str, Any] = {}


class WorkerPlan(msgspec.Struct, frozen=True):
    """One worker: its slots, how long its acquires wait, the tasks that it knows, and its labels."""

    slots: int
    wait_s: float
    tasks: tuple[str, ...]
    labels: dict[str, str] = {}


class Plan(msgspec.Struct, frozen=True):
    """Everything that one seed says ahead. `off` names kinds of message and append faults left out."""

    seed: int
    queues: tuple[str, ...]
    orchestrators: int
    workers: tuple[WorkerPlan, ...]
    clients: int
    storm: float
    jobs: tuple[JobPlan, ...]
    deeds: tuple[Deed, ...]
    faults: tuple[Fault, ...]
    off: frozenset[str] = frozenset()
    quiet: tuple[tuple[int, int], ...] = ()
    """Spans of time, in microseconds, without faults of messages and appends."""


def draw_queues(rng: random.Random) -> tuple[str, ...]:
    """Two or three queues, at least one in each partition."""
    homes = [[queue for queue in QUEUES if HOME[queue] == partition] for partition in range(PARTITIONS)]
    queues = [rng.choice(home) for home in homes]
    if rng.random() < 0.25:
        queues.append(rng.choice([queue for queue in QUEUES if queue not in queues]))
    return tuple(queues)


def draw_workers(rng: random.Random) -> tuple[WorkerPlan, ...]:
    """Two or three workers; the first knows every task."""
    workers: list[WorkerPlan] = []
    for number in range(rng.choice((2, 2, 3))):
        tasks = ("work", "plain") if not number or rng.random() < 0.9 else ("work",)
        workers.append(WorkerPlan(rng.choice((1, 2, 3, 6)), rng.choice((1.0, 2.0, 4.0)), tasks))
    return tuple(workers)


def draw_faults(rng: random.Random) -> tuple[Fault, ...]:
    """What goes wrong at a time, in its order."""
    count = rng.choice((0, 1, 2, 3, 3, 4, 5, 7))
    return tuple(sorted((_draw_fault(rng) for _ in range(count)), key=lambda fault: fault.at_us))


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
