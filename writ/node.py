"""A running node: the embedded broker, an orchestrator in this process, the views in one of their own."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from writ.broker.alarms import raise_alarm
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect
from writ.broker.doors import DEFAULT_TENANT, OWNER
from writ.broker.embedded import EmbeddedBroker
from writ.broker.gate import LIFE_S
from writ.broker.glass import BREAK_GLASS
from writ.broker.joined import JoinedBroker
from writ.broker.note_places import absolute
from writ.broker.owned import DEFAULT_DIRECTORY, BrokerStartError
from writ.broker.ports import AppendFailed
from writ.broker.queries import teller
from writ.broker.refusals import TOLD_BURST, TOLD_PER_S, Refusals, tell_refusals
from writ.broker.spread import ALONE, Spread
from writ.orchestrator.engine import Engine
from writ.orchestrator.logtime import Budget
from writ.schemas import catalog
from writ.schemas.bounds import LIVE_MAX, REASON_MAX_CHARS
from writ.schemas.commands import RaiseAlarm
from writ.schemas.events import AlarmKind
from writ.schemas.hosting import HOST_TENANT
from writ.schemas.metrics import told
from writ.schemas.queries import PartitionStatus
from writ.schemas.subjects import log_stream
from writ.schemas.upgrading import RECORDS

from .archiving import Archiving
from .children.gate import Settings as GateSettings
from .children.gate import second_gate
from .children.leader import Settings as LeaderSettings
from .engines import make_logs, replace_file, wire_engine
from .joining import Join
from .metrics.components import component
from .metrics.of_engine import of_engine
from .metrics.processes import process
from .partitions import Partitions
from .principals import Doorkeeper, founders, owner_of
from .scrubbing import Scrubbing
from .space import RESERVE_BYTES, Space
from .views.keeper import Settings, Views

if TYPE_CHECKING:
    from writ.broker.accounts import BrokerSettings, Principal
    from writ.broker.tls import TlsFiles
    from writ.schemas.metrics import Family

    from .http.keeper import Http

log = logging.getLogger("writ.node")

NODE_FILE: Final = "node.json"
LOOPBACK: Final = "127.0.0.1"
_ENGINE: Final = "orchestrator"
_AGAIN_S: Final = 1.0
_STARTS: Final = 3
"""Of a broker that died, before the node gives up."""

_BEGUN_S: Final = 20.0
"""How long the node waits for the other partitions as it starts."""

SCRUB_EVERY_S: Final = 6 * 3_600.0


class AuditCopies(NamedTuple):
    """What is kept of the log beside it: addresses for copies of its checkpoints, and a mirror."""

    checkpoints: tuple[str, ...] = ()
    mirror: bool = False


class NodeInfo(msgspec.Struct, frozen=True):
    """What `node.json` in the directory says of a running node."""

    pid: int
    url: str
    tenant: str
    principal: str
    key_path: str
    version: str
    http_url: str | None = None
    token_path: str | None = None


def running_node(directory: Path) -> NodeInfo | None:
    """The node that runs in a directory, as it wrote it down; None where there is none."""
    try:
        info = msgspec.json.decode((directory / NODE_FILE).read_bytes(), type=NodeInfo)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return info if _alive(info.pid) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Node:
    """Everything that `writ up` runs. Make it with `start`; it stops with `stop`, or when a part fails."""

    def __init__(
        self,
        directory: Path,
        broker: EmbeddedBroker | JoinedBroker,
        views: Views,
        http: Http | None = None,
        spread: Spread = ALONE,
    ) -> None:
        self.directory = directory
        self.broker = broker
        self.http = http
        self._spread = spread
        self.engine: Engine | None = None
        self._links: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._glass: asyncio.Queue[str] = asyncio.Queue()
        self._others: Partitions | None = None
        self.views = views
        self.gate = second_gate()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.broker.url

    @classmethod
    async def start(
        cls,
        directory: Path = DEFAULT_DIRECTORY,
        port: int | None = None,
        *,
        principals: tuple[Principal, ...] = (),
        views: Views | None = None,
        http: Http | None = None,
        metrics_port: int | None = None,
        metrics_host: str = LOOPBACK,
        search: bool = False,
        audit: AuditCopies | None = None,
        host: str = LOOPBACK,
        tls: TlsFiles | None = None,
        login_life_s: int = LIFE_S,
        live_max: int = LIVE_MAX,
        reads: int = RECORDS,
        join: Join | None = None,
        disk_reserve_bytes: int = RESERVE_BYTES,
        scrub_every_s: float = SCRUB_EVERY_S,
        partitions: int = 1,
    ) -> Node:
        """Returns when the node leads its log and answers queries. `views` may have been spawned before.

        With `http` it serves the HTTP API; `metrics_port` is where the page of metrics of the whole node is
        served, on `metrics_host`, beside that of each part. With `search` the words of inputs and errors are
        indexed. `host` is the address that the broker listens on, `tls` the certificates that it shows,
        `login_life_s` how long a principal's login counts, `live_max` how many jobs may be there that have
        not ended. With `join` no broker is started. Submits are refused while the directory's disk has less
        than `disk_reserve_bytes` left. Records are read and written up to the version `reads`. The whole log
        is read and checked every `scrub_every_s`. There are so many `partitions` at least: logs that are not
        there are made.

        Raises the errors of `EmbeddedBroker.start`, of `JetStreamLog.open`, and RuntimeError where the log
        cannot be folded, ChildFailed where the views do not start.
        """
        if views is None:
            views = Views(directory)
            await views.spawn()  # it loads its modules while the broker starts
        spread = ALONE
        broker: EmbeddedBroker | JoinedBroker
        try:
            if join is None:
                broker = await EmbeddedBroker.start(
                    directory,
                    port,
                    principals,
                    configure=lambda found: replace(found, host=host, tls=tls, login_life_s=login_life_s),
                )
            else:
                broker, spread = await join.open(directory, login_life_s, owns=True)
        except BaseException:
            await views.stop()
            raise
        node = cls(directory, broker, views, http, spread)
        try:
            await node._open(
                *(metrics_port, metrics_host, search, audit or AuditCopies(), live_max, reads),
                *(partitions, scrub_every_s, disk_reserve_bytes),
            )
            if isinstance(broker, EmbeddedBroker):  # the disk of another is not ours to watch
                assert node.engine is not None
                space = Space(directory, disk_reserve_bytes, node.engine, node._own_broker)
                node._spawn(space.keep(), "watch over the disk")
            node._spawn(Scrubbing(directory, scrub_every_s, node.tell_damage).keep(), "scrub")
        except BaseException:
            await node.stop()
            raise
        return node

    def _own_broker(self) -> EmbeddedBroker:
        """The one that runs now: after it has died there is another."""
        assert isinstance(self.broker, EmbeddedBroker)
        return self.broker

    async def _open(
        self,
        metrics_port: int | None,
        metrics_host: str,
        search: bool,
        audit: AuditCopies,
        live_max: int,
        reads: int,
        partitions: int,
        scrub_every_s: float,
        disk_reserve_bytes: int,
    ) -> None:
        logs = await self._link("log", "log")
        answers = await self._link("answer", "answer")
        own = founders(self.broker.founders)
        await make_logs(self.directory, logs, partitions, self._spread)
        wired = await wire_engine(
            *(self.directory, logs, answers),
            founders=own,
            live_max=live_max,
            spread=self._spread,
            reads=reads,
        )
        engine = self.engine = wired.engine
        self._spawn(engine.run(), _ENGINE)
        self._spawn(self._tell(engine, logs), "page of metrics")
        settings = Settings(
            str(self.directory.absolute()),
            self.broker.url,
            str(self.broker.key_path("log")),
            str(self.broker.key_path("answer")),
            str(self.broker.key_path("system")),
            engine.state.number,
            wired.log_epoch,
            wired.intake_epoch,
            version("writ-orchestrator"),
            metrics_port,
            metrics_host,
            search,
            tuple([absolute(address) for address in audit.checkpoints]),
            audit.mirror,
            self._spread,
        )
        others = self._others = Partitions(
            LeaderSettings(
                settings.directory,
                settings.url,
                str(self.broker.key_path("log").parent.absolute()),
                0,
                own,
                live_max,
                self._spread,
                reads,
                disk_reserve_bytes if isinstance(self.broker, EmbeddedBroker) else None,
            ),
            msgspec.structs.replace(settings, metrics_port=None),
            scrub_every_s,
            self.tell_damage,
        )
        self._spawn(others.keep(logs), "keeper of the other partitions")
        self._spawn(self._guard(), "broker guard")
        gate = GateSettings(
            str(self.broker.key_path("gate").parent), self.url, self.broker.settings.login_life_s
        )
        self._spawn(self.gate.keep(gate), "keeper of the second gate")
        self.views.speaks_for(answers, self._standing)
        await self.views.open(settings)
        self._spawn(self.views.keep(settings), "keeper of the views")
        await self._until(engine.is_led)
        with suppress(TimeoutError):
            async with asyncio.timeout(_BEGUN_S):
                await others.begun()
        self._spawn(self._keep_doors(engine, logs), "doorkeeper")
        if isinstance(self.broker, JoinedBroker):
            await self._until(self.broker.admitting)
        if isinstance(self.broker, EmbeddedBroker):  # the log file of another is not ours to read
            budget = Budget(TOLD_BURST, TOLD_PER_S)
            refusals = Refusals(lambda key: owner_of(key, engine.state), DEFAULT_TENANT, budget.take)
            log_file = Path(self.broker.settings.log_file)
            told = tell_refusals(log_file, refusals, teller(logs), SystemClock())
            self._spawn(told, "teller of what the broker refuses")
        self._spawn(self._tell_break_glass(engine, logs), "alarm of break-glass")
        info = self._info()
        if self.http is not None:  # its token is there before anybody can read where it is
            self._spawn(self.http.keep(self.http.settings(info)), "keeper of the HTTP API")
        replace_file(self.directory / NODE_FILE, msgspec.json.encode(info))
        self._spawn(Archiving(self.directory, engine, SystemClock()).keep(), "archiving")

    def _standing(self) -> PartitionStatus:
        """Of our partition, as the engine knows it."""
        engine = self.engine
        assert engine is not None
        state = engine.state
        return PartitionStatus(state.number, state.epoch, engine.leader, state.seq)

    async def _tell(self, engine: Engine, link: Any) -> None:
        """Serves what this process tells of itself."""

        async def source() -> list[Family]:
            pid = self.broker.pid if isinstance(self.broker, EmbeddedBroker) else None
            glass = told(catalog.BREAK_GLASS, engine.figures.break_glass)
            return [*of_engine(engine, link), glass, *process(catalog.BROKER, pid)]

        async with component(self.directory, catalog.ENGINE, source):
            await asyncio.get_running_loop().create_future()

    async def _link(self, user: str, purpose: str) -> Any:
        target = Target(self.broker.url, self.broker.key_path(user))
        link = await connect(target, f"writ:{purpose}", inbox_prefix="_INBOX")
        self._links.append(link)
        return link

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _until(self, event: asyncio.Event) -> None:
        """Waits for an event, or for the first part that fails."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
                if task.done():
                    task.result()
                    raise RuntimeError(f"the {task.get_name()} ended by itself")
        finally:
            waiting.cancel()

    async def wait(self) -> None:
        """Returns when a part ends; raises what ended it."""
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _guard(self) -> None:
        """Starts the broker again where it died by itself: its data are on disk, and everyone reconnects."""
        while True:
            if not isinstance(self.broker, EmbeddedBroker):
                await self.broker.wait()
                continue
            exit_ = await self.broker.wait()
            if exit_.expected:
                return
            log.error("the broker ended by itself with code %s; starting it again", exit_.code)
            await self.broker.stop()
            self.broker = await self._broker_again(self.broker)
            await self.broker.tell_break_glass(self._glass.put_nowait)

    async def _broker_again(self, before: EmbeddedBroker) -> EmbeddedBroker:
        """Starts the broker where and how it was; more than once, as it may be killed while it starts."""
        for left in reversed(range(_STARTS)):
            try:
                return await EmbeddedBroker.start(
                    self.directory, before.port, before.principals, configure=_as(before.settings)
                )
            except BrokerStartError as error:
                if not left:
                    raise
                log.error("the broker did not start: %s; trying %d times more", error, left)
        raise AssertionError("every start either succeeds or raises")

    async def _tell_break_glass(self, engine: Engine, link: Any) -> None:
        """Has each use of the broker's user for emergencies recorded as an alarm."""
        await self.broker.tell_break_glass(self._glass.put_nowait)
        while True:
            words = [await self._glass.get()]
            while not self._glass.empty():
                words.append(self._glass.get_nowait())
            engine.figures.break_glass += len(words)
            more = f", and {len(words) - 1} more" if len(words) > 1 else ""
            log.error("%s: %s%s", AlarmKind.BREAK_GLASS.value, words[0], more)
            alarm = RaiseAlarm(
                tenant=HOST_TENANT, alarm=AlarmKind.BREAK_GLASS, about=BREAK_GLASS, reason=f"{words[0]}{more}"
            )
            await self._record(alarm, link)

    async def _record(self, alarm: RaiseAlarm, link: Any) -> None:
        """Has an alarm recorded, however long that takes."""
        while True:
            try:
                await raise_alarm(link, _ENGINE, alarm)
                return
            except (AppendFailed, ConnectionError, TimeoutError) as error:
                log.warning("the alarm is not recorded yet: %r", error)
                await asyncio.sleep(_AGAIN_S)

    async def tell_damage(self, reason: str, number: int = 0) -> None:
        """Has it recorded in the first log that the log of a partition is not what was stored."""
        alarm = RaiseAlarm(
            tenant=HOST_TENANT,
            alarm=AlarmKind.LOG_DIFFERS,
            about=log_stream(number),
            reason=reason[:REASON_MAX_CHARS],  # a longer one would be refused each time
        )
        await self._record(alarm, self._links[0])

    async def _keep_doors(self, engine: Engine, link: Any) -> None:
        """Whom the broker lets in follows the log; a broker that was started again is told anew."""
        doorkeeper = Doorkeeper(SystemClock())
        await doorkeeper.listen(link)
        while True:
            await doorkeeper.keep(self.broker, engine.state)

    def _info(self) -> NodeInfo:
        return NodeInfo(
            os.getpid(),
            self.broker.url,
            DEFAULT_TENANT,
            OWNER,
            str(self.broker.key_path(OWNER).resolve()),
            version("writ-orchestrator"),
            None if self.http is None else self.http.url,
            None if self.http is None else str(self.http.token_path),
        )

    async def stop(self) -> None:
        """Ends the round at hand, then everything."""
        (self.directory / NODE_FILE).unlink(missing_ok=True)
        if self.engine is not None:
            self.engine.stop()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if task.get_name() == _ENGINE:
                await asyncio.wait([task], timeout=5)
        left = set(tasks)
        while left:  # more than once, as `wait_for` of Python 3.11 may swallow a cancellation
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=1)
        await asyncio.gather(*tasks, return_exceptions=True)
        # Each part is closed whatever became of the others: none may outlive this process.
        web = () if self.http is None else (self.http.stop,)
        others = () if self._others is None else (self._others.stop,)
        for close in (
            *web,
            *others,
            self.views.stop,
            self.gate.stop,
            *[link.close for link in self._links],
            self.broker.stop,
        ):
            try:
                await close()
            except Exception:
                log.exception("a part of the node could not be closed")


def _as(before: BrokerSettings) -> Callable[[BrokerSettings], BrokerSettings]:
    """Has a broker that is started again listen where and how the one before did."""
    return lambda found: replace(found, host=before.host, tls=before.tls, login_life_s=before.login_life_s)
