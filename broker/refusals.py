"""What the broker itself refuses, from its log, as denials for the audit.

nats-server tells of a refused publish or subscribe in its log and nowhere else. The first of its kind is
told at once, its repeats within ten seconds as one with their count. Of a flood of kinds none is lost, but
they are told of only as fast as the orchestrator records them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

from writ.schemas.bounds import SECOND_US, TOKEN_MAX_BYTES
from writ.schemas.granting import NoteDenial
from writ.schemas.ids import token_fault
from writ.schemas.principals import BROKER_RULES

from .clock import Clock

FOLD_US: Final = 10 * SECOND_US
LOOK_S: Final = 0.2
"""How often the log is looked at."""

PART_MAX_BYTES: Final = 256 * 1024
"""Read of the log in one go."""

_KINDS_MAX: Final = 1_000
"""Kinds that are told apart at once; with more, only by who and what, and not by subject."""

# What a client says of itself is quoted and escaped by the server: ` - "A` stands only before an account.
_DENIED: Final = re.compile(
    rb' - "A[A-Z2-7]{55}/([^/"\\]+)/[^"]*" - (Publish|Subscription) Violation - '
    rb'(Subject|Reply) "((?:[^"\\]|\\.)*)"[^"]*(?:"[^"]*"[^"]*)?$'
)
_LOGIN: Final = re.compile(rb'\[ERR\] \S+ - cid:\d+ - authentication error - (?:Nkey "(U[A-Z2-7]{55})"|.*)$')

TOLD_BURST: Final = 40
TOLD_PER_S: Final = 5.0
"""Of one principal, so that the orchestrator, which records 50 at once and 10 a second, drops none."""

NOBODY: Final = "nobody"
"""Stands for who showed no key."""


class Refusal(NamedTuple):
    """Something that the broker refused. `who` is `<tenant>.<principal>`, or the key of a login."""

    who: str
    operation: str
    subject: str


Named = Callable[[str], tuple[str, str] | None]
"""The tenant and the principal of a public key."""


def refusal_in(line: bytes) -> Refusal | None:
    """What a line of the broker's log tells of; None where it tells of something else."""
    found = _DENIED.search(line)
    if found is not None:
        account, verb, _, subject = [part.decode(errors="backslashreplace") for part in found.groups()]
        return Refusal(account, "publish" if verb == "Publish" else "subscribe", subject)
    found = _LOGIN.search(line)
    if found is not None:
        return Refusal((found[1] or NOBODY.encode()).decode(), "login", "")
    return None


class LogTail:
    """The lines that are written to a log from now on. One that was turned over is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def lines(self) -> list[bytes]:
        """The whole lines since the last call, as far as one part of the file holds them."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._at:
                    self._at, self._rest = 0, b""
                file.seek(self._at)
                part = file.read(PART_MAX_BYTES)
        except OSError:
            return []
        self._at += len(part)
        *lines, self._rest = (self._rest + part).split(b"\n")
        self._rest = self._rest[-PART_MAX_BYTES:]
        return lines


class Refusals:
    """Folds refusals by who, what and where, and says when each is to be told.

    `may_tell` says of somebody, at a time in microseconds, whether one more may be told of now; what may not
    is kept. A login that shows no principal's key is of the tenant `tenant`.
    """

    def __init__(self, named: Named, tenant: str, may_tell: Callable[[str, int], bool]) -> None:
        self._named = named
        self._tenant = tenant
        self._known: dict[Refusal, tuple[int, int]] = {}
        self._may_tell = may_tell

    def take(self, refusal: Refusal, now: int) -> NoteDenial | None:
        """The denial to tell of at once; None where it is counted."""
        if refusal not in self._known and len(self._known) >= _KINDS_MAX:
            refusal = refusal._replace(subject="")
        if refusal in self._known:
            end, count = self._known[refusal]
            self._known[refusal] = end, count + 1
            return None
        if not self._may_tell(refusal.who, now):
            self._known[refusal] = now, 1
            return None
        self._known[refusal] = now + FOLD_US, 0
        return self._denial(refusal, 1)

    def over(self, now: int) -> list[NoteDenial]:
        """What was counted and is to be told of now."""
        told: list[NoteDenial] = []
        for refusal in [each for each, (end, _) in self._known.items() if end <= now]:
            count = self._known[refusal][1]
            if count and not self._may_tell(refusal.who, now):
                continue
            del self._known[refusal]
            if count:
                told.append(self._denial(refusal, count))
        return told

    def _denial(self, refusal: Refusal, count: int) -> NoteDenial:
        tenant, _, principal = refusal.who.partition(".")
        if not principal:
            tenant, principal = self._named(refusal.who) or (self._tenant, refusal.who)
        if token_fault(tenant, "tenant") or token_fault(principal, "principal"):
            tenant, principal = self._tenant, NOBODY
        why = {
            "login": "no principal has this key or token, or it is revoked",
            "publish": f"its roles do not let it publish to {refusal.subject or 'these subjects'}",
            "subscribe": f"its roles do not let it subscribe to {refusal.subject or 'these subjects'}",
        }[refusal.operation]
        rule = f"{BROKER_RULES}{refusal.operation}"
        return NoteDenial(
            tenant=tenant,
            principal=principal,
            operation=refusal.operation,
            resource=refusal.subject.encode()[:TOKEN_MAX_BYTES].decode(errors="ignore"),
            rule=rule,
            why=f"the broker refused it: {why[:800]} [{rule}]",
            count=count,
        )


async def tell_refusals(
    path: Path, refusals: Refusals, tell: Callable[[NoteDenial], Awaitable[None]], clock: Clock
) -> None:
    """Follows the broker's log at `path`, for ever."""
    tail = LogTail(path)
    while True:
        now = clock.mono_us()
        for line in tail.lines():
            refusal = refusal_in(line)
            denial = None if refusal is None else refusals.take(refusal, now)
            if denial is not None:
                await tell(denial)
        for denial in refusals.over(now):
            await tell(denial)
        await asyncio.sleep(LOOK_S)
