"""A partition's state as bytes, and back: what is kept of it is what its classes declare.

Lines of JSON: first all that is not a job, then the jobs in memory. Those that rest are not in it.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final, get_type_hints

import msgspec
import msgspec.inspect

from writ.schemas.chain import Position
from writ.schemas.lifecycle import Job, State
from writ.schemas.records import LOGIC

from .ended import Ended, Part, SnapshotDamaged, decode_job, encode_job
from .links import Links
from .relations import Relations
from .shards import Shards
from .state import Partition

FOLD: Final = 2
"""Version of the fold. Raise it when `evolve` would make another state of the same records."""

_LINES_AT_ONCE: Final = 500
_encode = msgspec.json.Encoder().encode
_STATE: Final = get_type_hints(Partition)
_LINKS: Final = get_type_hints(Links)
_SHARDS: Final = get_type_hints(Shards)
_RELATIONS: Final = get_type_hints(Relations)
_Rest: Final[Any] = msgspec.defstruct(
    "_Rest",
    [
        ("state", msgspec.defstruct("_State", list(_STATE.items()))),
        ("links", msgspec.defstruct("_Links", list(_LINKS.items()))),
        ("shards", msgspec.defstruct("_Shards", list(_SHARDS.items()))),
        ("relations", msgspec.defstruct("_Relations", list(_RELATIONS.items()))),
        ("turns", dict[str, dict[str, int]]),
        ("unheard_of", dict[str, int]),
        ("counts", dict[str, dict[str, dict[State, int]]]),
        ("seals", bool),
    ],
)
_decode_rest: Final[Any] = msgspec.json.Decoder(_Rest).decode


class Title(msgspec.Struct, frozen=True):
    """What is known of a snapshot without reading it.

    `digest` is that of the record at `seq`, `epoch` that record's; `state` is SHA-256 of the uncompressed
    lines, and `ended` are the parts in which the jobs rest that are not among them. `proven` says that a fold
    of the archive up to `seq` came to the same lines.
    """

    partition: int
    epoch: int
    seq: int
    digest: str
    fold: str
    state: str
    size_bytes: int
    proven: bool = False
    ended: tuple[Part, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.seq:020}"

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.digest)


@cache
def fold_version() -> str:
    """What wrote a snapshot: the fold, the deciding code, and the shape of the state."""
    shape = re.sub(" at 0x[0-9a-f]+", "", repr(msgspec.inspect.multi_type_info((Job, _Rest))))
    digest = hashlib.sha256(f"{sys.byteorder} {shape}".encode()).hexdigest()
    return f"fold {FOLD}, logic {LOGIC}, shape {digest[:16]}"


def lines(state: Partition) -> Iterator[bytes]:
    """The state as lines of JSON, without the jobs that rest. The state must not change meanwhile."""
    yield _encode(_rest(state)) + b"\n"
    some: list[bytes] = []
    for job in state.jobs.here.values():
        some += (encode_job(job), b"\n")
        if len(some) >= 2 * _LINES_AT_ONCE:
            yield b"".join(some)
            some.clear()
    yield b"".join(some)


def _rest(state: Partition) -> dict[str, Any]:
    return {
        "state": {name: getattr(state, name) for name in _STATE},
        "links": {name: getattr(state.links, name) for name in _LINKS},
        "shards": {name: getattr(state.links.shards, name) for name in _SHARDS},
        "relations": {name: getattr(state.relations, name) for name in _RELATIONS},
        "turns": {place: dict(sorted(turns.items())) for place, turns in sorted(state.turns().items())},
        "unheard_of": state.links.unheard_of.armed_times(),
        "counts": state.relations.counts(),
        "seals": state.seals,
    }


def state_digest(state: Partition) -> str:
    """SHA-256 over all of the state, the same wherever its jobs are kept. Reads every job there is."""
    hashed = hashlib.sha256(_encode(_rest(state)))
    for place in sorted(state.jobs):
        hashed.update(encode_job(state.jobs[place]))
    return hashed.hexdigest()


def lines_digest(state: Partition) -> str:
    """SHA-256 over the lines and the parts: the same for folds of the same records from the same snapshot."""
    hashed = hashlib.sha256(_encode([each.part for each in state.jobs.resting.parts]))
    for part in lines(state):
        hashed.update(part)
    return hashed.hexdigest()


def restore(title: Title, epoch: int, parts: Iterable[bytes], ended: Ended) -> Partition:
    """The state that the lines tell, in a log of that epoch. Raises SnapshotDamaged."""
    state = Partition(title.partition, epoch)
    hashed = hashlib.sha256()
    rest: Any = None
    left = b""
    try:
        for part in parts:
            hashed.update(part)
            *whole, left = (left + part).split(b"\n")
            for line in whole:
                if rest is None:
                    rest = _decode_rest(line)
                else:
                    job = decode_job(line)
                    state.put(f"{job.tenant}.{job.key}", job)
    except (msgspec.MsgspecError, zlib.error) as error:
        raise SnapshotDamaged(f"snapshot {title.name} cannot be read: {error}") from error
    if rest is None or left or hashed.hexdigest() != title.state:
        raise SnapshotDamaged(f"snapshot {title.name} holds other bytes than were put there")
    _put_rest(state, rest)
    state.jobs.rest_on(ended)
    state.seq, state.prev = title.seq, title.digest
    return state


def _put_rest(state: Partition, rest: Any) -> None:
    for owner, told, names in (
        (state, rest.state, _STATE),
        (state.links, rest.links, _LINKS),
        (state.links.shards, rest.shards, _SHARDS),
        (state.relations, rest.relations, _RELATIONS),
    ):
        for name in names:
            setattr(owner, name, getattr(told, name))
    for place in state.schedules:
        state.rearm_schedule(place)
    for place, turns in rest.turns.items():
        state.take_turns(place, turns)
    for place, at in rest.unheard_of.items():
        state.links.unheard_of.set(place, at)
    state.relations.take_counts(rest.counts)
    state.seals = rest.seals
    state.access_changes += 1
