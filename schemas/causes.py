"""The cause of a death as a fingerprint: dead letters with one cause are one problem."""

from __future__ import annotations

import hashlib
import re
from typing import Final

import msgspec

from .errors import AttemptError
from .sealed import UNSEALED

_LENGTH: Final = 12
_VARIABLE: Final = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F]{8,}|\d+|'[^']*'|\"[^\"]*\"")


def fingerprint(task: str, reason: str, error: AttemptError | None) -> str:
    """12 hex digits over task, reason, error class and type, and the shape of the error's first line.

    Numbers, hexadecimal runs and quoted words are left out of the shape: they differ from case to case.
    """
    parts = [task, reason]
    if error is not None:
        parts += [error.class_, error.type, _shape(error)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_LENGTH]


def _shape(error: AttemptError) -> str:
    if error.text is None or error.text.key != UNSEALED:
        return ""
    text = msgspec.json.decode(error.text.plain, type=str)
    first = text.strip().split("\n", 1)[0]
    return _VARIABLE.sub("?", first)[:200]
