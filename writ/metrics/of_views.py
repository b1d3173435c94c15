"""What the process of the views tells: the log, by the metrics view; each view; the broker's streams."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from writ.broker.clock import SystemClock
from writ.broker.ports import OutcomeUnknown
from writ.broker.streams import ApiError, StreamFigures, figures, stored_us
from writ.projections.measured import families_in
from writ.projections.metrics import MetricsView
from writ.projections.runner import Runner
from writ.schemas import catalog
from writ.schemas.bounds import SECOND_US
from writ.schemas.metrics import Family, of_partition, told
from writ.schemas.subjects import SUBMIT_STREAM, log_stream

from .components import name_in
from .processes import process

log = logging.getLogger("writ.metrics")

_BROKER_MAX_S: Final = 2.0
"""How long the broker may take to tell of its streams before the page does without that."""


async def of_views(runners: Sequence[Runner], directory: Path, partition: int, link: Any) -> list[Family]:
    """`directory` is where the views live, `link` a connection that may ask for the state of streams.

    What all partitions share, the intake and the disk, the views of the first one tell of.
    """
    clock = SystemClock()
    path = directory / f"{MetricsView.name}.db"
    folded, streams = await asyncio.gather(
        asyncio.to_thread(families_in, path, clock.wall_us()), _streams(link, partition)
    )
    newest = streams.get(log_stream(partition))
    views = [await _view(each, newest, link, partition, clock.wall_us()) for each in runners]
    name = name_in(catalog.VIEWS, partition)
    return [
        *of_partition(partition, [*folded, *[family for view in views for family in view]]),
        told(catalog.CONNECTED, int(bool(streams)), name),  # it was just asked, and answered
        *[told(catalog.STREAM_BYTES, each.bytes, name) for name, each in streams.items()],
        *[told(catalog.STREAM_MESSAGES, each.messages, name) for name, each in streams.items()],
        *[told(catalog.REPLICAS, each.replicas.wanted, name) for name, each in streams.items()],
        *[told(catalog.REPLICAS_CURRENT, each.replicas.current, name) for name, each in streams.items()],
        *([] if partition else _disk(directory)),
        *process(name, os.getpid()),
    ]


def _disk(directory: Path) -> list[Family]:
    disk = shutil.disk_usage(directory)
    return [told(catalog.DISK_FREE, disk.free), told(catalog.DISK_SIZE, disk.total)]


async def _streams(link: Any, partition: int) -> dict[str, StreamFigures]:
    """By name; none while the broker does not answer."""
    names = [log_stream(partition)] if partition else [log_stream(partition), SUBMIT_STREAM]
    if not link.is_connected:
        return {}
    try:
        async with asyncio.timeout(_BROKER_MAX_S):
            return dict(
                zip(names, await asyncio.gather(*[figures(link, each) for each in names]), strict=True)
            )
    except (TimeoutError, OutcomeUnknown, ApiError) as silent:
        log.info("the broker does not tell of its streams: %s", str(silent) or "no answer in time")
        return {}


async def _view(
    runner: Runner, newest: StreamFigures | None, link: Any, partition: int, now_us: int
) -> list[Family]:
    """A view's place; how far it is behind is told only where the broker says how long the log is."""
    families = [
        told(catalog.POSITION, runner.position, runner.name),
        told(catalog.HALTED, int(runner.halted is not None), runner.name),
        told(catalog.AWAY, int(runner.away is not None), runner.name),
    ]
    if newest is None:
        return families
    behind = max(0, newest.last_seq - runner.position)
    families.append(told(catalog.LAG_RECORDS, behind, runner.name))
    if not behind:
        return [*families, told(catalog.LAG_SECONDS, 0.0, runner.name)]
    try:
        # Behind since the first record that it does not tell of was stored, not since the one before it.
        async with asyncio.timeout(_BROKER_MAX_S):
            since_us = await stored_us(link, log_stream(partition), runner.position + 1)
    except ApiError:
        since_us = runner.at  # the broker has that record no more: it is in the archive
    except (TimeoutError, OutcomeUnknown):
        return families
    return [*families, told(catalog.LAG_SECONDS, max(0, now_us - since_us) / SECOND_US, runner.name)]
