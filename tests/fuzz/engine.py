"""An engine that is sent malformed messages one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from tests.orchestrator.engine.conftest import Twin
from writ.orchestrator.access_desk import Founder
from writ.schemas.codec import decode
from writ.schemas.commands import CONTROL_VERBS, LEASE_VERBS
from writ.schemas.events import CommandRejected
from writ.schemas.principals import Role
from writ.schemas.records import Record
from writ.testing import VirtualLoop

from .edge import Edge
from .messages import requests, submit, taken, unspeakable

_TWIN_LIFE: Final = 4_000
"""Inputs to one engine: the next one begins with an empty log."""


_BETWEEN_S: Final = 0.2
"""Of virtual time: whoever is refused too often within a second is told to ask later, and nothing else."""

_ASKING: Final = ("owner", "robot")


class _Engine:
    """An engine on the in-memory log, which is asked one thing after the other in virtual time."""

    def __init__(self) -> None:
        self._loop = VirtualLoop()
        self._twin: Twin | None = None
        self._asked = 0

    def run(self, work: Callable[[Twin], Coroutine[Any, Any, str | None]]) -> str | None:
        return self._loop.run_until_complete(self._run(work))

    async def _run(self, work: Callable[[Twin], Coroutine[Any, Any, str | None]]) -> str | None:
        if self._twin is None or self._asked >= _TWIN_LIFE:
            if self._twin is not None:
                await self._twin.crash()
            self._twin, self._asked = Twin(lambda _: {}), 0
            # Who is asked in the name of must be known: a message that is no fault may make a tenant.
            keys = ("U" + "A" * 55, "U" + "B" * 55)
            self._twin.founders = tuple(
                [Founder("default", who, key, (Role.OWNER,)) for who, key in zip(_ASKING, keys, strict=True)]
            )
            await self._twin.start()
        self._asked += 1
        await asyncio.sleep(_BETWEEN_S)
        return await work(self._twin)

    def close(self) -> None:
        if self._twin is not None:
            self._loop.run_until_complete(self._twin.crash())
        self._loop.close()


async def _decided(twin: Twin, body: bytes) -> str | None:
    """What the log tells of a submit, once it has been decided on."""
    before = await twin.log.last_seq()
    seq = await twin.submit(body)
    engine = twin.engine
    assert engine is not None
    for _ in range(2_000):
        if engine.state.source.seq >= seq:
            break
        await asyncio.sleep(0.001)
    else:
        raise AssertionError("a submit was not decided on")
    assert all(not task.done() for _, task in twin.running), "the engine has ended"
    reasons = [
        each.reason
        async for part in _after(twin, before)
        for record in part
        for event in record.events
        if isinstance(event, CommandRejected)
        for each in event.refused
    ]
    return " | ".join(reasons) if reasons else None


async def _after(twin: Twin, seq: int) -> AsyncIterator[list[Record]]:
    async for part in twin.log.read(seq + 1):
        yield [decode(each.body) for each in part]


def engine(word: str) -> Edge:
    engine = _Engine()
    close = engine.close
    if word == "submit":
        plain = submit()
        return Edge(
            "engine-submit", [plain.samples[0]], lambda body: engine.run(lambda twin: _decided(twin, body)),
            lambda mutations, _: plain.malformed(mutations), close=close,
        )  # fmt: skip
    verbs = LEASE_VERBS if word == "lease" else CONTROL_VERBS
    plain = requests(word, verbs)

    async def ask(twin: Twin, sample: bytes) -> str | None:
        verb, body = taken(sample)
        if unspeakable(verb):
            return f"{verb!r} cannot stand in a subject"
        asking = asyncio.ensure_future(twin.raw(verb, body, kind=word))
        done, _ = await asyncio.wait({asking}, timeout=600.0)  # of virtual time: an acquire may wait
        assert done, "a request was not answered"
        assert all(not task.done() for _, task in twin.running), "the engine has ended"
        error = asking.result().error
        return None if error is None else error.reason

    def neighbour(sample: bytes) -> str | None:
        return engine.run(lambda twin: ask(twin, sample))

    good = {
        "lease": [b'acquire\n{"worker": "w", "wait_s": 0}'],
        "control": [b'declare\n{"policy": {"concurrency": 3}}', b"list_prices\n{}", b"get_tenant\n{}"],
    }[word]
    return Edge(
        f"engine-{word}", good, neighbour, lambda mutations, _: plain.malformed(mutations), close=close
    )
