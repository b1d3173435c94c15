"""The limit: how fast the same messages can be stored when nothing is decided, chained or answered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client as Nats

from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.streams import api

from .figures import Limit

BATCH: Final = 1_000
MOST_RECORDS: Final = 20_000
TRIES: Final = 3

Written = tuple[str, bytes]
"""A message's subject and body."""


async def measure_limit(directory: Path, messages: Sequence[Written]) -> Limit:
    """Stores the messages in atomic batches of 1,000, one after the other, three times; the best counts.

    The broker is another one in `directory`, configured as the node's is; the stream is a plain one. Few
    messages are taken again and again, to fill five batches at least.
    """
    count = min(MOST_RECORDS, max(5 * BATCH, len(messages) // BATCH * BATCH))
    chosen = list(islice(cycle(messages), count))
    size = sum(len(subject) + len(body) for subject, body in chosen)
    rates: list[float] = []
    async with await EmbeddedBroker.start(directory) as broker:
        link = await connect(Target(broker.url, broker.key_path("log")), "bench-limit", inbox_prefix="_INBOX")
        try:
            for number in range(TRIES):
                rates.append(count / await _store(link, f"LIMIT_{number}", chosen))
        finally:
            await link.close()
    best = max(rates)
    return Limit(count, tuple(round(rate) for rate in rates), round(best), round(best * size / count))


async def _store(link: Nats, stream: str, messages: Sequence[Written]) -> float:
    """Seconds that storing the messages takes, in a stream made and deleted for it."""
    config: dict[str, Any] = {
        "name": stream,
        "subjects": ["writ.log.>"],
        "storage": "file",
        "allow_atomic": True,
    }
    await api(link, f"STREAM.CREATE.{stream}", config)
    begun = time.perf_counter()
    for start in range(0, len(messages), BATCH):
        batch = messages[start : start + BATCH]
        head = {"Nats-Batch-Id": f"{stream}-{start}"}
        for index, (subject, body) in enumerate(batch[:-1], 1):
            await link.publish(subject, body, headers=head | {"Nats-Batch-Sequence": str(index)})
        subject, body = batch[-1]
        last = head | {"Nats-Batch-Sequence": str(len(batch)), "Nats-Batch-Commit": "1"}
        answer = await link.request(subject, body, timeout=30, headers=last)
        if b'"error"' in answer.data:
            raise RuntimeError(f"the broker refused a plain batch: {answer.data.decode()}")
    seconds = time.perf_counter() - begun
    await api(link, f"STREAM.DELETE.{stream}")
    return seconds
