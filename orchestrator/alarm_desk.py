"""What Writ's own components raise an alarm about: recorded, so that it cannot be made to have never been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands
from writ.schemas.events import AlarmRaised

from .messages import Asked
from .office import encode
from .round import Round


class AlarmDesk:
    """Each alarm is a record in the tenant whose people are to know of it."""

    def __init__(self) -> None:
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            commands.RaiseAlarm: self._raise,
        }

    def _raise(self, round_: Round, asked: Asked, command: commands.RaiseAlarm) -> None:
        _, component, verb, _ = asked.address
        round_.record(
            command.tenant,
            "incident",
            command.about,
            (AlarmRaised(command.alarm, command.reason),),
            actor=f"writ:{component}",
            cause=verb,
            size_bytes=asked.size_bytes,
        )
        round_.answer(asked.send, encode(commands.Answer(None, round_.position)), verdict_only=False)
