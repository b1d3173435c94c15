"""An orchestrator in memory that speaks the workers' side of the contract, as a Wire."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from writ.broker.errors import NoAnswer, TooLarge, WireError
from writ.broker.wire import OnMessage, Unsubscribe
from writ.schemas import commands
from writ.schemas.bounds import MESSAGE_MAX_BYTES
from writ.schemas.rejections import Rejection, RejectionKind

_decoders = {verb: msgspec.json.Decoder(cls).decode for verb, cls in commands.LEASE_VERBS.items()}
WAIT_S = 30.0


@dataclass
class Call:
    """A request as it came."""

    verb: str
    queue: str
    command: Any
    size_bytes: int


@dataclass
class Orchestra:
    """Grants what is `add`ed, checks tokens, keeps what it was told. Knobs make it slow or unkind."""

    calls: list[Call] = field(default_factory=list[Call])
    completed: dict[str, Any] = field(default_factory=dict[str, Any])
    failed: dict[str, commands.Failure] = field(default_factory=dict[str, commands.Failure])
    released: list[str] = field(default_factory=list[str])
    live: dict[str, int] = field(default_factory=dict[str, int])
    cancel: set[str] = field(default_factory=set[str])
    away: bool = False
    losing: int = 0
    """Of so many acquires that bring leases the answer is lost."""
    deny: WireError | None = None
    answer: Callable[[Call], bytes | None] = lambda call: None
    delay_s: Callable[[str], float] = lambda verb: 0.0
    closed: bool = False
    too_large: int = 0
    withdrawn: int = 0
    deaf_to_withdraw: bool = False

    def __post_init__(self) -> None:
        self._pending: dict[str, deque[commands.Lease]] = {}
        self._tokens = itertools.count(1)
        self._granted: dict[int, commands.Lease] = {}

    def add(
        self,
        task: str,
        data: object = None,
        *,
        id: str | None = None,
        queue: str = "q",
        lease_s: float = 30.0,
        attempt_timeout_s: float = 900.0,
        **more: Any,
    ) -> str:
        """A pending job; its id. `more` are further fields of its lease."""
        token = next(self._tokens)
        raw = msgspec.Raw(msgspec.json.encode(data))
        lease = commands.Lease(id or f"job-{token}", task, token, 1, raw, lease_s, attempt_timeout_s, **more)
        self._pending.setdefault(queue, deque()).append(lease)
        return lease.id

    def lose(self, job_id: str) -> None:
        """The lease is void from now on."""
        self.live[job_id] = -1

    def called(self, verb: str) -> list[Call]:
        return [call for call in list(self.calls) if call.verb == verb]

    async def until(self, ready: Callable[[], object]) -> None:
        """Returns when something holds."""
        async with asyncio.timeout(WAIT_S):
            while not ready():  # noqa: ASYNC110 - what is waited for may be on another thread's loop
                await asyncio.sleep(0.002)

    # --- Wire -------------------------------------------------------------------------------------------

    async def request(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        _, _, _, _, verb, queue = subject.split(".")
        if len(body) > MESSAGE_MAX_BYTES:
            self.too_large += 1
            raise TooLarge(subject, len(body))
        call = Call(verb, queue, _decoders[verb](body), len(body))
        if self.deny is not None:
            raise self.deny
        if self.away:
            await asyncio.sleep(0.005)
            raise NoAnswer(subject, timeout_s)
        self.calls.append(call)
        if delay_s := self.delay_s(verb):
            await asyncio.sleep(delay_s)
        given = self.answer(call)
        if given is not None:
            return given
        if verb == "acquire":
            if call.command.again:
                leases = self._told_again(call.command)
            else:
                leases = await self._acquire(queue, call.command)
                if leases and self.losing:
                    self.losing -= 1
                    raise NoAnswer(subject, timeout_s)
            return msgspec.json.encode(commands.Acquired(leases=tuple(leases)))
        if verb == "withdraw":
            self.withdrawn += not self.deaf_to_withdraw
            return msgspec.json.encode(commands.Answer())
        if verb == "renew":
            lost = self._void(call.command.leases)
            wanted = tuple(held.id for held in call.command.leases if held.id in self.cancel)
            return msgspec.json.encode(commands.Renewed(lost=lost, cancel=wanted))
        return self._report(verb, call.command)

    async def publish_submit(self, subject: str, body: bytes, msg_id: str) -> int:
        raise NotImplementedError

    async def subscribe(self, subject: str, callback: OnMessage) -> Unsubscribe:
        raise NotImplementedError

    async def close(self) -> None:
        self.closed = True

    def _told_again(self, command: commands.Acquire) -> list[commands.Lease]:
        """The newest lease that the worker does not know of: each answer holds one and no more."""
        unknown = [
            self._granted[token]
            for token in self.live.values()
            if token in self._granted and token not in command.known
        ]
        return sorted(unknown, key=lambda lease: lease.token)[-1:]

    async def _acquire(self, queue: str, command: commands.Acquire) -> list[commands.Lease]:
        loop = asyncio.get_running_loop()
        until = loop.time() + command.wait_s
        pending = self._pending.setdefault(queue, deque())
        withdrawn = self.withdrawn
        while not pending and loop.time() < until and withdrawn == self.withdrawn:  # noqa: ASYNC110 - jobs are added from other threads
            await asyncio.sleep(0.001)
        leases = [pending.popleft() for _ in range(min(command.count, len(pending)))]
        for lease in leases:
            self.live[lease.id] = lease.token
            self._granted[lease.token] = lease
        return leases

    def _void(self, leases: Any) -> tuple[Rejection, ...]:
        return tuple(
            Rejection(RejectionKind.STALE, f"token {held.token} is void", "token", index)
            for index, held in enumerate(leases)
            if self.live.get(held.id) != held.token
        )

    def _report(self, verb: str, command: Any) -> bytes:
        items = command.leases if verb in ("start", "release") else command.reports
        refused = self._void(items)
        void = {rejection.index for rejection in refused}
        for index, item in enumerate(items):
            if index in void or verb == "start":
                continue
            del self.live[item.id]
            if verb == "complete":
                self.completed[item.id] = msgspec.json.decode(item.output)
            elif verb == "fail":
                self.failed[item.id] = item
            else:
                self.released.append(item.id)
        return msgspec.json.encode(commands.Reported(refused=refused))


@pytest.fixture
def orchestra() -> Orchestra:
    return Orchestra()
