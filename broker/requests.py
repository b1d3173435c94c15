"""Requests of workers and operators over NATS, and the beat of leaders.

Two connections: the one that answers may publish to reply subjects alone, so that no requester can have it
write elsewhere by naming a reply subject; beats go by the other.
"""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from writ.schemas.subjects import leader_subject, led_subject, served
from writ.schemas.upgrading import Member

from .hardened import HardenedClient, readable
from .ports import Serve, Shards
from .presence import be_present, present

log = logging.getLogger("writ.broker")

_WHO_TIMEOUT_S = 0.5
_ROLL_QUIET_S = 1.0
"""A busy orchestrator answers late; of whom nothing is heard for so long, nothing is known."""
_WHO = "who"
"""Stands among the subjects for the one on which a leader says its name."""


class NatsRequests:
    """`Requests` of `ports.py` on two connections, those of the users `answer` and `log`."""

    def __init__(self, answering: HardenedClient, beating: HardenedClient) -> None:
        self._answering = answering
        self._beating = beating
        self._subs: dict[str, Subscription] = {}
        """By subject."""

        self._telling: asyncio.Task[Subscription] | None = None
        self._leader = b""

    async def serve(self, handler: Serve, shards: Shards = None) -> None:
        def take(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
            handler(readable(subject), body, lambda answer: self._send(reply, answer))

        subjects = served(shards)
        try:
            for subject in [each for each in self._subs if each not in subjects and each != _WHO]:
                await self._subs.pop(subject).unsubscribe()
            for subject in subjects:
                if subject not in self._subs:
                    self._subs[subject] = await self._answering.feed(subject, take)
            await self._answering.flush()  # whoever hears that there is a leader must reach it
        except (NatsError, OSError) as lost:
            raise ConnectionError(f"requests cannot be served: {lost}") from lost

    def _send(self, reply: bytes, body: bytes) -> None:
        if not reply:
            return
        try:
            self._answering.put(reply, body)
        except (NatsError, OSError) as lost:
            log.warning("an answer could not be sent; its requester will ask again: %s", lost)

    async def stop(self) -> None:
        # May be cancelled at any point and called again: nothing is let go of before it is ended.
        if self._telling is not None:
            await asyncio.wait({self._telling})
            if not self._telling.cancelled() and self._telling.exception() is None:
                self._subs[_WHO] = self._telling.result()
            self._telling = None
        while self._subs:
            subject = next(reversed(self._subs))
            try:
                await self._subs[subject].unsubscribe()
            except (NatsError, OSError) as lost:
                log.debug("unsubscribing: %s", lost)
            self._subs.pop(subject, None)

    async def who(self, partition: int) -> str | None:
        try:
            answer = await self._beating.request(f"{leader_subject(partition)}.who", timeout=_WHO_TIMEOUT_S)
        except (NatsError, OSError, TimeoutError):
            return None
        return answer.data.decode(errors="replace")

    async def beat(self, partition: int, leader: str) -> None:
        self._leader = leader.encode()
        try:
            if self._telling is None or (self._telling.done() and self._telling.exception() is not None):
                self._telling = asyncio.create_task(self._tell_who(partition))
            # Shielded: were it cancelled half way, nobody could take the subscription back.
            await asyncio.shield(self._telling)
            self._beating.put(leader_subject(partition).encode(), self._leader)
        except (NatsError, OSError) as lost:
            raise ConnectionError(str(lost)) from lost

    async def announce(self, partition: int) -> None:
        try:
            self._beating.put(led_subject(partition).encode(), b"")
            await self._beating.flush()
        except (NatsError, OSError, TimeoutError) as lost:
            raise ConnectionError(str(lost)) from lost

    async def resign(self, partition: int) -> None:
        try:
            self._beating.put(leader_subject(partition).encode(), b"")
            await self._beating.flush()
        except (NatsError, OSError, TimeoutError) as lost:
            raise ConnectionError(str(lost)) from lost

    async def attend(self, partition: int, member: Member, written: Callable[[], int]) -> None:
        await be_present(self._beating, partition, member, written)

    async def roll(self, partition: int) -> tuple[Member, ...]:
        try:
            found = await present(self._beating, partition, _ROLL_QUIET_S)
        except (NatsError, OSError) as lost:
            raise ConnectionError(str(lost)) from lost
        return tuple([each.member for each in found])

    async def _tell_who(self, partition: int) -> Subscription:
        return await self._beating.subscribe(f"{leader_subject(partition)}.who", cb=self._tell)

    async def _tell(self, msg: Msg) -> None:
        await msg.respond(self._leader)

    async def hear(self, partition: int, heard: Callable[[str], None]) -> None:
        def take(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
            heard(body.decode(errors="replace"))

        await self._beating.feed(leader_subject(partition), take)
