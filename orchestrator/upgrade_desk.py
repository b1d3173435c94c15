"""What is asked about the version in which records are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands
from writ.schemas.rejections import Rejection
from writ.schemas.upgrading import CountedRaise

from .decide.upgrade import raise_records
from .messages import Asked
from .office import Office
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
        self._office.recorded(round_, asked, "partition", str(state.number), outcome)
