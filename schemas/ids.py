"""Names that stand in subjects, the keys made of them, shards and fencing tokens."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count
from typing import Final

from .bounds import SHARDS, TOKEN_MAX_BYTES

SYSTEM_TENANT: Final = "_writ"
"""Owner of the aggregates that belong to no tenant, such as a partition. No principal can be in it."""

TOKEN_PATTERN: Final = r"^[A-Za-z0-9_\-+=:@/,]+$(?!\n)"
"""The end of it keeps out a line end, which Python's `$` alone lets pass."""

LANE_MARK: Final = "#"
"""Between a queue and one of its lanes. No other name can hold it, so no other queue is taken for a lane."""

LANE_SIGNS: Final = "0123456789abcdefghijklmnopqrstuv"
"""What the lanes of a queue are told apart by. FNV-1a spreads names that differ in their last byte over
different shards, and neighbours of these over different partitions."""

LANES_MAX: Final = len(LANE_SIGNS)
QUEUE_PATTERN: Final = r"^[A-Za-z0-9_\-+=:@/,]+(#[0-9a-v])?$(?!\n)"
KEY_PATTERN: Final = r"^[A-Za-z0-9_\-+=:@/,]+(#[0-9a-v])?~[A-Za-z0-9_\-+=:@/,]+$(?!\n)"
_TOKEN = re.compile(TOKEN_PATTERN)
_SEQUENCE_BITS: Final = 40
EPOCH_MAX: Final = (1 << (63 - _SEQUENCE_BITS)) - 1
"""Of a log: its tokens are signed integers of 64 bits."""


def token_fault(value: str, what: str) -> str | None:
    """Why `value` cannot be an id, a worker's or principal's name, or a queue's own; None where it can."""
    if len(value) <= TOKEN_MAX_BYTES and _TOKEN.fullmatch(value):
        return None
    if not value:
        return f"{what} is empty; give it 1 to {TOKEN_MAX_BYTES} characters"
    if len(value.encode()) > TOKEN_MAX_BYTES:
        return f"{what} has {len(value.encode())} bytes; at most {TOKEN_MAX_BYTES} are allowed"
    bad = next(c for c in value if not _TOKEN.fullmatch(c))
    return f"{what} {value!r} holds {bad!r}; allowed are letters, digits and _ - + = : @ / ,"


def queue_fault(value: str) -> str | None:
    """Why `value` can be neither a queue nor a lane of one; None where it can."""
    queue, mark, sign = value.partition(LANE_MARK)
    if mark and (len(sign) != 1 or sign not in LANE_SIGNS):
        return f"queue {value!r} names no lane: behind {LANE_MARK} stands one of 0 to 9 and a to v"
    if len(value) > TOKEN_MAX_BYTES >= len(queue):
        return f"queue has {len(value)} bytes; at most {TOKEN_MAX_BYTES} are allowed"
    return token_fault(queue, "queue")


def queue_of(name: str) -> str:
    """The queue that a lane is of; a queue itself is its own."""
    return name.partition(LANE_MARK)[0]


def lanes_of(queue: str, lanes: int) -> tuple[str, ...]:
    """The names of a queue's lanes; none where there is one line alone, the queue itself."""
    return () if lanes == 1 else tuple([f"{queue}{LANE_MARK}{sign}" for sign in LANE_SIGNS[:lanes]])


def lane_for(queue: str, lanes: int, word: str) -> str:
    """The lane that a word picks, a `unique_key` or else an id: FNV-1a 32 of its UTF-8, modulo `lanes`."""
    return queue if lanes == 1 else f"{queue}{LANE_MARK}{LANE_SIGNS[_fnv1a(word) % lanes]}"


def job_key(queue: str, job_id: str) -> str:
    """The key of a job's aggregate: one subject token, `<queue>~<id>`."""
    return f"{queue}~{job_id}"


def split_job_key(key: str) -> tuple[str, str]:
    """The queue and the id in a job's key."""
    queue, _, job_id = key.partition("~")
    return queue, job_id


def derived_job_id(intake_epoch: int, seq: int, index: int) -> str:
    """The id of a job submitted without one: where its submit stands in the intake stream.

    A submit that is read again after a crash therefore names the same job.
    """
    return f"{intake_epoch}-{seq}-{index}"


@lru_cache(maxsize=4096)
def shard_of(tenant: str, queue: str) -> int:
    """The home shard of a queue, 0 to 255: FNV-1a 32 over both tokens without separator.

    The broker's subject mapping `partition(256, ...)` computes the same number.
    """
    return _fnv1a(tenant + queue) % SHARDS


def _fnv1a(word: str) -> int:
    """FNV-1a of 32 bits.

    Source: Fowler, Noll, Vo, "FNV Non-Cryptographic Hash", draft-eastlake-fnv.
    """
    value = 0x811C9DC5
    for byte in word.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def queue_in(tenant: str, shard: int) -> str:
    """A name that a queue of the shard would have."""
    return next(name for number in count() if shard_of(tenant, name := f"shard-{shard}-{number}") == shard)


def fencing_token(epoch: int, seq: int) -> int:
    """The token of the lease granted by record `seq`: grows with every grant of a log, across epochs."""
    return (epoch << _SEQUENCE_BITS) + seq


def token_position(token: int) -> tuple[int, int]:
    """The epoch and sequence of the record that granted `token`."""
    return token >> _SEQUENCE_BITS, token & ((1 << _SEQUENCE_BITS) - 1)
