"""Keeps a view in step with its log, and builds it anew beside itself where it must.

A view says what it cannot go on from: it *halts* where the log and the view do not belong together, as nobody
may guess then, and is *away* while its file cannot be written. In both it can be read as it stands.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from writ.broker.ports import AppendFailed
from writ.schemas.chain import Violation

from . import places
from .feed import Feeds, Follower, Halted
from .folded import BATCH_MAX_RECORDS, Folded, Reached, stamp_of
from .helping import FAR_RECORDS, Helper
from .snapshots import Snapshots
from .view import View

log = logging.getLogger("writ.projections")

_NEAR_RECORDS: Final = 1_000
"""So near to the end of the log a new file takes the place of the live one, which waits for it."""

_STEP_RECORDS: Final = 100_000
"""After so many it is looked whether another file was asked for meanwhile."""

_ASKED_S: Final = 0.5
"""How often it is looked whether somebody asks for a new file."""

_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 10.0


class Runner:
    """Runs one view over one log; `path` is where it lives (see `places`).

        feeds = Feeds(log)
        runner = Runner(path, feeds, JobsView)
        await runner.open()
        task = asyncio.create_task(runner.run())
        await runner.wait_for(seq, timeout_s=5)

    `halted` says why the view stopped for good, where it did, and a person must look. `away` says why it
    cannot be written now. `building` is the position of the file that is built beside it, where there is one.
    With a `helper` it is that which folds what is far behind. Where its file is lost it goes on from that of
    its `snapshots`: `restored` is the record that it was of. `folded` is called with the log time of the
    oldest record of each batch when the live file tells of it.
    """

    def __init__(
        self,
        path: Path,
        feeds: Feeds,
        make: Callable[[], View],
        *,
        batch_max: int = BATCH_MAX_RECORDS,
        asked_s: float = _ASKED_S,
        helper: Helper | None = None,
        snapshots: Snapshots | None = None,
        folded: Callable[[int], None] | None = None,
    ) -> None:
        self.path = path
        self.name = make().name
        self.away: str | None = None
        self.restored: int | None = None
        self._feeds = feeds
        self._make = make
        self._batch_max = batch_max
        self._asked_s = asked_s
        self._helper = helper
        self._snapshots = snapshots
        self._folded = folded
        self._live: Folded | None = None
        self._next: Folded | None = None
        self._halts: dict[Folded, str] = {}
        self._reached = Reached()
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._numbers = itertools.count()

    @property
    def digest(self) -> str:
        """Of the newest record that is folded, as it was when it was read."""
        return self._reached.position.digest

    @property
    def position(self) -> int:
        """The sequence of the newest record that the rows tell of."""
        return self._reached.position.seq

    @property
    def epoch(self) -> int:
        """The newest record's; 0 before the first."""
        return self._reached.position.epoch

    @property
    def at(self) -> int:
        """The newest record's log time, in microseconds; 0 before the first."""
        return self._reached.at

    @property
    def outdated(self) -> bool:
        """Whether the file is of another version: it stands still until the one beside it is ready."""
        return self._live is not None and self._live.outdated

    @property
    def building(self) -> int | None:
        return None if self._next is None else self._next.reached.position.seq

    @property
    def halted(self) -> str | None:
        if self._live is not None and self._live in self._halts:
            return self._halts[self._live]
        if self._next is not None and self._next in self._halts:
            return f"what is built anew beside it has halted: {self._halts[self._next]}"
        return None

    async def open(self) -> None:
        """Opens the file, or makes the first. Raises OSError; where the file cannot be read it is away."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if places.newer(self.path) is not None:
            self._snapshots = None  # somebody asked for a file that is made from record 1
        await asyncio.to_thread(places.tidy, self.path)
        try:
            await self._open_live()
        except (sqlite3.Error, AppendFailed) as error:
            self._fails(error)

    async def _open_live(self) -> Folded:
        there = places.live(self.path)
        try:
            folded = await self._from_snapshot() if there is None else await Folded.open(there, self._make())
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # it is damaged
            folded = await self._from_snapshot()
            if folded is None:
                raise
        if folded is None:
            folded = await Folded.open(places.ask(self.path), self._make())
            places.enlive(self.path, folded.path)
        self._live = folded
        self._tell_of(folded)
        if folded.outdated and places.newer(self.path) is None:
            places.ask(self.path)
        return folded

    async def _from_snapshot(self) -> Folded | None:
        """The view as its snapshot has it, living again; None where there is none that fits.

        Raises AppendFailed where the log cannot be asked.
        """
        position = None
        if self._snapshots is not None:
            try:
                position = await self._snapshots.put_back(self.path, stamp_of(self._make()), self._feeds.log)
            except (OSError, Violation) as error:
                log.warning("the snapshot of the view %s cannot be used: %s", self.name, error)
        if position is None:
            return None
        self.restored = position.seq
        await asyncio.to_thread(places.tidy, self.path)
        return await Folded.open(self.path.resolve(), self._make())

    async def close(self) -> None:
        """Closes the files; those who wait are told no. `run` must have ended."""
        folded = [each for each in (self._live, self._next) if each is not None]
        self._live = self._next = None
        for each in folded:
            await each.close()
        self._give_up()

    # --- following --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follows the log, and builds new files when they are asked for, until cancelled."""
        while True:
            keeping = asyncio.create_task(self._keep_live(), name=f"view {self.name}")
            try:
                fresh = await self._build()
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
            try:
                await self._replace(fresh)
            except (sqlite3.Error, OSError, AppendFailed) as error:
                log.warning("the view %s cannot be replaced yet: %r", self.name, error)
                await asyncio.sleep(_PAUSE_MAX_S)

    async def _keep_live(self) -> None:
        """Follows with the live file, again after a while where it cannot be written. Never returns."""
        pause_s = _PAUSE_MIN_S
        while True:
            before = self.position
            try:
                live = self._live or await self._open_live()
                self.away = None
                if not live.outdated:
                    await self._be_helped(live)
                    await self._follow(live)
                await asyncio.get_running_loop().create_future()  # it is read as it stands
            except (sqlite3.Error, OSError, AppendFailed) as error:
                self._fails(error)
            pause_s = _PAUSE_MIN_S if self.position > before else min(2 * pause_s, _PAUSE_MAX_S)
            await asyncio.sleep(pause_s)

    async def _follow(self, folded: Folded, until: int | None = None) -> None:
        """Folds what comes, up to a sequence or for ever. Returns before it where the fold has halted.

        Raises sqlite3.Error where the file cannot be written, and what reading the log raises.
        """
        if folded in self._halts:
            return
        follower: Follower | None = None
        try:
            await folded.resume()
            self._tell_of(folded)
            follower = await self._feeds.follow(folded.reached.position)
            while until is None or folded.reached.position.seq < until:
                batch = await follower.next(self._batch_max)
                # Where we are cancelled it is stored all the same; `resume` looks where the file is.
                fault = await folded.apply(batch)
                self._tell_of(folded)
                if fault is not None:
                    self._halt(folded, fault)
                    return
                if self._folded is not None and folded is self._live:
                    self._folded(batch.records[0].at)
        except Halted as halted:
            self._halt(folded, str(halted))
        except (sqlite3.Error, OSError, AppendFailed):
            raise
        except Exception as error:
            log.exception("the view %s is at fault", self.name)
            self._halt(folded, f"behind record {folded.reached.position.seq}: {error!r}")
        finally:
            if follower is not None:
                follower.leave()

    async def _be_helped(self, folded: Folded) -> None:
        """Stands where a helper has come to, if there is one and it is worth its while."""
        if self._helper is None or folded in self._halts:
            return
        await folded.resume()
        if await self._feeds.log.last_seq() - folded.reached.position.seq < FAR_RECORDS:
            return
        helping = asyncio.ensure_future(self._helper(self.name, folded.path))
        try:
            while not helping.done():
                await asyncio.wait({helping}, timeout=self._asked_s)
                await folded.resume()
                self._tell_of(folded)
        finally:
            helping.cancel()
            (ended,) = await asyncio.gather(helping, return_exceptions=True)
            if isinstance(ended, Exception):
                log.warning("the view %s goes on without help: %r", self.name, ended)

    def _tell_of(self, folded: Folded) -> None:
        if folded is self._live:
            self._reached = folded.reached
            while self._waiting and self._waiting[0][0] <= self.position:
                _tell(heapq.heappop(self._waiting), True)

    def _halt(self, folded: Folded, reason: str) -> None:
        log.error("the view %s has halted: %s", self.name, reason)
        self._halts[folded] = reason
        if folded is self._live:
            self._give_up()

    def _fails(self, error: Exception) -> None:
        log.warning("the view %s is away: %r", self.name, error)
        self.away = f"{type(error).__name__}: {error}"
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self.away += f"; writ views rebuild {self.name} makes it anew from the log"

    # --- building anew ----------------------------------------------------------------------------------

    async def _build(self) -> Folded:
        """The newest file that was asked for, when it has nearly caught up."""
        while True:
            path = places.newer(self.path)
            if path is None:
                await asyncio.sleep(self._asked_s)
                continue
            try:
                if self._next is None:
                    self._next = await Folded.open(path, self._make())
                folded = self._next
                if folded.outdated:
                    path = places.ask(self.path)
                if folded.path != path:
                    await self._drop(folded)
                elif folded in self._halts:
                    await asyncio.sleep(self._asked_s)
                else:
                    await self._be_helped(folded)
                    last, seq = await self._feeds.log.last_seq(), folded.reached.position.seq
                    if last - seq <= _NEAR_RECORDS:
                        return folded
                    await self._follow(folded, until=min(last, seq + _STEP_RECORDS))
            except (sqlite3.Error, OSError, AppendFailed) as error:
                log.warning("the view %s cannot be built anew yet: %r", self.name, error)
                await asyncio.sleep(_PAUSE_MAX_S)

    async def _drop(self, folded: Folded) -> None:
        """Forgets a file that another was asked for instead of."""
        self._next = None
        self._halts.pop(folded, None)
        await folded.close()
        await asyncio.to_thread(places.tidy, self.path)

    async def _replace(self, fresh: Folded) -> None:
        """Puts a new file in the place of the live one, as soon as it tells of no less than that."""
        old = self._live
        enough = await self._feeds.log.last_seq()
        if old is not None and old not in self._halts:
            await old.resume()  # its last batch may have been stored since
            enough = min(enough, old.reached.position.seq)
        await self._follow(fresh, until=enough)
        if fresh in self._halts:
            return
        await asyncio.to_thread(places.enlive, self.path, fresh.path)
        self._live, self._next, self.away, self.restored = fresh, None, None, None
        self._tell_of(fresh)
        log.info("the view %s was built anew, up to record %d", self.name, self.position)
        if old is not None:
            self._halts.pop(old, None)
            await old.close()
        await asyncio.to_thread(places.tidy, self.path)

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait_for(self, position: int, timeout_s: float) -> bool:
        """Whether the view tells of the record `position`, waiting up to `timeout_s` seconds until it does.

        False at once where the view has halted before it.
        """
        if self.position >= position:
            return True
        if self._live in self._halts or timeout_s <= 0:
            return False
        reached: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (position, next(self._numbers), reached))
        try:
            with self._feeds.hurried():
                async with asyncio.timeout(timeout_s):
                    return await reached
        except TimeoutError:
            return False

    async def wait_for_submit(self, epoch: int, seq: int, timeout_s: float) -> bool:
        """Whether the view tells of all submits up to `seq`, waiting up to `timeout_s` seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._reached.source.epoch == epoch and self._reached.source.seq < seq:
            if not await self.wait_for(self.position + 1, until - loop.time()):
                return False
        return True

    def _give_up(self) -> None:
        while self._waiting:
            _tell(self._waiting.pop(), False)


def _tell(waiter: tuple[int, int, asyncio.Future[bool]], answer: bool) -> None:
    if not waiter[2].done():
        waiter[2].set_result(answer)
