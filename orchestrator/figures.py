"""What an engine counts of itself: plain numbers, added up where the work is done, read whenever asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from writ.schemas.catalog import TENANTS_MAX
from writ.schemas.metrics import RECORDS, SECONDS, Histogram, Names, histogram


@dataclass(slots=True)
class Figures:
    """Since the start of the process, whoever led meanwhile.

    `append` is in microseconds, `batch` in records. `refused` appends were surely not stored, `unknown` ones
    were not answered. `shed` requests were told to ask again, as too many waited.
    `break_glass` is how often somebody connected as the broker's user for emergencies, `floods` how often a
    tenant was kept out, as far as tenants are told by name.
    """

    rounds: int = 0
    append: Histogram = field(default_factory=lambda: histogram(SECONDS))
    batch: Histogram = field(default_factory=lambda: histogram(RECORDS))
    refused: int = 0
    unknown: int = 0
    requests: int = 0
    shed: int = 0
    break_glass: int = 0
    floods: dict[str, int] = field(default_factory=dict[str, int])
    _names: Names = field(default_factory=lambda: Names(TENANTS_MAX))

    def flooded(self, tenant: str) -> None:
        """One more flood, of a tenant that is kept out for it."""
        (name,) = self._names.fold((), tenant)
        self.floods[name] = self.floods.get(name, 0) + 1

    def stored(self, records: int, took_us: int) -> None:
        """One append that succeeded."""
        self.rounds += 1
        self.append.observe(took_us, SECONDS)
        self.batch.observe(records, RECORDS)


class Backlog(NamedTuple):
    """Requests that wait for a round and submits that do, acquires that wait for jobs, and for how many."""

    requests: int
    submits: int
    acquires: int
    slots: int
