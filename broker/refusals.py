"""What is refused before the orchestrator or a reader is asked, as denials for the audit.

So do the broker and the HTTP API. nats-server tells of a refused publish or subscribe in its log and nowhere
else. The first of its kind is told at once, its repeats within ten seconds as one with their count. Of a
flood of kinds none is lost, but they are told of only as fast as the orchestrator records them; all who have
not said who they are share one budget.
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
from writ.schemas.principals import BROKER_RULES, HTTP_RULES

from .clock import Clock

FOLD_US: Final = 10 * SECOND_US
LOOK_S: Final = 0.2
"""How often the log is looked at."""

PART_MAX_BYTES: Final = 256 * 1024
"""Read of the log in one go."""

_KINDS_MAX: Final = 1_000
"""Kinds that are told apart at once; with more, only by who and what, and of strangers only by what."""

# What a client says of itself is quoted and escaped by the server: ` - "A` stands only before an account.
# Behind it stands its key, or a user's name of the client's own choice. A principal's name may hold a slash.
_DENIED: Final = re.compile(
    rb' - "A[A-Z2-7]{55}/(?:([^":\\]+)/nkey:U[A-Z2-7]{55}|([^/"\\]+)/[^"]*)" - '
    rb"(Publish|Subscription) Violation - "
    rb'(Subject|Reply) "((?:[^"\\]|\\.)*)"[^"]*(?:"[^"]*"[^"]*)?$'
)
# A gate that turns somebody away says whom, and the server logs it. What it logs beside that is the same also
# for a login that no gate answered in time, which is no refusal. Of its own refusals it names nobody.
_LOGIN: Final = re.compile(
    rb"^\[\d+\] \S+ \S+ (?:"
    rb"\[WRN\] Auth callout service returned an error: (no|not) .*?(?:key (U[A-Z2-7]{55}))?"
    rb"|\[ERR\] \S+ - \w+:\d+ - authentication error)$"
)

TOLD_BURST: Final = 40
TOLD_PER_S: Final = 5.0
"""Of one principal, so that the orchestrator, which records 50 at once and 10 a second, drops none."""

NOBODY: Final = "nobody"
"""Stands for who showed no key."""

UNSIGNED_RULE: Final = f"{BROKER_RULES}unsigned"
HOST_RULE: Final = f"{HTTP_RULES}host"
ORIGIN_RULE: Final = f"{HTTP_RULES}origin"
PAGE_RULE: Final = f"{HTTP_RULES}page"
HEAD_RULE: Final = f"{HTTP_RULES}head"
LOGIN_RULE: Final = f"{HTTP_RULES}login"
OPENID_RULE: Final = f"{HTTP_RULES}openid"

_WHY: Final = {
    f"{BROKER_RULES}login": "no principal has this key or token, or it is revoked",
    UNSIGNED_RULE: "it showed a key of which it does not have the secret, {}",
    f"{BROKER_RULES}publish": "its roles do not let it publish to {}",
    f"{BROKER_RULES}subscribe": "its roles do not let it subscribe to {}",
    HOST_RULE: "it was asked as another host, {}",
    ORIGIN_RULE: "pages of another origin are not answered, as of {}",
    PAGE_RULE: "under a session only pages of the API's own origin change anything, and they know its word",
    HEAD_RULE: "this was no HTTP request, or its head was too large",
    LOGIN_RULE: "no token or session that is somebody's came with it",
    OPENID_RULE: "the provider vouched for nobody whom the rules let in: {}",
}
"""By rule; what it was about stands for the braces."""


class Refusal(NamedTuple):
    """Something that was refused. `who` is `<tenant>.<principal>`, the key of a login, or NOBODY.

    `subject` is what it was about. Without a `rule` it is the broker's for the operation.
    """

    who: str
    operation: str
    subject: str
    rule: str = ""


Named = Callable[[str], tuple[str, str] | None]
"""The tenant and the principal of a public key."""


def refusal_in(line: bytes) -> Refusal | None:
    """What a line of the broker's log tells of; None where it tells of something else."""
    found = _DENIED.search(line)
    if found is not None:
        account, subject = [
            part.decode(errors="backslashreplace") for part in (found[1] or found[2], found[5])
        ]
        return Refusal(account, "publish" if found[3] == b"Publish" else "subscribe", subject)
    found = _LOGIN.search(line)
    if found is not None:
        key = (found[2] or b"").decode()
        if key and found[1] == b"not":  # it may be somebody else's
            return Refusal(NOBODY, "login", key, UNSIGNED_RULE)
        return Refusal(key or NOBODY, "login", "")
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
    is kept. Strangers, as a login that shows no principal's key, are of the tenant `tenant`, and to
    `may_tell` they are all NOBODY: keys cost nothing. Up to `kinds_max` kinds are told apart.
    """

    def __init__(
        self,
        named: Named,
        tenant: str,
        may_tell: Callable[[str, int], bool],
        kinds_max: int = _KINDS_MAX,
    ) -> None:
        self._named = named
        self._tenant = tenant
        self._known: dict[Refusal, tuple[int, int]] = {}
        self._may_tell = may_tell
        self._kinds_max = kinds_max

    @property
    def is_counting(self) -> bool:
        """Whether `over` may have something to tell, now or later."""
        return bool(self._known)

    def take(self, refusal: Refusal, now: int) -> NoteDenial | None:
        """The denial to tell of at once; None where it is counted."""
        if refusal not in self._known and len(self._known) >= self._kinds_max:
            known = self._principal(refusal.who) is not None
            refusal = refusal._replace(subject="", who=refusal.who if known else NOBODY)
        if refusal in self._known:
            end, count = self._known[refusal]
            self._known[refusal] = end, count + 1
            return None
        if not self._may(refusal, now):
            self._known[refusal] = now, 1
            return None
        self._known[refusal] = now + FOLD_US, 0
        return self._denial(refusal, 1)

    def over(self, now: int) -> list[NoteDenial]:
        """What was counted and is to be told of now; what was counted most comes first."""
        told: list[NoteDenial] = []
        due = [each for each, (end, _) in self._known.items() if end <= now]
        for refusal in sorted(due, key=lambda each: -self._known[each][1]):
            count = self._known[refusal][1]
            if count and not self._may(refusal, now):
                continue
            del self._known[refusal]
            if count:
                told.append(self._denial(refusal, count))
        return told

    def _may(self, refusal: Refusal, now: int) -> bool:
        return self._may_tell(NOBODY if self._principal(refusal.who) is None else refusal.who, now)

    def _principal(self, who: str) -> tuple[str, str] | None:
        """Tenant and name; None of a stranger."""
        tenant, _, principal = who.partition(".")
        return (tenant, principal) if principal else self._named(who)

    def _denial(self, refusal: Refusal, count: int) -> NoteDenial:
        tenant, principal = self._principal(refusal.who) or (self._tenant, refusal.who)
        if token_fault(tenant, "tenant") or token_fault(principal, "principal"):
            tenant, principal = self._tenant, NOBODY
        rule = refusal.rule or f"{BROKER_RULES}{refusal.operation}"
        why = _WHY[rule].format(refusal.subject or "several that are told of together")
        by = "the HTTP API" if rule.startswith(HTTP_RULES) else "the broker"
        return NoteDenial(
            tenant=tenant,
            principal=principal,
            operation=refusal.operation,
            resource=refusal.subject.encode()[:TOKEN_MAX_BYTES].decode(errors="ignore"),
            rule=rule,
            why=f"{by} refused it: {why[:800]} [{rule}]",
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
