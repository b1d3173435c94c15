"""A tenant's workers: the labels that jobs demand of them, and those that are drained.

    worker_drained       an operator has it take no more leases; what it holds it finishes
    worker_undrained     it may take leases again

Both stand in the tenant's home partition, in records of kind `worker`; it tells all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .bounds import LABEL_MAX_CHARS, LABELS_MAX
from .facts import Fact
from .forms import Command, Reason, Token

Labels = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=LABEL_MAX_CHARS, pattern=r"^[A-Za-z0-9_\-./]+$(?!\n)")],
        Annotated[
            str, Meta(min_length=1, max_length=LABEL_MAX_CHARS, pattern=r"^[A-Za-z0-9_\-./+:@]+$(?!\n)")
        ],
    ],
    Meta(max_length=LABELS_MAX),
]
"""Names and values by which a worker is told from others: `{"gpu": "true", "version": "1.4.0"}`."""


def meets(labels: Mapping[str, str], requires: Mapping[str, str]) -> bool:
    """Whether a worker with these labels has each one that is demanded, with the same value."""
    return all(labels.get(name) == value for name, value in requires.items())


def label_words(labels: Mapping[str, str]) -> str:
    """Labels as they are given on a command line, in the order of their names."""
    return ", ".join([f"{name}={value}" for name, value in sorted(labels.items())])


class WorkerDrained(Fact, frozen=True):
    """The worker that the record's key names is granted no lease from here on."""

    reason: str


class WorkerUndrained(Fact, frozen=True):
    """The worker that the record's key names may be granted leases again."""

    reason: str


FLEET_EVENTS: Final[tuple[type[Fact], ...]] = (WorkerDrained, WorkerUndrained)


class DrainWorker(Command, frozen=True):
    """A worker takes no more leases, in no queue; what it holds it finishes."""

    worker: Token
    reason: Reason = "requested"


class UndrainWorker(Command, frozen=True):
    """A drained worker takes leases again."""

    worker: Token
    reason: Reason = "requested"


FLEET_VERBS: Final[dict[str, type[Command]]] = {"drain_worker": DrainWorker, "undrain_worker": UndrainWorker}


class Fleet(msgspec.Struct, frozen=True, gc=False):
    """The workers of a tenant that are drained, by name; `version` grows by one with each change."""

    version: int = 0
    drained: tuple[str, ...] = ()


NO_FLEET: Final = Fleet()


def evolve_fleet(fleet: Fleet | None, event: Fact, worker: str) -> Fleet:
    """The fleet after a worker was drained or undrained."""
    known = fleet or NO_FLEET
    others = {name for name in known.drained if name != worker}
    match event:
        case WorkerDrained():
            return Fleet(known.version + 1, tuple(sorted({*others, worker})))
        case WorkerUndrained():
            return Fleet(known.version + 1, tuple(sorted(others)))
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a fleet")
