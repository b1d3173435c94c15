"""What the collector looks through in a process that leads."""

from __future__ import annotations

import asyncio
import gc
import weakref

from writ.orchestrator.garbage import keep_small


class Part:
    """Something that may be part of a cycle."""

    other: Part


async def test_what_lives_is_laid_aside_and_what_is_over_is_not() -> None:
    lives = [Part() for _ in range(1_000)]
    one, two = Part(), Part()
    one.other, two.other = two, one
    over = weakref.ref(one)
    del one, two
    keeping = asyncio.create_task(keep_small())
    try:
        await asyncio.sleep(0)
        assert over() is None
        assert gc.get_freeze_count() > len(lives)
        assert not any(isinstance(each, Part) for each in gc.get_objects())
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
    assert gc.get_freeze_count() == 0
