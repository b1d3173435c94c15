"""The histories of jobs looked at last, folded: a page that is asked for again reads only what is new."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from writ.cli.fetch import PAGE_RECORDS
from writ.orchestrator.replay.history import Step, steps_of_views

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.schemas.queries import JobView, RecordView

KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of records; the one looked at last is kept whatever it has."""


class History(NamedTuple):
    """A job as its view shows it, its records with what moves its leases, and the steps they tell of."""

    view: JobView
    records: list[RecordView]
    steps: list[Step]

    @property
    def size_bytes(self) -> int:
        return sum(len(bytes(each.record)) for each in self.records)


class Histories:
    """Histories by who looked: what one person may read is no other's."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, str, str], History] = OrderedDict()

    async def of(self, client: Client, queue: str, id: str) -> History:
        """The history of a job, up to its newest record.

        The view is asked for each time, so whoever may not read the job any more is denied. Raises as
        `Client.job`, and HistoryError.
        """
        place = (client.target.tenant, client.target.principal, queue, id)
        view = await client.job(id, queue)
        kept = self._kept.pop(place, None)
        if kept is not None and kept.view.seq > view.seq:
            kept = None  # another log
        if kept is None or kept.view != view or view.finished_at is None:
            records = [] if kept is None else list(kept.records)
            view = await _read(client, view, records)
            same = kept is not None and len(kept.records) == len(records)
            steps = kept.steps if kept and same else await asyncio.to_thread(steps_of_views, records)
            kept = History(view, records, steps)
        self._kept[place] = kept
        self._make_room()
        return kept

    def _make_room(self) -> None:
        room = KEPT_BYTES
        for place in reversed(list(self._kept)):
            room -= self._kept[place].size_bytes
            if room < 0 and place != next(reversed(self._kept)):
                del self._kept[place]


async def _read(client: Client, view: JobView, records: list[RecordView]) -> JobView:
    """Adds what came after the last of the records; the view is of the same record of the job."""
    while True:
        while True:
            after = records[-1].seq if records else 0
            page = await client.records(view.id, view.queue, after=after, limit=PAGE_RECORDS, context=True)
            records += page.records
            if not page.more or not page.records:
                break
        seq, view = view.seq, await client.job(view.id, view.queue)
        if view.seq == seq:
            return view
