"""Several processes that let principals in at one broker, and tell it what its accounts are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from writ.broker.accounts import AccountSettings
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.doors import local_principal
from writ.broker.embedded import EmbeddedBroker
from writ.broker.joined import JoinedBroker
from writ.broker.owned import BrokerError
from writ.broker.roll import ROLL_FILE, KeptRoll, Roll
from writ.broker.spread import ALONE
from writ.broker.trust import Trust
from writ.broker.wire import NatsWire

WAIT_S = 10.0


class Behind:
    """The clock of a process that is some seconds later to tell."""

    def wall_us(self) -> int:
        return SystemClock().wall_us() + 5_000_000

    def mono_us(self) -> int:
        return 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - watches another's state, which has no event
            await asyncio.sleep(0.005)


async def test_who_joined_leaves_the_roll_of_the_directory_to_its_owner(tmp_path: Path) -> None:
    """A standby that lags would have the node's second gate let in somebody who is revoked."""
    gone = local_principal(tmp_path, "default", "gone", frozenset({"submit"}))
    stays = local_principal(tmp_path, "default", "stays", frozenset({"submit"}))
    async with await EmbeddedBroker.start(tmp_path, principals=[stays]) as broker:
        kept = (tmp_path / "keys" / ROLL_FILE).read_bytes()
        joined = await JoinedBroker.start(tmp_path, broker.url)
        second = KeptRoll(tmp_path / "keys")
        assert second.by_key(stays.public) is not None
        await joined.set_principals([stays, gone])
        await joined.set_principals([replace(stays, roles=frozenset({"work"})), gone])
        assert (tmp_path / "keys" / ROLL_FILE).read_bytes() == kept
        assert second.by_key(gone.public) is None
        await joined.stop()


async def test_how_streams_are_kept_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no server tells how many there are, one replica would be for good."""
    monkeypatch.setattr("writ.broker.servers.WAIT_S", 0.3)
    broker = await EmbeddedBroker.start(tmp_path)
    joined = await JoinedBroker.start(tmp_path, broker.url)
    try:
        assert await joined.spread(None, ()) == ALONE
        await broker.stop()
        with pytest.raises(BrokerError, match="no server tells"):
            await joined.spread(None, ())
    finally:
        await joined.stop()
        await broker.stop()


async def test_a_change_that_another_has_told_disconnects_nobody_again(tmp_path: Path) -> None:
    principal = local_principal(tmp_path, "default", "bot", frozenset({"submit", "operate"}))
    async with await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker:
        system = await connect(Target(broker.url, broker.key_path("system")), "test", inbox_prefix="_INBOX")
        other = Roll(Trust.in_directory(tmp_path / "keys"), AccountSettings(), Behind(), None)
        other.follow(system)
        await other.begin([principal])
        wire = await NatsWire.connect(Target(broker.url, broker.key_path("bot"), principal="bot"), "t")
        second_s = SystemClock().wall_us() // 1_000_000
        fewer = replace(principal, roles=frozenset({"submit"}))
        for connections, changed in ((2, fewer), (3, principal)):
            second_s += 1
            await broker.set_principals([changed], {changed.account: second_s})
            await until(lambda: wire.connections == connections)  # noqa: B023 - awaited within the turn
            await other.set([changed], {changed.account: second_s})
            # What the broker answers now, it does after it has ended whom that would have ended.
            await wire.subscribe(f"_INBOX_bot.{os.urandom(4).hex()}", lambda subject, body: None)
            assert wire.connections == connections
        await wire.close()
        await system.close()


async def test_a_change_that_was_heard_of_too_late_ends_what_was_let_in_since(tmp_path: Path) -> None:
    principal = local_principal(tmp_path, "default", "bot", frozenset({"submit", "operate"}))
    async with await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker:
        wire = await NatsWire.connect(Target(broker.url, broker.key_path("bot"), principal="bot"), "t")
        changed = replace(principal, roles=frozenset({"submit"}))
        an_hour_ago_s = SystemClock().wall_us() // 1_000_000 - 3_600
        await broker.set_principals([changed], {changed.account: an_hour_ago_s})
        await until(lambda: wire.connections == 2)
        await wire.close()


async def test_who_was_revoked_before_a_process_began_is_disconnected_when_it_begins(tmp_path: Path) -> None:
    """Must hold: a revoked principal's open connection can do nothing, whoever ended before it said so."""
    stays, gone = (
        local_principal(tmp_path, "default", name, frozenset({"submit"})) for name in ("stays", "gone")
    )
    async with await EmbeddedBroker.start(tmp_path, principals=[stays, gone]) as broker:
        joined = await JoinedBroker.start(tmp_path, broker.url)
        wires: list[Any] = [
            await NatsWire.connect(Target(broker.url, broker.key_path(name), principal=name), "t")
            for name in ("stays", "gone")
        ]
        roll: Any = broker.roll
        roll._entries.pop(gone.account)  # its own gate has heard of it, and the broker has not
        roll._listed.keys.pop(gone.public)
        await joined.set_principals([stays], None, [gone.account])
        await until(lambda: not wires[1]._nats.is_connected)
        assert wires[0].connections == 1
        for each in wires:
            await each.close()
        await joined.stop()


async def test_what_the_broker_did_not_take_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must hold: an open connection of who is revoked can do nothing, also where the broker missed it."""
    names = ("stays", "gone", "late")
    stays, gone, late = (local_principal(tmp_path, "default", name, frozenset({"submit"})) for name in names)
    async with await EmbeddedBroker.start(tmp_path, principals=[stays, gone]) as broker:
        wire: Any = await NatsWire.connect(Target(broker.url, broker.key_path("gone"), principal="gone"), "t")
        monkeypatch.setattr("writ.broker.roll._UPDATE", b"$SYS.REQ.NOBODY.HEARS")
        with pytest.raises(BrokerError, match="did not answer"):
            await broker.set_principals([stays, late])
        assert broker.owes
        assert set(broker.principals) == {stays, late}, "the gate judges by them all the same"
        monkeypatch.undo()
        await broker.set_principals([stays, late])
        assert not broker.owes
        await until(lambda: not wire._nats.is_connected)
        await wire.close()
        await (
            await NatsWire.connect(Target(broker.url, broker.key_path("late"), principal="late"), "t")
        ).close()
