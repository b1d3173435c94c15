"""Submits before they are sent: ids for them, and the refusals that need no orchestrator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from writ.schemas.rejections import Rejection
from writ.schemas.submits import address_fault, parse

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _crockford(value: int, length: int) -> str:
    """Crockford's base32: digits and letters that sort as the numbers do, without I, L, O and U."""
    return "".join([_ALPHABET[(value >> shift) & 31] for shift in range(5 * (length - 1), -1, -5)])


def new_job_id(wall_ms: int, entropy: Callable[[int], bytes]) -> str:
    """26 characters, sorting by time: 48 bits of milliseconds since 1970, then 80 of chance.

    Source: ULID specification, https://github.com/ulid/spec.
    """
    return _crockford((wall_ms & (2**48 - 1)) << 80 | int.from_bytes(entropy(10), "big"), 26)


def nonce(entropy: Callable[[int], bytes]) -> str:
    """16 characters that nobody can guess."""
    return _crockford(int.from_bytes(entropy(10), "big"), 16)


def check_submit(queue: str, body: bytes, index: int | None = None) -> Rejection | None:
    """Why the orchestrator would refuse a submit whatever its state; None where nothing is wrong."""
    command = parse(body, index)
    if isinstance(command, Rejection):
        return command
    return address_fault(queue, command.id or "", index)
