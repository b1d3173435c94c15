"""Submits before they are sent: ids for them, refusals that need no orchestrator, and messages of many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from writ.schemas.bounds import SUBMIT_ARRAY_MAX_JOBS
from writ.schemas.commands import SubmitJob
from writ.schemas.faults import NULL, number_fault
from writ.schemas.rejections import Rejection
from writ.schemas.submits import address_fault, malformed, parse

MESSAGE_MAX_BYTES: Final = 900 * 1024
"""Of one array of jobs; the broker takes 1 MiB with headers."""

ARRAY_MAX_RECORDS: Final = 900
"""That an array may become, as it is stored whole: a job with a unique key may end another one."""

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def _crockford(value: int, length: int) -> str:
    """Crockford's base32: digits and letters that sort as the numbers do, without I, L, O and U."""
    return "".join([_ALPHABET[(value >> shift) & 31] for shift in range(5 * (length - 1), -1, -5)])


def new_job_id(wall_ms: int, entropy: Callable[[int], bytes]) -> str:
    """26 characters, sorting by time: 48 bits of milliseconds since 1970, then 80 of chance.

    Source: ULID specification, https://github.com/ulid/spec.
    """
    return _crockford((wall_ms & (2**48 - 1)) << 80 | int.from_bytes(entropy(10), "big"), 26)


def nonce(entropy: Callable[[int], bytes]) -> str:
    """16 characters that nobody can guess."""
    return _crockford(int.from_bytes(entropy(10), "big"), 16)


def check_submit(queue: str, body: bytes, index: int | None = None) -> Rejection | None:
    """Why the orchestrator would refuse a submit whatever its state; None where nothing is wrong."""
    command = parse(body, index)
    if isinstance(command, Rejection):
        return command
    return address_fault(queue, command.id or "", index)


def lost_number(
    job: SubmitJob | Mapping[str, Any], body: bytes, index: int | None = None
) -> Rejection | None:
    """Why a submit is not what its body says: an option is a number that JSON has not. None where it is."""
    if NULL not in body:
        return None
    options = job if isinstance(job, SubmitJob) else {k: v for k, v in job.items() if k != "input"}
    fault = number_fault(options)
    return None if fault is None else malformed(fault[1], fault[0], index)


class Element(NamedTuple):
    """One job as it is sent; `unique` where it has a unique key, so that another may stand for it.

    `word` picks the lane of a queue that has some; None for a job that is counted in the queue itself.
    """

    id: str
    body: bytes
    unique: bool
    word: str | None


def pack(elements: Iterable[Element]) -> Iterator[list[Element]]:
    """Submits gathered to messages: arrays within the bounds of count and size."""
    parts: list[Element] = []
    size, records = 2, 0
    for element in elements:
        more = len(element.body) + 1
        full = len(parts) == SUBMIT_ARRAY_MAX_JOBS or records >= ARRAY_MAX_RECORDS
        if parts and (full or size + more > MESSAGE_MAX_BYTES):
            yield parts
            parts, size, records = [], 2, 0
        parts.append(element)
        size += more
        records += 2 if element.unique else 1
    if parts:
        yield parts


def joined(parts: Iterable[Element]) -> bytes:
    """The body of an array."""
    return b"[" + b",".join([part.body for part in parts]) + b"]"


Publish = Callable[[str, str, bytes, float], Awaitable[int]]
"""Takes a queue, the id of the first job, a body and a time limit in seconds; gives the stream sequence."""


class _Waiting(NamedTuple):
    element: Element
    until: float
    stored: asyncio.Future[tuple[int, int | None]]


class Together:
    """Submits that are made while one of the same queue is on its way go out together after it.

    The broker syncs once for each message: fifty submitters who each wait for their own would wait for fifty
    syncs. One that is alone is sent at once, and nothing waits for others to come.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._lines: dict[str, list[_Waiting]] = {}
        """Of each queue that something is being sent to: what waits meanwhile."""

        self._sending: set[asyncio.Task[None]] = set()

    async def submit(self, queue: str, element: Element, timeout_s: float) -> tuple[int, int | None]:
        """The stream sequence of the message that it is stored in, and its index where that is an array.

        Raises what publishing raises, TimeoutError where its turn has not come within `timeout_s` seconds.
        """
        line = self._lines.get(queue)
        if line is None:
            self._lines[queue] = []
            try:
                return await self._publish(queue, element.id, element.body, timeout_s), None
            finally:
                self._send_next(queue)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(element, loop.time() + timeout_s, loop.create_future())
        line.append(waiting)
        async with asyncio.timeout_at(waiting.until):
            return await waiting.stored

    def _send_next(self, queue: str) -> None:
        waiting = [each for each in self._lines[queue] if not each.stored.done()]
        if not waiting:
            del self._lines[queue]
            return
        count = len(next(pack([each.element for each in waiting])))
        self._lines[queue] = waiting[count:]
        sending = asyncio.get_running_loop().create_task(self._send(queue, waiting[:count]))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _send(self, queue: str, batch: list[_Waiting]) -> None:
        left_s = max(each.until for each in batch) - asyncio.get_running_loop().time()
        alone = len(batch) == 1
        elements = [each.element for each in batch]
        body = elements[0].body if alone else joined(elements)
        try:
            seq = await self._publish(queue, elements[0].id, body, left_s)
        except BaseException as error:
            for each in batch:
                if not each.stored.done():
                    each.stored.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for index, each in enumerate(batch):
                if not each.stored.done():
                    each.stored.set_result((seq, None if alone else index))
        finally:
            self._send_next(queue)
