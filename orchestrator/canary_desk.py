"""Verdicts on canaries, as soon as the results of their jobs prove something.

Nothing is owed to memory: what was found is in the state, and a canary that was judged says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from writ.schemas.canaries import Finding
from writ.schemas.facts import Fact

from .consequences import ORCHESTRATOR
from .decide import canary
from .office import Office, encode
from .release_desk import at_home
from .round import Round
from .state import Partition

JUDGED = "canary"
"""The cause of a verdict's record."""


class CanaryDesk:
    """Judges in the tenant's home, of which other partitions are told only what they have found."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.hurries = False
        """Whether a verdict found no room in the last round."""

    def flush(self, round_: Round) -> None:
        """Records each verdict that the round's own records, or word of other partitions, have decided."""
        self.hurries = False
        for tenant, found in list(findings(self._state)):
            events = verdict(self._state, tenant, found, round_.now)
            if not events:
                continue
            size_bytes = len(encode(events))
            if not round_.has_room(1, size_bytes):
                self.hurries = True
                return
            round_.record(
                *(tenant, "process", found.process, events),
                actor=ORCHESTRATOR,
                cause=JUDGED,
                size_bytes=size_bytes,
            )
            self._office.stir_tenant(tenant)


def findings(state: Partition) -> Iterator[tuple[str, Finding]]:
    """What is decided of canaries of tenants whose home this is: here, and elsewhere."""
    for place, watch in state.watches.items():
        tenant = place.partition(".")[0]
        if watch.decided and state.links.home_of_tenant(tenant) == state.number:
            yield tenant, watch.found(state.number)
    for place, found in state.findings.items():
        yield place.partition(".")[0], found


def verdict(state: Partition, tenant: str, found: Finding, now: int) -> tuple[Fact, ...]:
    """What follows from a finding: for the leader, and for who judges it again."""
    return canary.judge(at_home(state, tenant, found.process, ORCHESTRATOR, now), found)
