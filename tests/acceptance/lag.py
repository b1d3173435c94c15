"""A long way on loopback: a proxy that holds back all that passes, and now and then loses some of it.

What TCP makes of a lost packet is that it, and all behind it, come later by the time to send it anew.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

CHUNK_BYTES = 16_384


class Lag:
    """In front of a port of 127.0.0.1: `delay_s` each way, and for one chunk in `1 / loss` `again_s` more."""

    def __init__(self, to: int, delay_s: float, loss: float, again_s: float, seed: int) -> None:
        self._to = to
        self._delay_s = delay_s
        self._loss = loss
        self._again_s = again_s
        self._rng = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._plugged = asyncio.Event()
        self._plugged.set()
        self._refusing = False
        self.port = 0
        self.lost = 0

    async def open(self) -> None:
        """Listens on a free port from here on."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, *, refusing: bool = False) -> None:
        """Breaks every connection; with `refusing` there is none from here on, until `mend`."""
        self._refusing = refusing
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def mend(self) -> None:
        """Whoever connects is served again."""
        self._refusing = False

    def pull(self) -> None:
        """Pulls the cable: nothing comes and goes, and nobody is told."""
        self._plugged.clear()

    def plug(self) -> None:
        """Puts the cable back: what was on its way comes late."""
        self._plugged.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            for work in (self._take(source, queue), self._give(queue, sink)):
                task = asyncio.create_task(work)
                self._tasks.add(task)

    async def _take(self, source: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES):
                late = self._rng.random() < self._loss
                self.lost += late
                queue.put_nowait((loop.time() + self._delay_s + self._again_s * late, chunk))
        queue.put_nowait((loop.time() + self._delay_s, b""))

    async def _give(self, queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                at, chunk = await queue.get()
                await asyncio.sleep(at - loop.time())
                await self._plugged.wait()
                if not chunk:
                    sink.close()
                    return
                sink.write(chunk)
                await sink.drain()
