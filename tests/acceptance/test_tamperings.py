"""Must hold: 1,000 tamperings of a log or bundle (edit, delete, insert, reorder, cut tail, fork, re-created
stream, forged or old checkpoint) are all found; 1,000 clean ones raise no alarm.

Logs are lists of the bytes that real decisions led to, proofs come from a tree view over such a log. Who
tampers has all of the node but its secret key, and makes the chain of digests good again where that helps.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import pytest
from msgspec.structs import replace

from writ.broker.notary import Key, Notary, checkpoints_folder, keys_in
from writ.broker.note_places import NoteFile
from writ.broker.ports import Stored
from writ.orchestrator.replay import offline
from writ.orchestrator.replay.checked import (
    Checked,
    Place,
    Stretch,
    check,
    check_log,
    leaves_of,
    signed,
    stretch_of,
)
from writ.projections.checkpoints import Checkpointing
from writ.projections.feed import Feeds
from writ.projections.proofs import Proofs
from writ.projections.runner import Runner
from writ.projections.tree import TreeView
from writ.schemas.checkpoints import Checkpoint, Note, checkpoint_in
from writ.schemas.codec import decode, digest, encode
from writ.schemas.ids import split_job_key
from writ.schemas.merkle import Tree
from writ.schemas.proofs import ProvePage, ProveQuery
from writ.schemas.records import GENESIS, Record

if TYPE_CHECKING:
    from tests.histories.builder import Histories

LOG_TAMPERINGS = 50
"""Of each of the families below."""

PROOF_TAMPERINGS = 30
CLEAN_LOGS, CLEAN_PROOFS = 800, 200
RECORDS = 120
STRETCH = 50
AT = 1_767_225_600_000_000

Log = list[Stored]


class Kept(NamedTuple):
    """What an auditor has: keys, and checkpoints that were signed while the log grew."""

    keys: list[Key]
    notes: list[Note]

    def check(self, log: Log, epoch: int = 1) -> Checked:
        """In one go and in stretches, as several processes would: they must tell the same."""
        found = [signed("here", self.keys, self.notes, 0)]
        whole, told = check(log, 0, epoch, found), cast("Any", _Told(log, epoch))

        async def stretches() -> AsyncGenerator[Stretch | None]:
            for first in range(1, len(log) + 1, STRETCH):
                yield await stretch_of(told, first, min(len(log), first + STRETCH - 1))

        assert asyncio.run(check_log(told, found, stretches())) == whole
        return whole


class _Told(NamedTuple):
    """A log as it is read."""

    log: Log
    epoch: int
    partition: int = 0

    async def read(self, start: int) -> AsyncGenerator[list[Stored]]:
        for place, message in enumerate(self.log):
            if message.seq >= start:
                for at in range(place, len(self.log), 3):
                    yield self.log[at : at + 3]
                return


def _sign(log: Log, notary: Notary, sizes: list[int]) -> list[Note]:
    tree, notes, after = Tree(), list[Note](), "-"
    for leaf in leaves_of(log, Place(), 0, 1).hashes:
        tree.add(leaf)
        if tree.size in sizes:
            found = Checkpoint(notary.origin(0, 1), tree.size, tree.root, AT + tree.size, after)
            notes.append(notary.sign(str(found.origin), found.text))
            after = notes[-1].digest
    return notes


def _sizes(draw: random.Random, last: int) -> list[int]:
    return [*draw.sample(range(1, last), 4), last]


def _chained(records: list[tuple[Record, str]]) -> Log:
    """A log of records as they are, numbered and chained anew; each with its subject."""
    prev, log = GENESIS, Log()
    for seq, (record, subject) in enumerate(records, 1):
        body = encode(replace(record, seq=seq), prev)
        prev = digest(body)
        log.append(Stored(seq, subject, body, AT))
    return log


def _records(log: Log) -> list[tuple[Record, str]]:
    return [(decode(each.body), each.subject) for each in log]


def _again(draw: random.Random, log: Log, change: Callable[[list[tuple[Record, str]]], None]) -> Log:
    """The log after a change to its records, half the time with the chain made good."""
    if draw.random() < 0.5:
        records = _records(log)
        change(records)
        return _chained(records)
    raw: list[Any] = list(log)
    change(raw)
    return [each._replace(seq=seq) for seq, each in enumerate(raw, 1)]


# --- what may be done to a log ----------------------------------------------------------------------------


def edit(draw: random.Random, log: Log) -> Log:
    place = draw.randrange(len(log))
    if draw.random() < 0.5:
        records = _records(log)
        record, subject = records[place]
        records[place] = (
            replace(record, at=record.at + draw.choice((-1, 1)), actor=record.actor + "x"),
            subject,
        )
        return _chained(records)
    body = bytearray(log[place].body)
    body[draw.randrange(len(body))] ^= 1 << draw.randrange(7)
    return [*log[:place], log[place]._replace(body=bytes(body)), *log[place + 1 :]]


def rename(draw: random.Random, log: Log) -> Log:
    place = draw.randrange(len(log))
    return [*log[:place], log[place]._replace(subject=log[place].subject + "x"), *log[place + 1 :]]


def delete(draw: random.Random, log: Log) -> Log:
    place = draw.randrange(len(log))
    if draw.random() < 0.3:
        return [*log[:place], *log[place + 1 :]]
    return _again(draw, log, lambda records: records.pop(place) and None)


def insert(draw: random.Random, log: Log) -> Log:
    place, what = draw.randrange(len(log)), draw.randrange(len(log))
    return _again(draw, log, lambda records: records.insert(place, records[what]))


def reorder(draw: random.Random, log: Log) -> Log:
    a, b = draw.sample(range(len(log)), 2)

    def swap(records: list[Any]) -> None:
        records[a], records[b] = records[b], records[a]

    return _again(draw, log, swap)


def cut_tail(draw: random.Random, log: Log) -> Log:
    return log[: draw.randrange(len(log))]


def fork(draw: random.Random, log: Log) -> Log:
    """Another future from some record on, as long as the real one or longer."""
    place = draw.randrange(len(log))
    records = _records(log)
    tail = [(replace(record, at=record.at + 1), subject) for record, subject in records[place:]]
    return _chained([*records[:place], *tail, *tail[: draw.randrange(3)]])


LOG_FAMILIES: dict[str, Callable[[random.Random, Log], Log]] = {
    each.__name__: each for each in (edit, rename, delete, insert, reorder, cut_tail, fork)
}


@pytest.fixture
def notary(tmp_path: Path) -> Notary:
    return Notary(tmp_path / "node", AT)


@pytest.fixture
def forger(tmp_path: Path) -> Notary:
    """Who has a key of his own."""
    return Notary(tmp_path / "forger", AT)


def _kept(history: Histories, notary: Notary, seed: int, records: int = RECORDS) -> tuple[Log, Kept]:
    log = history.wander(seed, records).records
    return log, Kept(notary.keys, _sign(log, notary, _sizes(random.Random(seed), len(log))))


@pytest.mark.parametrize("family", LOG_FAMILIES)
def test_a_log_that_was_tampered_with_is_found_out(family: str, history: Histories, notary: Notary) -> None:
    draw = random.Random(family)
    log, kept = _kept(history, notary, 7)
    assert kept.check(log).ok
    for _ in range(LOG_TAMPERINGS):
        while (tampered := LOG_FAMILIES[family](draw, log)) == log:
            pass  # two equal records were exchanged, say
        found = kept.check(tampered)
        assert not found.ok
        first = next(
            n for n, (a, b) in enumerate(zip([*tampered, None], [*log, None], strict=False), 1) if a != b
        )
        assert all(fault.seq >= first or fault.rule == "chain" for fault in found.faults)


async def test_a_stretch_that_was_read_of_another_log_is_read_again(history: Histories) -> None:
    log, other = history.wander(1, RECORDS).records, history.wander(2, RECORDS).records
    told, others = cast("Any", _Told(log, 1)), cast("Any", _Told(other, 1))

    async def stretches() -> AsyncGenerator[Stretch | None]:
        yield await stretch_of(told, 1, STRETCH)
        yield await stretch_of(others, STRETCH + 1, len(log))

    assert await check_log(told, [], stretches()) == check(log, 0, 1, [])


def test_a_stream_made_anew_is_found_out(history: Histories, notary: Notary) -> None:
    """With the epoch that it must have then, with the one it had, empty, and with what was in it before."""
    log, kept = _kept(history, notary, 8)
    for seed in range(LOG_TAMPERINGS):
        other = history.wander(100 + seed, RECORDS).records
        again = _chained([(replace(record, epoch=2), subject) for record, subject in _records(log)])
        assert not kept.check(other).ok
        assert not kept.check(again, epoch=2).ok
        assert not kept.check(log, epoch=2).ok
        assert not kept.check(log[:seed], epoch=2).ok


def test_behind_the_newest_checkpoint_the_chain_finds_it(history: Histories, notary: Notary) -> None:
    """But for the last record, of which nothing tells yet."""
    draw = random.Random(14)
    log = history.wander(14, RECORDS).records
    half = len(log) // 2
    kept = Kept(notary.keys, _sign(log, notary, [half]))
    for _ in range(LOG_TAMPERINGS):
        place = draw.randrange(half, len(log) - 1)
        body = log[place].body.replace(b'"actor":"', b'"actor":"x')
        tampered = [*log[:place], log[place]._replace(body=body), *log[place + 1 :]]
        found = kept.check(tampered)
        assert [(fault.seq, fault.rule) for fault in found.faults] == [(place + 2, "chain")]


def _resigned(note: Note, by: Notary, **changes: Any) -> Note:
    found = checkpoint_in(note.text)._replace(**changes)
    return by.sign(str(found.origin), found.text)


def test_a_forged_checkpoint_is_found_out(history: Histories, notary: Notary, forger: Notary) -> None:
    """Signed by another key, under its own name and under the node's; or changed under a good signature."""
    draw = random.Random(9)
    log, kept = _kept(history, notary, 9)
    for _ in range(LOG_TAMPERINGS):
        place = draw.randrange(len(kept.notes))
        note = kept.notes[place]
        theirs = _resigned(note, forger, root=draw.randbytes(32))
        ours = note.signatures[0]
        named = theirs._replace(
            signatures=tuple(s._replace(name=ours.name, key_id=ours.key_id) for s in theirs.signatures)
        )
        changed = theirs._replace(signatures=note.signatures)
        unsigned = note._replace(signatures=())
        for forged in (theirs, named, changed, unsigned):
            notes = [*kept.notes[:place], forged, *kept.notes[place + 1 :]]
            assert not Kept(kept.keys, notes).check(log).ok
        cut = fork(draw, log)
        signed_anew = _sign(cut, forger, [len(cut)])
        assert not Kept(kept.keys, signed_anew).check(cut).ok


def test_an_old_checkpoint_is_found_out(history: Histories, notary: Notary) -> None:
    """Put behind newer ones; with one missing before it; or as the newest, where there is a copy."""
    draw = random.Random(10)
    log, kept = _kept(history, notary, 10)
    for _ in range(LOG_TAMPERINGS):
        old = draw.randrange(len(kept.notes) - 1)
        again = [*kept.notes, kept.notes[old]]
        missing = [*kept.notes[:old], *kept.notes[old + 1 :]]
        for notes in (again, missing):
            assert not Kept(kept.keys, notes).check(log).ok
        size = checkpoint_in(kept.notes[old].text).size
        rolled_back = [
            signed("here", kept.keys, kept.notes[: old + 1], 0),
            signed("copy", kept.keys, kept.notes, 0),
        ]
        found = check(log[:size], 0, 1, rolled_back)
        assert [fault.rule for fault in found.faults] == ["checkpoint"]
        assert "missing: copy has signed" in found.faults[0].reason


def test_a_key_that_the_node_has_not_sworn_to_is_not_believed(
    history: Histories, notary: Notary, forger: Notary
) -> None:
    log, kept = _kept(history, notary, 11)
    other = fork(random.Random(11), log)
    theirs = Kept(forger.keys, _sign(other, forger, [len(other)]))
    assert theirs.check(other).ok
    assert kept.keys[0].public != forger.keys[0].public
    statements = notary.own.notes("keys").read() + forger.own.notes("keys").read()
    with pytest.raises(ValueError, match="is missing, or is another"):
        keys_in(statements)


def test_a_retired_key_signs_no_more(history: Histories, notary: Notary, tmp_path: Path) -> None:
    log = history.wander(12, RECORDS).records
    half = len(log) // 2
    before = _sign(log, notary, [half])
    stolen = copy.copy(notary)
    stolen.keys = list(notary.keys)
    notary.rotate(AT + 5)
    first = checkpoint_in(before[0].text)
    tree = Tree()
    for leaf in leaves_of(log, Place(), 0, 1).hashes:
        tree.add(leaf)
    whole = Checkpoint(first.origin, tree.size, tree.root, AT + 10_000, before[0].digest)
    good = notary.sign(str(whole.origin), whole.text)
    assert Kept(notary.keys, [*before, good]).check(log).ok
    last = whole._replace(size=whole.size + 1, at=AT + 20_000, after=good.digest)
    bad = stolen.sign(str(last.origin), last.text)
    faults = Kept(notary.keys, [*before, good, bad]).check(log).faults
    assert "signed by key 1, which key 2 had replaced" in faults[0].reason
    assert keys_in(NoteFile(checkpoints_folder(tmp_path / "node") / "keys").read()) == notary.keys


def test_clean_logs_raise_no_alarm(history: Histories, notary: Notary) -> None:
    """Of any length, with checkpoints anywhere, and also where the newest records are not signed yet."""
    draw = random.Random(13)
    for seed in range(CLEAN_LOGS // 20):
        log = history.wander(seed, draw.randint(20, RECORDS)).records
        for _ in range(20):
            last = draw.randint(6, len(log))
            notes = _sign(log, notary, _sizes(draw, last))
            found = Kept(notary.keys, notes).check(log[: draw.randint(last, len(log))])
            assert found.ok, found.lines()
            assert (found.checkpoints, found.covered) == (len(notes), last)


# --- proofs -----------------------------------------------------------------------------------------------


class Proving:
    """A node's tree and checkpoints over a log, and the proofs that they give."""

    def __init__(self, log: Log, proofs: Proofs, checkpoints: Checkpointing) -> None:
        self.log, self.proofs, self.checkpoints = log, proofs, checkpoints
        self.jobs = sorted({each.subject for each in log if ".job." in each.subject})

    async def prove(self, subject: str) -> dict[str, Any]:
        queue, id_ = split_job_key(subject.rpartition(".")[2])
        page = await self.proofs.prove("default", ProveQuery(queue=queue, id=id_, limit=500))
        assert isinstance(page, ProvePage)
        assert not page.more
        told: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(page))
        return {"writ_proof": 1, "queue": queue, "id": id_, **told}

    @property
    def key(self) -> str:
        return self.checkpoints.notary().key_text("writ/any")


@asynccontextmanager
async def _proving(history: Histories, folder: Path, seed: int) -> AsyncGenerator[Proving]:
    source = history.wander(seed, RECORDS).log()
    log, rest = source.stored[:-30], source.stored[-30:]
    source.stored = log
    await asyncio.to_thread(folder.mkdir)
    feeds = Feeds(source)
    runner = Runner(folder / "tree.db", feeds, TreeView)
    await runner.open()
    task = asyncio.create_task(runner.run())
    checkpoints = Checkpointing(folder, runner, 0, source.last_seq)
    try:
        assert await runner.wait_for(len(log), 20)
        await checkpoints.sign()
        log += rest
        source.grew()
        assert await runner.wait_for(len(log), 20)
        await checkpoints.sign()
        yield Proving(log, Proofs(checkpoints, source), checkpoints)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await checkpoints.close()
        await runner.close()
        await feeds.close()


def _holds(proof: dict[str, Any], key: str) -> bool:
    try:
        offline.check(proof, key)
    except (offline.Wrong, offline.Unreadable):
        return False
    return True


Bundle = dict[str, Any]


def p_edit(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    record = draw.choice(proof["records"])
    at = draw.randrange(len(record["body"]))
    record["body"] = record["body"][:at] + chr(ord(record["body"][at]) ^ 1) + record["body"][at + 1 :]


def p_delete(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    proof["records"].pop(draw.randrange(len(proof["records"])))


def p_insert(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    what = draw.choice([*proof["records"], *other["records"]])
    proof["records"].insert(draw.randrange(len(proof["records"]) + 1), what)


def p_reorder(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    a, b = draw.sample(range(len(proof["records"])), 2)
    records = proof["records"]
    records[a], records[b] = records[b], records[a]


def p_cut_tail(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    del proof["records"][draw.randrange(len(proof["records"])) :]


def p_renumber(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    draw.choice(proof["records"])["seq"] += draw.choice((-1, 1))


def p_path(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    path = draw.choice(proof["records"])["path"]
    draw.choice((path.pop, lambda: path.append(path[0]), path.reverse, lambda: path.insert(0, path[-1])))()


def p_other_job(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    """One job's name over another's records, or its statement."""
    what = draw.choice((("queue", "id"), ("records",), ("records", "queue", "id"), ("statement",)))
    for name in what:
        proof[name] = other[name]


def p_checkpoint(draw: random.Random, proof: Bundle, other: Bundle) -> None:
    name = draw.choice(("checkpoint", "statement", "keys"))
    lines = proof[name].split("\n")
    place = draw.choice([n for n, line in enumerate(lines) if line])
    at = draw.randrange(len(lines[place]))
    lines[place] = lines[place][:at] + chr(ord(lines[place][at]) ^ 1) + lines[place][at + 1 :]
    proof[name] = "\n".join(lines)


PROOF_FAMILIES: dict[str, Callable[[random.Random, Bundle, Bundle], None]] = {
    each.__name__.removeprefix("p_"): each
    for each in (
        p_edit, p_delete, p_insert, p_reorder, p_cut_tail, p_renumber, p_path, p_other_job, p_checkpoint,
    )
}  # fmt: skip


async def test_a_proof_that_was_tampered_with_is_found_out(history: Histories, tmp_path: Path) -> None:
    async with _proving(history, tmp_path / "node", 21) as node:
        subjects = [s for s in node.jobs if sum(each.subject == s for each in node.log) > 3]
        proofs = [await node.prove(subject) for subject in subjects]
        for family, tamper in PROOF_FAMILIES.items():
            draw = random.Random(family)
            for _ in range(PROOF_TAMPERINGS):
                good, other = draw.sample(proofs, 2)
                proof = copy.deepcopy(good)
                tamper(draw, proof, copy.deepcopy(other))
                if proof in (good, other):
                    continue
                assert not _holds(proof, node.key), family


async def test_a_proof_of_another_time_or_node_is_found_out(
    history: Histories, tmp_path: Path, forger: Notary
) -> None:
    """An old checkpoint of the node's own, one by somebody else's key, and a whole proof by another node."""
    async with _proving(history, tmp_path / "node", 22) as node:
        old = NoteFile(checkpoints_folder(tmp_path / "node") / "log-0").read()[0]
        for subject in node.jobs:
            proof = await node.prove(subject)
            assert _holds(proof, node.key)
            assert not _holds(proof, forger.key_text("writ/any"))
            assert not _holds({**proof, "checkpoint": str(old)}, node.key)
            found = checkpoint_in(old.text)
            text = proof["checkpoint"].partition("\n\n")[0] + "\n"
            theirs = forger.sign(str(found.origin), text)
            assert not _holds({**proof, "checkpoint": str(theirs)}, node.key)
            assert not _holds({**proof, "keys": forger.statements()}, node.key)


async def test_clean_proofs_hold(history: Histories, tmp_path: Path) -> None:
    count = 0
    for seed in range(30, 60):
        async with _proving(history, tmp_path / str(seed), seed) as node:
            for subject in node.jobs:
                proof = await node.prove(subject)
                told = offline.check(proof, node.key)
                assert [body["seq"] for body in told] == [s.seq for s in node.log if s.subject == subject]
                count += 1
        if count >= CLEAN_PROOFS:
            return
    raise AssertionError(f"only {count} proofs were made")


JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    "",
    "\ud800",
    "\n\n",
    "=",
    [],
    [[]],
    {},
    {"seq": 1},
    "a" * 9_000,
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a document."""
    inner: list[tuple[Any, Any]] = list(offline.fields_of(value).items())
    if hasattr(value, "append"):
        inner = [(index, value[index]) for index in range(len(value))]
    return [path, *[place for name, each in inner for place in _places(each, (*path, name))]]


async def test_whatever_a_proof_holds_the_verifier_answers(history: Histories, tmp_path: Path) -> None:
    """No error of its own, for anything at any place of the document."""
    draw = random.Random(15)
    async with _proving(history, tmp_path / "node", 23) as node:
        proof = await node.prove(next(s for s in node.jobs if s.endswith("~1")))
        places = [place for place in _places(proof) if place and place != ("position",)]
        for _ in range(300):
            broken = copy.deepcopy(proof)
            place = draw.choice(places)
            holder = broken
            for name in place[:-1]:
                holder = holder[name]
            holder[place[-1]] = draw.choice(JUNK)
            if broken != proof and place not in {("more",), ("size",)}:  # of the page, not of the proof
                assert not _holds(broken, node.key), place
