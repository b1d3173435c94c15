"""The node's hold on the process of its views, and what it says for it while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from writ.broker.spread import ALONE, Spread
from writ.children.keeper import Child

from .places import views_folder

if TYPE_CHECKING:
    from writ.schemas.queries import PartitionStatus, ViewStatus


class Settings(msgspec.Struct, frozen=True):
    """What the process is told; the keys are paths of seed files, the directory is the node's.

    `checkpoints` are places for copies of the node's own, by address; with `audit_mirror` the log is
    mirrored. `spread` is how streams that are made are kept.
    """

    directory: str
    url: str
    log_key: str
    answer_key: str
    system_key: str
    partition: int
    log_epoch: int
    submit_epoch: int
    version: str
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    search: bool = False
    checkpoints: tuple[str, ...] = ()
    audit_mirror: bool = False
    spread: Spread = ALONE


class Views(Child[Settings]):
    """The process of the views of a partition of the node in `directory`, from `spawn` to `stop`."""

    def __init__(self, directory: Path, partition: int = 0) -> None:
        self._directory = directory.absolute() / views_folder(partition)
        self._answers: Any = None
        self._standing: Callable[[], PartitionStatus] | None = None
        name = "the views" if partition == 0 else f"the views of partition {partition}"
        super().__init__(name, "writ.views", str(self._directory))

    def speaks_for(self, answers: Any, standing: Callable[[], PartitionStatus]) -> None:
        """While the process is away, queries on the connection `answers` are told so."""
        self._answers, self._standing = answers, standing

    @asynccontextmanager
    async def _absence(self, settings: Settings) -> AsyncGenerator[None]:
        from writ.broker.queries import serve_queries

        standing = self._standing
        if standing is None:  # of another partition than the first: whose views say so
            yield
            return

        async def answer(subject: str, _: bytes) -> bytes:
            return await self._speak_for(standing(), settings.version, subject)

        stop_answering = await serve_queries(self._answers, answer)
        try:
            yield
        finally:
            await stop_answering()

    async def _speak_for(self, partition: PartitionStatus, version: str, subject: str) -> bytes:
        """The answer to a query while the process is away."""
        from writ.schemas.commands import Answer
        from writ.schemas.queries import NodeStatus
        from writ.schemas.rejections import Rejection, RejectionKind

        away = f"the process of the views {self.away}"
        if subject.rpartition(".")[2] != "status":
            reason = f"{away}; it is started again"
            return msgspec.json.encode(Answer(Rejection(RejectionKind.TRY_LATER, reason)))
        views = await asyncio.to_thread(self._absent, partition.last_seq, away)
        position = min([view.position for view in views], default=0)
        return msgspec.json.encode(NodeStatus(None, position, version, (partition,), tuple(views)))

    def _absent(self, last: int, away: str) -> list[ViewStatus]:
        """The views as their files tell of them."""
        import sqlite3

        from writ.projections.folded import reached_in
        from writ.projections.registry import VIEWS
        from writ.schemas.queries import ViewStatus

        views: list[ViewStatus] = []
        for name in [make().name for make in VIEWS]:
            position, why = 0, away
            try:
                position = reached_in(self._directory / f"{name}.db").position.seq
            except sqlite3.Error as error:
                why = f"{away}, and its position is not known: {error}"
            views.append(ViewStatus(name, position, max(0, last - position), None, why))
        return views
