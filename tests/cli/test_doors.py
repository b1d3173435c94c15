"""Whom processes that joined one broker let in, as the log says."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from writ.broker.accounts import Principal
from writ.broker.jwt import KeyKind, Signer
from writ.cli.orchestrating import _until_ended  # pyright: ignore[reportPrivateUsage]
from writ.cli.usage import CommandError
from writ.orchestrator.state import Partition
from writ.principals import Doorkeeper
from writ.schemas.bounds import TOKEN_MAX_BYTES
from writ.schemas.events import Fact, QueueDeclared
from writ.schemas.ids import LANES_MAX, lanes_of
from writ.schemas.policy import QueuePolicy
from writ.schemas.principals import KeyAdded, KeyRemoved, PrincipalCreated, PrincipalKind, Role, RoleGranted
from writ.schemas.records import Record

SECOND_US = 1_000_000
START_S = 1_700_000_000
QUEUES = "bills", "agents", "mail", "work"
KEY, OTHER_KEY = (Signer(KeyKind.USER, each * 32).public for each in (b"a", b"b"))


class At:
    def __init__(self, wall_s: int) -> None:
        self.wall_s = wall_s

    def wall_us(self) -> int:
        return self.wall_s * SECOND_US

    def mono_us(self) -> int:
        return 0


class Told:
    """Stands for a broker: notes when who is let in has changed, as it is told."""

    def __init__(self) -> None:
        self.principals: tuple[Principal, ...] = ()
        self.changed_s: list[Mapping[str, int]] = []

    owes = False

    async def set_principals(
        self, principals: Sequence[Principal], changed_s: Mapping[str, int], gone: Sequence[str]
    ) -> None:
        self.principals = tuple(principals)
        self.changed_s.append(changed_s)


def fold(state: Partition, at_s: int, *events: Fact) -> None:
    state.evolve(Record(1, 1, "default", "principal", "bot", at_s * SECOND_US, "owner", events))


async def look(keeper: Any, broker: Told, state: Partition) -> None:
    keeper._changed.set()  # as it is when a record is heard of
    await keeper.keep(broker, state)


async def test_every_process_tells_the_same_time_of_a_change() -> None:
    """Or clients would be disconnected by each of them, and for some seconds let in by the last one alone."""
    told: list[list[Mapping[str, int]]] = []
    for later_s in (0, 7):
        state, broker, clock = Partition(0, 1), Told(), At(START_S + later_s)
        keeper: Any = Doorkeeper(clock)
        until = (START_S + 60) * SECOND_US
        granted = RoleGranted(Role.WORKER, "q", "for a while", "owner", until)
        keys = KeyAdded(KEY), KeyAdded(OTHER_KEY)
        fold(state, START_S, PrincipalCreated(PrincipalKind.SERVICE), *keys, granted)
        await look(keeper, broker, state)
        fold(state, START_S + 5, KeyRemoved(OTHER_KEY, "lost"))
        await look(keeper, broker, state)
        clock.wall_s += 61  # the role has ended meanwhile, by no record
        await look(keeper, broker, state)
        told.append(broker.changed_s)
    assert told[0] == told[1] == [{"default.bot": START_S + each} for each in (0, 5, 60)]


def in_queues(broker: Told) -> set[str]:
    return {queue for each in broker.principals for word, queue in each.in_queues if word == "work"}


async def test_a_queue_whose_lanes_cannot_be_named_shuts_nobody_out() -> None:
    long = "q" * (TOKEN_MAX_BYTES - 1)
    state, broker = Partition(0, 1), Told()
    keeper: Any = Doorkeeper(At(START_S))
    granted = RoleGranted(Role.WORKER, long, "for good", "owner")
    fold(state, START_S, PrincipalCreated(PrincipalKind.SERVICE), KeyAdded(KEY), granted)
    declared = QueueDeclared(1, QueuePolicy(lanes=2), "as it was before that was refused")
    state.evolve(Record(1, 2, "default", "queue", long, START_S * SECOND_US, "owner", (declared,)))
    await look(keeper, broker, state)
    assert in_queues(broker) == {long}


async def test_lanes_of_queues_in_other_partitions_are_open_to_whoever_has_the_queue() -> None:
    """Their number is known in the partition of the queue alone."""
    state, broker = Partition(0, 1), Told()
    state.links.shards.partitions = state.links.shards.dealt = 2
    here, there = (next(q for q in QUEUES if state.links.shards.home("default", q) == n) for n in (0, 1))
    keeper: Any = Doorkeeper(At(START_S))
    grants = [RoleGranted(Role.WORKER, queue, "for good", "owner") for queue in (here, there)]
    fold(state, START_S, PrincipalCreated(PrincipalKind.SERVICE), KeyAdded(KEY), *grants)
    await look(keeper, broker, state)
    assert in_queues(broker) == {here, there, *lanes_of(there, LANES_MAX)}


class Stoppable:
    """Stands for an engine: runs until it is stopped."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()

    def stop(self) -> None:
        self.stopped.set()


async def test_an_orchestrator_ends_where_its_doorkeeper_does() -> None:
    engine: Any = Stoppable()

    async def fails() -> None:
        raise ConnectionResetError("the connection is lost")

    running = asyncio.create_task(engine.stopped.wait())
    with pytest.raises(CommandError, match=r"no longer followed the log.*the connection is lost"):
        await _until_ended(engine, running, asyncio.create_task(fails()))
    assert running.done()


async def test_an_orchestrator_that_is_stopped_ends_without_a_fault() -> None:
    engine: Any = Stoppable()
    doors = asyncio.create_task(asyncio.Event().wait())
    running = asyncio.create_task(engine.stopped.wait())
    engine.stop()
    waiting: Any = doors
    await _until_ended(engine, running, waiting)
    doors.cancel()
