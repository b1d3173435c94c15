"""What is asked about the version in which records are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands
from writ.schemas.rejections import Rejection
from writ.schemas.upgrading import CountedRaise

from .decide.upgrade import raise_records
from .messages import Asked
from .office import Office, encode
from .round import Round


class UpgradeDesk:
    """Asked in the host tenant, whose record it is: its owners run the nodes."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            CountedRaise: self._raise,
        }

    def _raise(self, round_: Round, asked: Asked, command: CountedRaise) -> None:
        state = self._office.state
        outcome = raise_records(state.records, command.members, command.asked)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        tenant, principal, verb, _ = asked.address
        if outcome:
            round_.record(
                *(tenant, "partition", str(state.number), outcome),
                actor=principal,
                vouched=False,
                cause=verb,
                size_bytes=asked.size_bytes,
            )
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not outcome)
