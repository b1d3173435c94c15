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

KEY_PATTERN: Final = r"^[A-Za-z0-9_\-+=:@/,]+~[A-Za-z0-9_\-+=:@/,]+$(?!\n)"
_TOKEN = re.compile(TOKEN_PATTERN)
_SEQUENCE_BITS: Final = 40
EPOCH_MAX: Final = (1 << (63 - _SEQUENCE_BITS)) - 1
"""Of a log: its tokens are signed integers of 64 bits."""


def token_fault(value: str, what: str) -> str | None:
    """Why `value` cannot be a queue, id, worker or principal name; None where it can."""
    if len(value) <= TOKEN_MAX_BYTES and _TOKEN.fullmatch(value):
        return None
    if not value:
        return f"{what} is empty; give it 1 to {TOKEN_MAX_BYTES} characters"
    if len(value.encode()) > TOKEN_MAX_BYTES:
        return f"{what} has {len(value.encode())} bytes; at most {TOKEN_MAX_BYTES} are allowed"
    bad = next(c for c in value if not _TOKEN.fullmatch(c))
    return f"{what} {value!r} holds {bad!r}; allowed are letters, digits and _ - + = : @ / ,"


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
    Source: Fowler, Noll, Vo, "FNV Non-Cryptographic Hash", draft-eastlake-fnv.
    """
    value = 0x811C9DC5
    for byte in (tenant + queue).encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value % SHARDS


def queue_in(tenant: str, shard: int) -> str:
    """A name that a queue of the shard would have."""
    return next(name for number in count() if shard_of(tenant, name := f"shard-{shard}-{number}") == shard)


def fencing_token(epoch: int, seq: int) -> int:
    """The token of the lease granted by record `seq`: grows with every grant of a log, across epochs."""
    return (epoch << _SEQUENCE_BITS) + seq


def token_position(token: int) -> tuple[int, int]:
    """The epoch and sequence of the record that granted `token`."""
    return token >> _SEQUENCE_BITS, token & ((1 << _SEQUENCE_BITS) - 1)
