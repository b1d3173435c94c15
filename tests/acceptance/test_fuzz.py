"""Must hold: malformed inputs to each decoder and edge (submit, lease and control messages, HTTP, CLI files,
bundles, policies): no unhandled error, no hang over 100 ms, no effect on neighbours, a reason for each.

A small run; `make fuzz` sends 50,000 to each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import run as fuzz
from tests.fuzz.edge import Edge, Take
from tests.fuzz.mutations import Mutations

EDGES = 22
FEW = 60


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def test_every_edge_refuses_what_is_malformed_with_a_reason(tmp_path: Path) -> None:
    held = fuzz.run(FEW, 20_260_101, (), tmp_path)
    assert len(held) == EDGES
    for each in held:
        assert each.faults == [], each.edge
        assert each.inputs == FEW
        assert each.refused > FEW / 4, each.line()
        assert each.neighbours >= 2


def test_an_edge_that_fails_hangs_or_gives_no_reason_is_told_of() -> None:
    """The measure itself: each of these is a fault, and what is refused with a reason is none."""

    def held_by(take: Take) -> list[str]:
        edge = Edge("planted", [b"good"], take, Mutations.of_bytes)
        return fuzz.hold(edge, 20, 1).faults

    def good(data: bytes) -> str | None:
        return None if data == b"good" else "it is not good"

    def fails(data: bytes) -> str | None:
        raise KeyError(data)

    def hangs(data: bytes) -> str | None:
        return good(data) if sum(range(12_000_000)) else None

    harmed: list[bytes] = []

    def harms(data: bytes) -> str | None:
        harmed.append(data)
        return "no more" if len(harmed) > 5 else good(data)

    assert held_by(good) == []
    assert "raised" in held_by(fails)[-1]
    assert "without a reason" in held_by(lambda data: None if data == b"good" else " ")[0]
    assert "ms" in held_by(hangs)[0]
    edge = Edge("harmed", [b"good"], harms, Mutations.of_bytes)
    assert "the valid neighbour" in fuzz.hold(edge, 60, 1).faults[0]
