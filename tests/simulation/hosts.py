"""The processes of a simulated world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .loop import Host, World
from .plan import HOME

if TYPE_CHECKING:
    from writ.orchestrator.engine import Engine
    from writ.workers import Context, Worker

    from .ports import SimLog, SimWire
    from .watch import Watch


class OrchestratorHost(Host):
    """One orchestrator: an engine for each partition."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.engines: list[tuple[Engine, SimLog]] = []


class WorkerHost(Host):
    """One worker process."""

    def __init__(self, world: World, name: str, watch: Watch) -> None:
        super().__init__(world, name)
        self.watch = watch
        self.worker: Worker | None = None
        self.wire: SimWire | None = None
        self.principal = ""

    async def ask(self, subject: str, body: bytes, timeout_s: float) -> bytes:
        """A request of user code's own."""
        assert self.wire is not None
        return await self.wire.request(subject, body, timeout_s)

    def executes(self, ctx: Context) -> None:
        if self.alive:
            key = f"{ctx.tenant}.{ctx.queue}~{ctx.id}"
            self.watch.executes(self, HOME[ctx.queue], key, ctx.fencing_token, self.name)

    def acts(self, ctx: Context, number: int) -> None:
        """A step does what it does outside."""
        if self.alive:
            place = f"{ctx.tenant}.{ctx.queue}~{ctx.id}"
            self.watch.acts(HOME[ctx.queue], place, number, ctx.fencing_token)

    def dies(self) -> None:
        """User code takes its process with it."""
        if self.alive:
            self.world.fault("task_crash")
            self.fuse = 1


class ClientHost(Host):
    """One client process, with what it is waiting for."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.open: set[str] = set()
