"""The tree view is the tree of RFC 6962 over the log, and what is signed of it stays outside the broker."""

from __future__ import annotations

import asyncio
import base64
import random
import sqlite3
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ.broker.keys import KeyFileError
from writ.broker.notary import Notary, checkpoints_folder, keys_in, verify_signature
from writ.broker.note_places import NoteFile, NoteFolder
from writ.broker.ports import Stored
from writ.projections.checkpoints import Checkpointing, NotSigned
from writ.projections.proofs import NotProved, Proofs
from writ.projections.runner import Runner
from writ.projections.tree import TreeView, head, subtrees_in
from writ.schemas.checkpoints import NoteError, checkpoint_in, key_in, notes_in, one_note
from writ.schemas.codec import digest
from writ.schemas.merkle import Tree, is_consistent, record_leaf, root_at
from writ.schemas.proofs import ConsistencyQuery, ProveQuery

if TYPE_CHECKING:
    from tests.histories.builder import Histories, ListLog
    from tests.projections.conftest import Running, Until


def _tree(records: Sequence[Stored]) -> Tree:
    tree = Tree()
    for each in records:
        tree.add(record_leaf(each.seq, each.subject.removeprefix("writ.log.0."), digest(each.body)))
    return tree


def _checkpointing(folder: Path, runner: Runner, log: ListLog, *copies: Path) -> Checkpointing:
    places = [NoteFolder(copy) for copy in copies]
    return Checkpointing(folder, runner, 0, log.last_seq, places, every_s=0.05)


async def test_its_root_is_that_of_the_log_at_every_size(history: Histories, running: Running) -> None:
    told = history.wander(1, 700)
    draw = random.Random(1)
    async with running(told.log(), "tree.db", batch_max=97, make=TreeView) as runner:
        assert await runner.wait_for(len(told.records), 20)
        with closing(sqlite3.connect(runner.path)) as db:
            assert head(db) == (1, len(told.records), _tree(told.records).root)
            for size in [0, 1, 255, 256, 257, 511, 512, 513, *draw.sample(range(700), 20)]:
                assert root_at(size, subtrees_in(db)) == _tree(told.records[:size]).root


async def test_it_is_the_same_whatever_the_batches_and_restarts(
    history: Histories, running: Running, dump: Callable[[Path], str]
) -> None:
    told = history.wander(2, 600)
    dumps = set[str]()
    path = Path()
    for name, batches in (("one.db", (1_024,)), ("many.db", (1, 7, 64, 256))):
        for place, batch_max in enumerate(batches, 1):
            last = len(told.records) * place // len(batches)
            log = history.log(told.records[:last])
            async with running(log, name, batch_max=batch_max, make=TreeView) as runner:
                assert await runner.wait_for(last, 20)
                path = runner.path
        dumps.add(dump(path))
    assert len(dumps) == 1


async def test_checkpoints_follow_the_log_and_are_kept_in_every_folder(
    history: Histories, running: Running, tmp_path: Path, until: Until
) -> None:
    told = history.wander(3, 60)
    log = history.log(told.records[:20])
    copy = tmp_path / "copy"
    async with running(log, "tree.db", make=TreeView) as runner:
        signing = _checkpointing(tmp_path, runner, log, copy)
        task = asyncio.create_task(signing.run())
        await until(lambda: signing.size == 20)
        log.stored[:] = told.records
        log.grew()
        await until(lambda: signing.size == len(told.records))
        assert signing.waiting_s == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await signing.close()
    own, theirs = checkpoints_folder(tmp_path) / "log-0", copy / "log-0"
    assert own.read_text() == theirs.read_text()
    found = [checkpoint_in(note.text) for note in NoteFile(own).read()]
    assert [each.size for each in found][:1] == [20]
    for each in found:
        assert each.root == _tree(told.records[: each.size]).root
    keys = keys_in(NoteFile(copy / "keys").read())
    assert all(
        n.signed_by(str(found[0].origin), keys[0].public, verify_signature) for n in NoteFile(own).read()
    )
    secret = tmp_path / "audit" / "key.1"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


async def test_what_does_not_go_on_from_the_newest_checkpoint_is_never_signed(
    history: Histories, running: Running, tmp_path: Path
) -> None:
    """The log was changed while all views were gone: nothing else remembers what it was."""
    told = history.wander(4, 80)
    async with running(told.log(), "one.db", make=TreeView) as runner:
        assert await runner.wait_for(len(told.records), 20)
        signing = _checkpointing(tmp_path, runner, told.log())
        await signing.sign()
        await signing.close()
    other = history.wander(5, 200)
    for name, records, why in (
        ("cut.db", told.records[:-1], "it was cut or made anew"),
        ("other.db", other.records, "are others than the newest checkpoint says"),
    ):
        log = history.log(records)
        async with running(log, name, make=TreeView) as runner:
            assert await runner.wait_for(len(records), 20)
            signing = _checkpointing(tmp_path, runner, log)
            with pytest.raises(NotSigned, match=why):
                await signing.sign()
            assert why in (signing.refused or "")
            await signing.close()
    assert len(NoteFile(checkpoints_folder(tmp_path) / "log-0").read()) == 1


async def test_a_tree_that_is_being_built_is_no_alarm(
    history: Histories, running: Running, tmp_path: Path
) -> None:
    told = history.wander(6, 80)
    async with running(told.log(), "one.db", make=TreeView) as runner:
        assert await runner.wait_for(len(told.records), 20)
        signing = _checkpointing(tmp_path, runner, told.log())
        await signing.sign()
        await signing.close()
    async with running(history.log(told.records[:9]), "two.db", make=TreeView) as runner:
        assert await runner.wait_for(9, 20)
        signing = _checkpointing(tmp_path, runner, told.log())
        with pytest.raises(NotSigned, match="is still being built"):
            await signing.sign()
        assert signing.refused is None
        await signing.close()


async def test_consistency_is_proved_between_any_two_sizes(
    history: Histories, running: Running, tmp_path: Path
) -> None:
    told = history.wander(7, 300)
    log = told.log()
    async with running(log, "tree.db", make=TreeView) as runner:
        assert await runner.wait_for(len(told.records), 20)
        signing = _checkpointing(tmp_path, runner, log)
        proofs = Proofs(signing, log)
        for old, new in ((1, 1), (1, 300), (7, 255), (256, 257), (200, 300)):
            page = await proofs.consistency("default", ConsistencyQuery(old=old, new=new))
            roots = _tree(told.records[:old]).root, _tree(told.records[:new]).root
            path = [base64.b64decode(step) for step in page.path]
            assert is_consistent(old, new, *roots, path)
        for old, new in ((2, 1), (1, 9_999)):
            with pytest.raises(NotProved):
                await proofs.consistency("default", ConsistencyQuery(old=old, new=new))
        with pytest.raises(NotProved, match="no job nobody in queue mail"):
            await proofs.prove("default", ProveQuery(queue="mail", id="nobody"))
        await signing.close()


def test_keys_are_replaced_and_each_vouches_for_the_next(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    notary = Notary(tmp_path, 1, [NoteFolder(copy)])
    first = notary.public
    for now in (2, 3):
        notary.rotate(now)
    again = Notary(tmp_path, 4, [NoteFolder(copy)])
    again.copy(0)
    assert (again.site, again.keys) == (notary.site, notary.keys)
    assert [key.since for key in again.keys] == [1, 2, 3]
    assert again.keys[0].public == first != again.public
    assert sorted(each.name for each in (tmp_path / "audit").iterdir()) == ["key.3"]
    assert keys_in(NoteFile(copy / "keys").read()) == again.keys
    assert key_in(again.key_text("any")) == again.public
    (tmp_path / "audit" / "key.3").unlink()
    with pytest.raises(KeyFileError, match=r"key\.3 is missing"):
        Notary(tmp_path, 5)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    Notary(tmp_path, 1)
    (tmp_path / "audit" / "key.1").chmod(0o640)
    with pytest.raises(KeyFileError, match="others can read it"):
        Notary(tmp_path, 2)


@pytest.mark.parametrize("text", ["", "a\n", "a\n\nb\n", "a\n\n— n\n", "a\n\n— n x y\n", "a\n\n— n !!\n"])
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        one_note(text)
    assert notes_in("") == []
