"""The wire of a simulated world: messages that can be lost, and a broker whose disk cannot."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from writ.broker.ports import Message, Stored
from writ.schemas.subjects import feed_subject, link_filter, parse_log

from .loop import WALL_START_US, Host, World
from .plan import MESSAGE_FAULTS, PARTITIONS, Plan

if TYPE_CHECKING:
    from .ports import SimRequests

INTAKE_EPOCH: Final = 1
LOG_EPOCH: Final = 1
_SPREAD: Final = 400
Reply = Callable[..., object]
Reach = Callable[..., None]
"""Sends an answer back: the callback at the other end, and its arguments."""


class Network:
    """Carries messages between hosts and the broker (None), each with its own delay and its own fate."""

    def __init__(self, world: World, plan: Plan, entropy: random.Random) -> None:
        self._world = world
        self._draw = entropy.random
        self._quiet = plan.quiet
        self.calm = False
        self.up = True
        self._rates: list[tuple[float, str | None]] = []
        share = 0.0
        for kind, rate in zip(MESSAGE_FAULTS, (0.012, 0.012, 0.008, 0.02), strict=True):
            share += rate * plan.storm
            self._rates.append((share, None if kind in plan.off else kind))
        self._worst = share
        self._held: dict[tuple[Host | None, Host | None], int] = {}

    def quiet(self) -> bool:
        """Whether no fault of a message may happen now."""
        if self.calm:
            return True
        now = self._world.now_us
        return any(start <= now < end for start, end in self._quiet)

    def send(self, source: Host | None, to: Host | None, callback: Callable[..., object], *args: Any) -> None:
        """Brings a call to the other end, or not."""
        chance = self._draw()
        delay_us = 100 + int(chance * 1e9) % _SPREAD
        world = self._world
        if not self.up or (source is not None and source.cut) or (to is not None and to.cut):
            return
        if source is not None and not source.alive:
            return
        if chance < self._worst and not self.quiet():
            kind = next(kind for share, kind in self._rates if chance < share)
            if kind == "reordered":
                delay_us += 500 + int(chance * 1e8) % 40_000
                self._held[source, to] = world.now_us + delay_us
            elif kind is not None:
                world.fault(kind)
                if kind == "dropped":
                    return
                if kind == "doubled":
                    world.post(delay_us + 50 + int(chance * 1e8) % 100_000, to, callback, *args)
                else:
                    delay_us += 100_000 + int(chance * 1e9) % 5_000_000
        elif self._held:
            held = self._held.pop((source, to), 0)
            if held > world.now_us + delay_us:
                world.fault("reordered")
        world.post(delay_us, to, callback, *args)


class Broker:
    """Streams on a disk that forgets nothing, servers and subscribers by subject."""

    def __init__(self, world: World, network: Network, entropy: random.Random) -> None:
        self.world = world
        self.net = network
        self.logs: list[list[Stored]] = [[] for _ in range(PARTITIONS)]
        self.submits = 0
        """How many the one stream of submits holds: a sequence names one, whichever partition it is for."""
        self.intakes: list[list[Stored]] = [[] for _ in range(PARTITIONS)]
        self.kept_from = [1] * PARTITIONS
        self.full = False
        self.slow = False
        self.servers: list[list[SimRequests]] = [[] for _ in range(PARTITIONS)]
        self.hearers: list[list[SimRequests]] = [[] for _ in range(PARTITIONS)]
        self.feeds: dict[str, list[tuple[Host, Callable[[str, bytes], None]]]] = {}
        self.on_stored: Callable[[int, Stored], None] = lambda partition, stored: None
        self._draw = entropy.random
        self._seen: dict[str, int] = {}
        self._parked: list[dict[object, tuple[int, Reply]]] = [{} for _ in range(PARTITIONS)]
        self._links: dict[str, list[Stored]] = {}
        self._following: dict[int | str, dict[object, tuple[int, Reply]]] = {}

    # --- logs ----------------------------------------------------------------------------------------------

    def append(self, partition: int, messages: list[Message], after: int, reply: Reply) -> None:
        """A publish or an atomic batch, as it reaches the broker."""
        if not self.net.up:
            return
        log = self.logs[partition]
        delay_us = 0
        if self.slow:
            delay_us = int(self._draw() ** 2 * 4_000_000)
            self.world.fault("slow_disk")
        if self.wrong_last(log, after):
            reply("wrong_last", len(log))
            return
        if self.full:
            self.world.fault("full")
            reply("full", 0)
            return
        now = WALL_START_US + self.world.now_us
        for message in messages:
            stored = Stored(len(log) + 1, message.subject, message.body, now)
            log.append(stored)
            self.on_stored(partition, stored)
            self._feed(stored)
            if ".link." in stored.subject:
                self._link(stored)
        self._tell_followers(partition)
        if delay_us:
            self.world.post(delay_us, None, reply, "stored", len(log))
        else:
            reply("stored", len(log))

    @staticmethod
    def wrong_last(log: list[Stored], after: int) -> bool:
        """The compare of compare-and-set."""
        return len(log) != after

    def _feed(self, stored: Stored) -> None:
        if not self.feeds:
            return
        address = parse_log(stored.subject)
        subject = feed_subject(address.tenant, address.kind, address.key)
        for host, callback in self.feeds.get(subject, ()):
            self.net.send(None, host, callback, subject, stored.body)

    def _link(self, stored: Stored) -> None:
        """A record by which one partition speaks to another."""
        address = parse_log(stored.subject)
        subject = link_filter(address.partition, int(address.key))
        self._links.setdefault(subject, []).append(stored)
        self._tell_followers(subject)

    def _tell_followers(self, what: int | str) -> None:
        for position, reply in self._following.pop(what, {}).values():
            self.follow(what, position, None, reply)

    def follow(self, what: int | str, position: int, reader: object, reply: Reply) -> None:
        """Records of a log or of a subject from a sequence on, now or as soon as there are some."""
        if not self.net.up:
            return
        if isinstance(what, int):
            found = self.logs[what][position - 1 :]
        else:
            found = [stored for stored in self._links.get(what, ()) if stored.seq >= position]
        if found:
            reply(found)
        elif reader is not None:
            self._following.setdefault(what, {})[reader] = position, reply

    # --- intake --------------------------------------------------------------------------------------------

    def submit(self, partition: int, subject: str, body: bytes, msg_id: str, reply: Reply) -> None:
        """A publish to the stream of submits, as it reaches the broker."""
        if not self.net.up:
            return
        if self.full:
            self.world.fault("full")
            reply("full", 0)
            return
        seq = self._seen.get(msg_id)
        if seq is None:
            self.submits += 1
            seq = self._seen[msg_id] = self.submits
            self.intakes[partition].append(Stored(seq, subject, body, WALL_START_US + self.world.now_us))
            parked, self._parked[partition] = self._parked[partition], {}
            for position, waiting in parked.values():
                self.pull(partition, position, None, waiting)
        reply("stored", seq)

    def pull(self, partition: int, position: int, reader: object, reply: Reply) -> None:
        """Submits from a position on, now or as soon as there are some."""
        if not self.net.up:
            return
        first = max(position, self.kept_from[partition])
        found = [stored for stored in self.intakes[partition] if stored.seq >= first]
        if found:
            reply(found)
        elif reader is not None:
            self._parked[partition][reader] = position, reply

    def purge(self, partition: int, up_to: int, reply: Reply) -> None:
        if not self.net.up:
            return
        self.kept_from[partition] = max(self.kept_from[partition], min(up_to, self.submits) + 1)
        reply("stored", 0)

    def last_seq(self, stream: list[Stored], reply: Reply) -> None:
        if self.net.up:
            reply("stored", stream[-1].seq if stream else 0)

    def fetch(self, partition: int, start: int, reply: Reply) -> None:
        """The log from a sequence to its present end."""
        if self.net.up:
            reply("stored", self.logs[partition][start - 1 :])

    # --- restarts ------------------------------------------------------------------------------------------

    def down(self) -> None:
        """The broker is killed: its disk stays, every connection drops."""
        self.net.up = False
        self._parked = [{} for _ in range(PARTITIONS)]
        self._following.clear()

    def back(self) -> None:
        self.net.up = True
