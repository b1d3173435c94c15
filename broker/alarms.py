"""How a component of Writ has an alarm recorded: it tells the leader, and waits for it in what logs tell."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import msgspec
from nats.errors import Error

from writ.schemas.commands import RaiseAlarm
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.subjects import NO_QUEUE, control_subject, feed_subject

from .hardened import HardenedClient
from .ports import OutcomeUnknown

_WAIT_S: Final = 5.0


async def raise_alarm(nats: HardenedClient, component: str, alarm: RaiseAlarm) -> None:
    """Returns when the alarm is in the log of whoever leads the partition of Writ's own requests.

    Raises OutcomeUnknown where it is not after some seconds. There is no answer to wait for: who answers
    requests may reply to other accounts alone, and the connection of the user `log`, which this must be, is
    of Writ's own.
    """
    recorded = asyncio.Event()

    def took(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        recorded.set()

    feed = await nats.feed(feed_subject(alarm.tenant, "incident", alarm.about), took)
    try:
        await nats.flush()
        subject = control_subject(SYSTEM_TENANT, component, "raise_alarm", NO_QUEUE)
        await nats.publish(subject, msgspec.json.encode(alarm))
        async with asyncio.timeout(_WAIT_S):
            await recorded.wait()
    except TimeoutError as silent:
        raise OutcomeUnknown(f"nobody has recorded the alarm: {alarm.reason}") from silent
    finally:
        with suppress(Error):  # of a connection that is gone
            await feed.unsubscribe()
