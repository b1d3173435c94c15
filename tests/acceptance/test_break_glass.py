"""Whoever uses the broker's user for emergencies is told of: in the log, and by a metric."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.schemas.events import AlarmKind, AlarmRaised

if TYPE_CHECKING:
    from .conftest import Live
else:
    Live = Any


async def test_the_use_of_break_glass_is_an_alarm_also_after_the_broker_was_started_again(live: Live) -> None:
    """Must hold: privileged acts are alarms. All that Writ itself connects as raises none."""
    start = 1
    for number in range(2):
        key = live.node.broker.key_path("break-glass")
        link = await connect(Target(live.node.url, key), f"person-{number}", inbox_prefix="_INBOX")
        await link.close()
        alarm = await live.until(lambda record: isinstance(record.events[0], AlarmRaised), start)
        (event,) = alarm.events
        assert isinstance(event, AlarmRaised)
        assert (event.alarm, alarm.key, alarm.tenant) == (AlarmKind.BREAK_GLASS, "break-glass", "default")
        assert f"as break-glass, calling itself 'person-{number}'" in event.reason
        assert "127.0.0.1" in event.reason
        start = alarm.seq + 1
        if not number:
            before = live.node.broker
            assert isinstance(before, EmbeddedBroker)
            os.kill(before.pid, signal.SIGKILL)
            async with asyncio.timeout(30):
                while live.node.broker is before or not live.link.is_connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)  # the node starts it again
    assert live.node.engine is not None
    assert live.node.engine.figures.break_glass == 2
