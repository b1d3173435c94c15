"""Watches over the log and its streams, and raises an alarm where somebody has been at them.

What happens by the rules leaves streams as they were made, trims no record that is not in the archive, and
goes on from what was signed. All else is an act of somebody with the rights of an admin, or a fault.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec

from writ.broker.archive import ArchiveDamaged, ArchivedLog
from writ.broker.mirror import Mirror
from writ.broker.owned import write
from writ.broker.ports import AppendFailed, Stored
from writ.broker.streams import ApiError, StreamLook
from writ.schemas.chain import Violation
from writ.schemas.events import AlarmKind

from .checkpoints import Checkpointing

log = logging.getLogger("writ.projections")

LOOK_S: Final = 3.0
_COMPARED_AT_ONCE: Final = 5_000
"""Records of the mirror that are compared in one look; where more are left, the next follows at once."""


class Alarm(NamedTuple):
    """What is wrong with what (a stream's name), in words."""

    kind: AlarmKind
    about: str
    reason: str


class Watch:
    """Of one partition. `streams` gives the state of its streams by name, as the broker tells it now.

    `report` has an alarm recorded, and raises AppendFailed where it could not. Each is reported once while it
    stands. `standing` are those that stand now; a change of a stream stands until this process ends.
    """

    def __init__(
        self,
        directory: Path,
        archived: ArchivedLog,
        checkpoints: Checkpointing,
        streams: Callable[[], Awaitable[dict[str, StreamLook]]],
        report: Callable[[Alarm], Awaitable[None]],
        mirror: Mirror | None = None,
        *,
        about: str,
        look_s: float = LOOK_S,
    ) -> None:
        self.standing: dict[AlarmKind, str] = {}
        self.mirror_lag: int | None = None
        number = archived.partition
        self._path = directory / "audit" / ("streams.json" if number == 0 else f"streams-{number}.json")
        self._log = archived
        self._checkpoints = checkpoints
        self._streams = streams
        self._report = report
        self._mirror = mirror
        self._about = about
        self._look_s = look_s
        self._compared = self._mirrored_upto = 0
        self._told: set[Alarm] = set()
        self._known: dict[str, StreamLook] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            behind = False
            try:
                behind = await self.look()
            except (AppendFailed, ApiError, OSError, msgspec.MsgspecError) as error:
                log.warning("the log cannot be watched over now: %r", error)
            await asyncio.sleep(0 if behind else self._look_s)

    async def look(self) -> bool:
        """One look; whether the mirror has more to compare. Raises AppendFailed, ApiError, OSError."""
        changed = await self._changed()
        found = [*changed, *await self._missing(), *self._unsigned(), *await self._differing()]
        self.standing = {each.kind: each.reason for each in found} | {
            kind: reason for kind, reason in self.standing.items() if kind is AlarmKind.STREAM_CHANGED
        }
        for alarm in found:
            if alarm not in self._told:
                log.error("%s: %s: %s", alarm.kind.value, alarm.about, alarm.reason)
                await self._report(alarm)
                self._told.add(alarm)
        self._told &= set(found)
        if changed:
            await asyncio.to_thread(self._write, await self._streams())
        return not found and self._mirrored_upto - self._compared >= _COMPARED_AT_ONCE

    # --- streams ----------------------------------------------------------------------------------------

    async def _changed(self) -> list[Alarm]:
        """What was changed of the streams since they were last looked at, by this process or one before."""
        now = await self._streams()
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        known = self._known
        found = [
            Alarm(AlarmKind.STREAM_CHANGED, name, reason)
            for name, was in known.items()
            if (reason := _difference(was, now.get(name))) is not None
        ]
        if not found and now.keys() != known.keys():
            await asyncio.to_thread(self._write, now)
        return found

    def _read(self) -> dict[str, StreamLook]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, StreamLook])
        except FileNotFoundError:
            return {}

    def _write(self, seen: dict[str, StreamLook]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(self._path, msgspec.json.encode(seen).decode())
        self._known = seen

    # --- records ----------------------------------------------------------------------------------------

    async def _missing(self) -> list[Alarm]:
        """Records that are neither in the log nor in the archive."""
        try:
            first = await self._log.live.first_seq()
            await self._log.archive.refresh()  # behind the other, as what is trimmed was archived before
            has = self._log.archive.last
        except ArchiveDamaged as damaged:
            return [Alarm(AlarmKind.RECORDS_MISSING, self._about, str(damaged))]
        if first <= has + 1:
            return []
        reason = f"records {has + 1} to {first - 1} are neither in the log nor in the archive"
        return [Alarm(AlarmKind.RECORDS_MISSING, self._about, reason)]

    def _unsigned(self) -> list[Alarm]:
        refused = self._checkpoints.refused
        return [] if refused is None else [Alarm(AlarmKind.LOG_DIFFERS, self._about, refused)]

    # --- the mirror -------------------------------------------------------------------------------------

    async def _differing(self) -> list[Alarm]:
        if self._mirror is None:
            return []
        has = await self._mirror.last_seq()
        last = await self._log.last_seq()  # behind the other, as both grow
        self.mirror_lag, self._mirrored_upto = max(0, last - has), has
        if has > last:
            return [self._other(f"the log ends at record {last}, its mirror has {has}")]
        start = max(self._compared + 1, await self._mirror.first_seq())
        upto = min(has, start + _COMPARED_AT_ONCE - 1)
        if upto < start:
            return []
        try:
            theirs = await _upto(self._mirror.read(start), upto)
        except Violation as damaged:
            return [self._other(f"the mirror cannot be read: {damaged}")]
        try:
            ours = await _upto(self._log.read(start), upto)
        except (Violation, ArchiveDamaged) as damaged:
            return [Alarm(AlarmKind.LOG_DIFFERS, self._about, str(damaged))]
        for one, other in zip(ours, theirs, strict=False):
            if one[:3] != other[:3]:
                return [self._other(f"record {one.seq} of the log is another than its mirror has")]
        if len(ours) != len(theirs):
            return [self._other(f"of records {start} to {upto} log and mirror do not have the same")]
        self._compared = upto
        return []

    def _other(self, reason: str) -> Alarm:
        return Alarm(AlarmKind.MIRROR_DIFFERS, self._about, reason)


async def _upto(reading: AsyncIterator[list[Stored]], last: int) -> list[Stored]:
    found: list[Stored] = []
    async with aclosing(cast("AsyncGenerator[list[Stored]]", reading)) as lists:
        async for some in lists:
            found += [each for each in some if each.seq <= last]
            if some[-1].seq >= last:
                break
    return found


def _difference(was: StreamLook, now: StreamLook | None) -> str | None:
    if now is None:
        return "the stream is gone"
    if now.created != was.created:
        return f"the stream was deleted and made anew at {now.created}"
    names = sorted(was.config.keys() | now.config.keys())
    changed = [
        f"{name}: {was.config.get(name)!r} -> {now.config.get(name)!r}"
        for name in names
        if was.config.get(name) != now.config.get(name)
    ]
    return f"its configuration was changed: {', '.join(changed)}" if changed else None
