"""What the readers' gate denies, and how it is told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ.broker.clock import SystemClock
from writ.projections import gate as gates
from writ.projections.asked import Refused
from writ.projections.file import Reader
from writ.projections.gate import Gate
from writ.projections.principals import PrincipalsView
from writ.schemas.granting import NoteDenial
from writ.schemas.principals import TenantCreated
from writ.schemas.queries import Query

if TYPE_CHECKING:
    from tests.histories.builder import Histories
    from tests.projections.conftest import Running, Until

US_PER_S = 1_000_000


@pytest.fixture
def told() -> list[NoteDenial]:
    return []


@pytest.fixture
async def gate(history: Histories, running: Running, told: list[NoteDenial]) -> AsyncIterator[Gate]:
    """Before a tenant in which nobody is known."""
    past = history()
    past.add("tenant", "default", (TenantCreated("new"),))
    async with running(past.log(), "principals.db", make=PrincipalsView) as runner:
        assert await runner.wait_for(1, 10)

        async def caught_up(query: Query, view: str) -> None:
            pass

        async def tell(denial: NoteDenial) -> None:
            told.append(denial)

        reader = Reader(Path(runner.path))
        made = Gate(reader, SystemClock(), caught_up, tell)
        yield made
        await made.close()
        await reader.close()


async def denied(gate: Gate, queue: str = "mail") -> None:
    with pytest.raises(Refused):
        await gate.admit("default", "mallory", "jobs", b'{"queue":"%b"}' % queue.encode())


async def test_repeats_are_told_of_as_their_time_is_over_though_no_other_comes(
    gate: Gate, told: list[NoteDenial], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "FOLD_US", US_PER_S)
    for _ in range(20):
        await denied(gate)
    assert [each.count for each in told] == [1]
    await until(lambda: len(told) > 1)
    assert [each.count for each in told] == [1, 19]
    await denied(gate)
    await until(lambda: len(told) > 2)
    assert [each.count for each in told] == [1, 19, 1]
    assert {(each.principal, each.operation, each.resource) for each in told} == {("mallory", "jobs", "mail")}


async def test_no_denial_is_lost_of_many_resources(
    gate: Gate, told: list[NoteDenial], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "FOLD_US", US_PER_S // 5)
    monkeypatch.setattr(gates, "_FOLDED_MAX", 3)
    for number in range(60):
        for _ in range(2):
            await denied(gate, f"q{number}")
        await asyncio.sleep(0.01)
    await until(lambda: sum(each.count for each in told) == 120)
    assert len(told) < 120
    assert "" in {each.resource for each in told}


async def test_what_was_counted_is_told_of_as_the_gate_closes(gate: Gate, told: list[NoteDenial]) -> None:
    for _ in range(5):
        await denied(gate)
    await gate.close()
    assert [each.count for each in told] == [1, 4]
