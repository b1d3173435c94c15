"""A backup's log is that of the world it is taken of, also where the backup before it did not finish."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from writ.broker.archive import Archive
from writ.broker.memory import MemoryLog
from writ.broker.objects import FolderObjects
from writ.broker.ports import Message
from writ.orchestrator.backups import BackupError, copy_logs, log_in
from writ.schemas.backups import LogKept
from writ.schemas.codec import digest

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History

BEHIND = 20
"""Records that the old world adds behind the backup that was restored."""


class Worlds(NamedTuple):
    """Two histories that are the same up to record `fork`: the old one, and what was restored from there."""

    fork: int
    old: History
    new: History


@pytest.fixture
def worlds(history: Histories) -> Worlds:
    old = history.wander(5, 40)
    fork = len(old.records)
    new = copy.deepcopy(old)
    new.after(60)
    for _ in range(3 * BEHIND):
        old.barrier()
        new.barrier()
    return Worlds(fork, old, new)


class Backup:
    """One folder, into which logs are backed up."""

    def __init__(self, root: Path) -> None:
        self.folder, self._node = root / "kept", root / "node"

    async def take(self, of: History, last: int, *before: LogKept, epoch: int = 1) -> tuple[LogKept, int]:
        """What it is of the log then, which ends with record `last`, and how many records came."""
        live = MemoryLog(epoch=epoch)
        stored = [message async for part in of.log().read() for message in part]
        await live.append([Message(each.subject, each.body) for each in stored[:last]], 0)
        archive = Archive(FolderObjects(self.folder / "log" / "0"), 0)
        (kept,), added = await copy_logs(self._node, [live], self.folder, [archive], before)
        read = await log_in(self.folder, kept)
        bodies = [message.body async for part in read.read() for message in part]
        assert bodies == [each.body for each in stored[: kept.last]]
        assert kept.digest == digest(bodies[-1])
        return kept, added


@pytest.fixture
def backup(tmp_path: Path) -> Backup:
    return Backup(tmp_path)


@pytest.mark.parametrize("more", [1, BEHIND // 2, BEHIND, 2 * BEHIND])
async def test_what_an_unfinished_backup_added_is_not_taken_for_the_restored_world(
    worlds: Worlds, backup: Backup, more: int
) -> None:
    """Wherever that world's log ends: before those records, with them or behind them."""
    first, _ = await backup.take(worlds.old, worlds.fork)
    _, added = await backup.take(worlds.old, worlds.fork + BEHIND, first)  # and it ends before its manifest
    assert added == BEHIND
    kept, added = await backup.take(worlds.new, worlds.fork + more, first, epoch=2)
    assert (kept.last, kept.epoch, added) == (worlds.fork + more, 2, more)
    _, added = await backup.take(worlds.new, worlds.fork + more + 5, kept, epoch=2)
    assert added == 5


async def test_what_the_very_first_backup_added_and_did_not_finish_is_taken_anew(
    worlds: Worlds, backup: Backup
) -> None:
    await backup.take(worlds.old, worlds.fork + BEHIND)
    kept, added = await backup.take(worlds.new, worlds.fork + 1)
    assert kept.last == added == worlds.fork + 1


async def test_what_an_unfinished_backup_added_of_the_same_world_is_not_copied_again(
    worlds: Worlds, backup: Backup
) -> None:
    first, _ = await backup.take(worlds.old, worlds.fork)
    await backup.take(worlds.old, worlds.fork + BEHIND, first)
    kept, added = await backup.take(worlds.old, worlds.fork + BEHIND + 1, first)
    assert (kept.last, added) == (worlds.fork + BEHIND + 1, 1)


@pytest.mark.parametrize("more", [1, BEHIND, 2 * BEHIND])
async def test_a_backup_that_was_finished_is_added_to_by_its_own_world_alone(
    worlds: Worlds, backup: Backup, more: int
) -> None:
    first, _ = await backup.take(worlds.old, worlds.fork)
    kept, _ = await backup.take(worlds.old, worlds.fork + BEHIND, first)
    with pytest.raises(BackupError, match="the backup is of another log"):
        await backup.take(worlds.new, worlds.fork + more, kept, epoch=2)
    assert (await log_in(backup.folder, kept)).archive.last == kept.last, "nothing of it is gone"


async def test_a_log_that_is_older_than_its_backup_is_not_added(worlds: Worlds, backup: Backup) -> None:
    first, _ = await backup.take(worlds.old, worlds.fork, epoch=2)
    with pytest.raises(BackupError, match="it is older than its backup"):
        await backup.take(worlds.old, worlds.fork, first, epoch=1)
