"""Every orchestrator is away for ten minutes, or through a change of the clocks: leases and schedules.

All of it in virtual time: the ten minutes are the loop's, for log, orchestrator and worker alike. The same on
a real broker, where only the orchestrator's clock is moved, is `tests/acceptance/test_downtime.py`.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from writ.schemas.events import LeaseExpired
from writ.schemas.lifecycle import State
from writ.schemas.schedules import Overlap, ScheduleFired, ScheduleSkipped

if TYPE_CHECKING:
    from .conftest import Twin
else:
    Twin = Any

AWAY_S = 600
LEASE_S = 10
EVERY_S = 130
MISSED = range(EVERY_S, AWAY_S, EVERY_S)
"""Due times, in seconds from the declaration: the newest is more than a minute old when somebody is back."""

CATCH_UP: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "nothing": ({"catch_up_max": 0}, []),
    "the newest": ({}, [520]),
    "the three newest": ({"catch_up_max": 3}, [260, 390, 520]),
    "all": ({"catch_up_max": 100}, list(MISSED)),
    "none that is old": ({"catch_up_max": 100, "catch_up_within_s": 250}, [390, 520]),
}
"""Each policy, and the due times that it runs where overlap has nothing against it."""


async def away(twin: Twin, seconds: float = AWAY_S) -> None:
    """No orchestrator for so long; then a new one."""
    await twin.crash()
    await asyncio.sleep(seconds)
    await twin.start("back again")
    await twin.settled()


async def grant(twin: Twin, *jobs: str) -> list[dict[str, Any]]:
    await twin.submit([{"task": "t", "id": job, "lease_s": LEASE_S} for job in jobs])
    leases = await twin.acquire(len(jobs), wait_s=1)
    assert len(leases) == len(jobs)
    return leases


async def test_no_lease_expires_on_the_stopped_clock(twin: Twin) -> None:
    """Must hold: after 10 minutes of downtime of every orchestrator no lease has expired on the stopped
    clock. The worker that renews goes on; the one that does not loses its lease a whole `lease_s` later.
    """
    alive, silent = await grant(twin, "alive", "silent")
    await away(twin)
    assert {twin.job(job).state for job in ("alive", "silent")} == {State.RUNNING}
    for _ in range(2 * LEASE_S):
        assert "lost" not in await twin.report("renew", alive)
        await asyncio.sleep(1)
    (expired,) = await twin.events(LeaseExpired)
    assert isinstance(expired, LeaseExpired)
    assert expired.token == silent["token"]
    (elected,) = [r for r in await twin.records() if r.cause == "election"][-1:]
    assert expired.expires_at == elected.at + LEASE_S * 1_000_000
    assert "refused" not in await twin.report("complete", alive)
    await twin.check()


@pytest.mark.parametrize("live", [False, True], ids=["idle", "one live"])
@pytest.mark.parametrize("overlap", list(Overlap))
@pytest.mark.parametrize("policy", CATCH_UP)
async def test_schedules_catch_up_by_their_policy(
    twin: Twin, policy: str, overlap: Overlap, live: bool
) -> None:
    """Must hold: after 10 minutes of downtime schedules catch up by their policy; the whole matrix of overlap
    and catch-up policies, with a job of the schedule that was running all the while and without.
    """
    fields, caught_up = CATCH_UP[policy]
    spec = {"task": "t", "every_s": EVERY_S, "overlap": overlap, "lease_s": LEASE_S, **fields}
    assert "error" not in await twin.ask("declare_schedule", name="s", spec=spec)
    begun = (await twin.records())[-1].at
    before: tuple[str, ...] = ()
    if live:
        before = tuple((await twin.ask("trigger_schedule", name="s"))["jobs"])
        assert len(await twin.acquire()) == 1
    await away(twin)
    fired = [e for e in await twin.events(ScheduleFired) if isinstance(e, ScheduleFired)]
    skipped = [e for e in await twin.events(ScheduleSkipped) if isinstance(e, ScheduleSkipped)]
    at = [round((event.due_at - begun) / 1_000_000) for event in fired]
    jobs = [event.job for event in fired]
    match overlap:
        case Overlap.ALLOW | Overlap.QUEUE:
            assert at == list(caught_up)
        case Overlap.CANCEL_RUNNING:
            assert at == list(caught_up)[-1:]
        case Overlap.SKIP:
            assert at == ([] if live else list(caught_up)[-1:])
    assert len(fired) + sum(event.count for event in skipped) == len(MISSED)
    for number, event in enumerate(fired):
        job = twin.job(event.job)
        behind = {
            Overlap.QUEUE: (*before, *jobs[:number]),
            Overlap.CANCEL_RUNNING: before,
        }.get(overlap, ())
        assert event.after == behind
        assert event.cancelled == (before if overlap is Overlap.CANCEL_RUNNING else ())
        assert job.state is (State.SUSPENDED if behind else State.PENDING)
        assert job.after == tuple(f"mail~{one}" for one in behind)
    for one in before:
        assert twin.job(one).state is State.RUNNING
        assert (twin.job(one).cancel is not None) == (overlap is Overlap.CANCEL_RUNNING and bool(fired))
    await twin.check()


# --- changes of the clocks ------------------------------------------------------------------------------

SPRING = datetime.datetime(2026, 3, 28, 22, 50, tzinfo=datetime.UTC)
AUTUMN = datetime.datetime(2026, 10, 24, 21, 50, tzinfo=datetime.UTC)
NIGHTS: dict[str, tuple[datetime.datetime, float, dict[str, list[str]]]] = {
    # Before each night begins in Berlin, how many hours are looked at, and the times in UTC. In spring
    # 02:00 to 03:00 is left out at 01:00 UTC, in autumn it comes twice, and the second begins at 01:00 UTC.
    "spring": (
        SPRING,
        4.3,
        {
            "30 2 * * *": ["01:00"],
            "30 * * * *": ["23:30", "00:30", "01:30", "02:30"],
            "30 0-23 * * *": ["23:30", "00:30", "01:00", "01:30", "02:30"],
        },
    ),
    "autumn": (
        AUTUMN,
        6.3,
        {
            "30 2 * * *": ["00:30"],
            "30 * * * *": ["22:30", "23:30", "00:30", "01:30", "02:30", "03:30"],
            "30 0-23 * * *": ["22:30", "23:30", "00:30", "02:30", "03:30"],
        },
    ),
}


@pytest.mark.parametrize("down", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("night", NIGHTS)
async def test_cron_across_a_change_of_the_clocks(
    twin: Twin, night: str, down: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must hold: cron across both changes of daylight saving time, with an orchestrator that lives through
    the change, and with none: then what was missed is caught up with, and it is the same.
    """
    monkeypatch.setattr("writ.orchestrator.engine.BEAT_S", 600)  # hours pass in which nobody else listens
    begin, hours, expected = NIGHTS[night]
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    await away(twin, (begin - now).total_seconds())
    for number, cron in enumerate(expected):
        fields = {"cron": cron, "tz": "Europe/Berlin", "overlap": "allow", "catch_up_max": 100}
        assert "error" not in await twin.ask(
            "declare_schedule", name=f"s{number}", spec=fields | {"task": "t"}
        )
    await (away(twin, hours * 3_600) if down else asyncio.sleep(hours * 3_600))
    await twin.settled()
    fired: dict[str, list[str]] = {cron: [] for cron in expected}
    for record in await twin.records():
        for event in record.events:
            if isinstance(event, ScheduleFired):
                moment = datetime.datetime.fromtimestamp(event.due_at / 1_000_000, datetime.UTC)
                cron = list(expected)[int(record.key.removeprefix("mail~s"))]
                fired[cron].append(f"{moment:%H:%M}")
    assert fired == expected
    assert not await twin.events(ScheduleSkipped)
    await twin.check()
