"""The log page by page: whole for whoever is alone in it, and never another tenant's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from writ.projections import stretch_pages
from writ.projections.stretch_pages import stretch_page
from writ.schemas.events import JobSubmitted
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.links import JobAsked, JobTold, MessageSent
from writ.schemas.queries import StretchPage, StretchQuery
from writ.schemas.sealed import seal
from writ.schemas.states import State

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History, ListLog


async def pages(log: ListLog, tenant: str, limit: int = 10_000) -> list[StretchPage]:
    """All pages, as a reader asks for them."""
    found: list[StretchPage] = []
    while not found or found[-1].upto < found[-1].last:
        query = StretchQuery(after=found[-1].upto if found else 0, limit=limit)
        found.append(await stretch_page(log, tenant, query, await log.last_seq(), (7, "abc")))
    return found


def seqs(found: list[StretchPage]) -> list[int]:
    return [view.seq for page in found for view in page.records]


@pytest.mark.parametrize("limit", [1, 7, 10_000])
async def test_pages_are_the_log_as_stored(limit: int, history: Histories) -> None:
    told = history.wander(4, 60)
    found = await pages(told.log(3, 9), "default", limit)
    bodies = [bytes(view.record) for page in found for view in page.records]
    assert bodies == [stored.body for stored in told.records]
    assert all(page.whole for page in found)
    assert (found[0].position, found[0].digest, found[0].last) == (7, "abc", len(told.records))


async def test_a_page_has_room_for_one_record_at_least(
    history: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = history.wander(4, 20)
    monkeypatch.setattr(stretch_pages, "PAGE_MAX_BYTES", 10)
    found = await pages(told.log(), "default")
    assert [len(page.records) for page in found] == [1] * len(told.records)


def two_tenants(history: Histories) -> History:
    told = history().elected()
    told.submitted()
    told.add("job", "mail~x", (JobSubmitted("secret.task", seal(b'"theirs"')),), tenant="other")
    told.add("worker", "w1", (), tenant="other")
    for content in (JobAsked("default", "mail~a"), JobTold("other", "mail~x", 3, State.DEAD, seal(b'"out"'))):
        told.add("link", "1", (MessageSent(content),), tenant=SYSTEM_TENANT)
    told.barrier()
    return told


@pytest.mark.parametrize("limit", [1, 10_000])
async def test_what_another_tenant_did_is_left_out(limit: int, history: Histories) -> None:
    told = two_tenants(history)
    mine, theirs = await pages(told.log(), "default", limit), await pages(told.log(), "other", limit)
    assert seqs(mine) == [1, 2, 5, 7]
    assert seqs(theirs) == [1, 3, 4, 6, 7]
    assert not all(page.whole for page in mine)
    assert b"theirs" not in b"".join(bytes(view.record) for page in mine for view in page.records)
    assert mine[-1].upto == 7
