"""How a component of Writ has an alarm recorded: it tells the leader, and looks for it in the log."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from writ.schemas.commands import RaiseAlarm
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.subjects import NO_QUEUE, control_subject, log_subject

from .hardened import HardenedClient
from .ports import Log, OutcomeUnknown

_WAIT_S: Final = 5.0
_POLL_S: Final = 0.1


async def raise_alarm(nats: HardenedClient, log: Log, component: str, alarm: RaiseAlarm) -> None:
    """Returns when the alarm is in the log. Raises OutcomeUnknown where it is not after some seconds.

    There is no answer to wait for: who answers requests may reply to other accounts alone, and the connection
    of the user `log`, which this must be, is of Writ's own.
    """
    before = await log.last_seq()
    subject = control_subject(SYSTEM_TENANT, component, "raise_alarm", NO_QUEUE)
    await nats.publish(subject, msgspec.json.encode(alarm))
    recorded = log_subject(log.partition, alarm.tenant, "incident", alarm.about)
    for _ in range(round(_WAIT_S / _POLL_S)):
        async for found in log.read(before + 1, [recorded]):
            if found:
                return
        await asyncio.sleep(_POLL_S)
    raise OutcomeUnknown(f"nobody has recorded the alarm: {alarm.reason}")
