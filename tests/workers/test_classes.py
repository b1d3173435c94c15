"""How an attempt ends decides the class of its error, and that what becomes of its job; told by the log."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from writ import Cancelled, Context, FailJob, JobCancelled, JobFailed, Retry, RetryAfter, State, task, testing
from writ.orchestrator.replay.verify import verify
from writ.schemas.commands import Acquire
from writ.schemas.events import AttemptFailed, RetryScheduled
from writ.schemas.sealed import unseal
from writ.schemas.subjects import lease_subject
from writ.testing import System

ONCE = Retry(max_attempts=1)
TWICE = Retry(max_attempts=2, initial_interval_s=1)


class FourEyes(FailJob):
    """A rule of the user's own."""


@task
async def ends(how: str, ctx: Context) -> Any:
    match how:
        case "raises":
            raise ValueError("no such invoice")
        case "later":
            raise RetryAfter(60, "come back")
        case "rule":
            raise FourEyes("four eyes are needed")
        case "hangs":
            await asyncio.sleep(1e6)
        case "gives up":
            raise Cancelled("enough")
        case "odd":
            return object()
        case "large":
            return "x" * 300_000
        case _:
            raise RuntimeError("x" * 10_000_000)


@pytest.mark.parametrize(
    ("how", "class_", "type_", "words", "reason"),
    [
        ("raises", "application", "ValueError", "no such invoice", "exhausted"),
        ("later", "application", "RetryAfter", "come back", "exhausted"),
        ("rule", "policy", "FourEyes", "four eyes are needed", "policy"),
        ("hangs", "timeout", "AttemptTimeout", "", "exhausted"),
        ("odd", "application", "OutputNotSerializable", "object", "exhausted"),
        ("large", "application", "OutputTooLarge", "300002 bytes", "exhausted"),
        ("long", "application", "RuntimeError", "cut: 10000000 characters in all", "exhausted"),
    ],
)
@testing.virtual
async def test_a_failure_has_its_class_type_and_bounded_text(
    how: str, class_: str, type_: str, words: str, reason: str
) -> None:
    async with System([ends]) as system:
        options: dict[str, Any] = {"retry": TWICE, "attempt_timeout_s": 30}
        job = await system.client.submit("test", "ends", {"how": how}, **options)
        with pytest.raises(JobFailed):
            await system.client.result(job)
        view = await system.client.job(job.id)
        assert view.dead_reason == reason
        events = [event for record in await system.records() for event in record.events]
        failed = [event for event in events if isinstance(event, AttemptFailed)]
        assert len(failed) == (1 if class_ == "policy" else 2), "a rule is never tried again"
        error = failed[-1].error
        assert (error.class_, error.type) == (class_, type_)
        text = "" if error.text is None else unseal(error.text).decode()
        assert words in text
        assert len(text) <= 11_000
        if how == "later":
            (retry,) = [event for event in events if isinstance(event, RetryScheduled)]
            assert retry.retry_after_s == 60
        assert (await verify(system.log)).ok


@testing.virtual
async def test_an_input_that_does_not_fit_names_the_field() -> None:
    async with System([ends]) as system:
        job = await system.client.submit("test", "ends", {"how": 7}, retry=ONCE)
        with pytest.raises(JobFailed, match=r"input\.how: Expected `str`, got `int`"):
            await system.client.result(job)


@testing.virtual
async def test_a_job_that_is_cancelled_ends_as_cancelled_and_not_as_failed() -> None:
    async with System([ends]) as system:
        job = await system.client.submit("test", "ends", {"how": "hangs"}, lease_s=3)
        await system.when(job, State.RUNNING)
        await system.client.cancel(job.id, "test", "no need")
        with pytest.raises(JobCancelled):
            await system.client.result(job)


@testing.virtual
async def test_a_job_whose_workers_vanish_is_poison() -> None:
    """Leases that nobody renews, one after the other; its attempts are not used up by that."""
    async with System() as system:
        job = await system.client.submit("test", "kills", retry=ONCE, lease_s=1)
        await system.client.accepted(job)
        subject = lease_subject("default", "owner", "acquire", "test")
        acquire = msgspec.json.encode(Acquire("vanishing", wait_s=1.0))
        for _ in range(6):
            await system.wire.request(subject, acquire, 10)
            await asyncio.sleep(2)
        with pytest.raises(JobFailed):
            await system.client.result(job, timeout_s=60)
        view = await system.client.job(job.id)
        assert view.dead_reason == "poison"
        assert view.error is not None
        assert view.error.class_ == "poison"
        assert "LeasesLost" in view.error.type
