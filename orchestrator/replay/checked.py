"""A log against the checkpoints that were signed of it: its chain, its tree, and every root ever signed.

What is decided in the log is not looked at here: that is `verify`. Nothing but stored bytes and public keys
is needed, so this holds for an archive, a mirror and a log whose content was erased alike.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple, cast

import msgspec

from writ.broker.archive import ArchiveDamaged
from writ.broker.notary import Key, keys_in, verify_signature
from writ.broker.note_places import NotePlace
from writ.broker.ports import Log, Stored
from writ.schemas.chain import Violation
from writ.schemas.checkpoints import Checkpoint, Note, NoteError, checkpoint_in
from writ.schemas.merkle import Tree
from writ.schemas.records import GENESIS

from .verify import FAULTS_MAX, Fault


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What the chain needs of a record's body."""

    epoch: int
    seq: int
    tenant: str
    kind: str
    key: str
    prev: str


_decode = msgspec.json.Decoder(_Head).decode


class Place(NamedTuple):
    """Behind a record: its sequence, epoch and digest."""

    seq: int = 0
    epoch: int = 0
    digest: str = GENESIS


class Leaves(NamedTuple):
    """The leaves of records that follow each other, where they end, and what is wrong with them."""

    hashes: list[bytes]
    end: Place
    faults: list[Fault]


def leaves_of(messages: Iterable[Stored], before: Place, partition: int, epoch: int) -> Leaves:
    """The leaves of the records behind a place, in a log of an epoch.

    Stops at a record that is missing, as the tree ends there; any other fault leaves it whole.
    """
    sha256, prefix = hashlib.sha256, f"writ.log.{partition}."
    cut = len(prefix)
    hashes: list[bytes] = []
    faults: list[Fault] = []
    seq, reached, prev = before
    for at, subject, body, _ in messages:
        seq += 1
        if at != seq:
            faults.append(Fault(seq, "chain", f"missing: the log goes on with record {at}"))
            return Leaves(hashes, Place(seq - 1, reached, prev), faults)
        digest = sha256(body).hexdigest()
        about = subject[cut:]
        try:
            head = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            faults.append(Fault(seq, "body", f"cannot be read: {error}"))
        else:
            wanted = f"{prefix}{head.tenant}.{head.kind}.{head.key}"
            if head.prev != prev or head.seq != seq or head.epoch != reached or subject != wanted:
                faults += _faults(seq, subject, head, Place(seq - 1, reached, prev), epoch)
                reached = max(reached, head.epoch)  # which may grow, and seldom does
        hashes.append(sha256(f"\x00{seq} {about} {digest}".encode()).digest())
        prev = digest
    return Leaves(hashes, Place(seq, reached, prev), faults)


def _faults(seq: int, subject: str, head: _Head, before: Place, epoch: int) -> Iterable[Fault]:
    if head.seq != seq:
        yield Fault(seq, "body", f"says that it is record {head.seq}")
    if not before.epoch <= head.epoch <= epoch:
        yield Fault(seq, "chain", f"epoch {head.epoch} behind {before.epoch}, in a log of epoch {epoch}")
    if head.prev != before.digest:
        yield Fault(
            seq, "chain", f"prev is {head.prev[:12]}..., the record before has {before.digest[:12]}..."
        )
    about = f"{head.tenant}.{head.kind}.{head.key}"
    if not subject.endswith(f".{about}") or subject.count(".") != 5:
        yield Fault(seq, "body", f"is about {about}, its subject is {subject}")


# --- what was signed ------------------------------------------------------------------------------------


class Signed(NamedTuple):
    """The checkpoints of a partition that a place holds, and what is wrong with them, in words."""

    folder: str
    keys: list[Key]
    checkpoints: list[Checkpoint]
    faults: list[str]


def signed_in(place: NotePlace, partition: int, trusted: bytes | None = None) -> Signed:
    """Every checkpoint in a place; none where the public key `trusted` does not vouch for its keys.

    Raises OSError.
    """
    try:
        keys = keys_in(place.notes("keys").read())
        notes = place.notes(f"log-{partition}").read()
    except NoteError as error:
        return Signed(str(place), [], [], [str(error)])
    if trusted is not None and trusted not in [key.public for key in keys]:
        return Signed(str(place), keys, [], ["its keys are others than the one that is trusted"])
    return signed(str(place), keys, notes, partition)


def signed(folder: str, keys: list[Key], notes: Sequence[Note], partition: int) -> Signed:
    """The checkpoints that notes hold, as far as each is genuine and follows from the one before."""
    found: list[Checkpoint] = []
    faults: list[str] = []
    number, after = 1, "-"
    for place, note in enumerate(notes, 1):
        try:
            checkpoint = checkpoint_in(note.text)
        except NoteError as error:
            faults.append(f"checkpoint {place}: {error}")
            continue
        by = [
            key.number for key in keys if note.signed_by(str(checkpoint.origin), key.public, verify_signature)
        ]
        wrong = _wrong(checkpoint, found[-1] if found else None, after, partition)
        if not by:
            wrong = "is signed by none of the keys"
        elif by[-1] < number:
            wrong = f"is signed by key {by[-1]}, which key {number} had replaced"
        after = note.digest
        if wrong is not None:
            faults.append(f"checkpoint {place}, of {checkpoint.size} records: {wrong}")
            continue
        number = by[-1]
        found.append(checkpoint)
    return Signed(folder, keys, found, faults)


def _wrong(checkpoint: Checkpoint, before: Checkpoint | None, after: str, partition: int) -> str | None:
    if checkpoint.origin.partition != partition:
        return f"is of partition {checkpoint.origin.partition}"
    if checkpoint.after != after:
        return "does not name the checkpoint that stands before it: one was taken out, or put in"
    if before is None:
        return None
    of, was = checkpoint.origin, before.origin
    if of.site != was.site or of.epoch < was.epoch:  # a later epoch is that of the same log, restored
        return f"is of {checkpoint.origin}, the one before of {before.origin}"
    if checkpoint.size <= before.size or checkpoint.at < before.at:
        return f"comes after one of {before.size} records, and is not newer"
    return None


# --- both -----------------------------------------------------------------------------------------------


class Checked(msgspec.Struct, frozen=True):
    """What was looked at: records and checkpoints; `covered` is the size of the largest checkpoint.

    `faults` are those of records, in their order, and behind them what is wrong with checkpoints.
    """

    records: int
    checkpoints: int
    covered: int
    last_seq: int
    root: str
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    def lines(self) -> list[str]:
        """The report in words."""
        found = [
            f"{self.records} records up to record {self.last_seq}, root {self.root[:16]}...",
            f"{self.checkpoints} checkpoints, the largest of {self.covered} records",
        ]
        if self.ok:
            return [*found, "no fault: the log is what was signed"]
        return [*found, *(f"record {f.seq}: {f.rule}: {f.reason}" for f in self.faults)]


_ROW: Final = 2_000
"""Records that are gathered before they are looked at: a few at a time cost half as much again."""

_SIGNED: Final = "checkpoint"
"""The rule of faults that checkpoints show."""


_FIRST: Final = (
    "a node signs first within seconds of its first record, and brings a folder that it is given later"
    " up to date with the next one, within a minute; where there was one before, the folder was emptied"
)


class Checker:
    """Takes the leaves of a log from its first record on and holds them against what was signed.

    `epoch` is the log's.
    """

    def __init__(self, epoch: int, found: Sequence[Signed]) -> None:
        self._epoch = epoch
        self._reached = 0
        self._found = found
        self._tree = Tree()
        self._faults: list[Fault] = []
        self._good = 0
        self._differing: set[str] = set()
        self._wanted: dict[int, list[tuple[str, Checkpoint]]] = {}
        for each in found:
            for checkpoint in each.checkpoints:
                self._wanted.setdefault(checkpoint.size, []).append((each.folder, checkpoint))
        self._sizes = deque(sorted(self._wanted))
        self._compare(0)

    def take(self, leaves: Leaves) -> Place:
        """The leaves of the next records; where they end."""
        self._faults += leaves.faults[: FAULTS_MAX - len(self._faults)]
        self._reached = leaves.end.epoch
        tree, first = self._tree, self._tree.size
        last = first + len(leaves.hashes)
        while tree.size < last:
            while self._sizes and self._sizes[0] <= tree.size:
                self._sizes.popleft()
            upto = min(self._sizes[0], last) if self._sizes else last
            tree.extend(leaves.hashes[tree.size - first : upto - first])
            self._compare(upto)
        return leaves.end

    def _compare(self, size: int) -> None:
        for folder, checkpoint in self._wanted.get(size, ()):
            if checkpoint.root == self._tree.root:
                self._good = max(self._good, size)
            elif folder not in self._differing:  # all that was signed later differs too
                self._differing.add(folder)
                those = f"of records {self._good + 1} to {size} one or more are others"
                self._fault(size, f"{those} than {folder} has signed")

    def _goes_on(self, folder: str, newest: Checkpoint) -> bool:
        """Whether the log is what was signed in an earlier epoch, and says itself that it is of a later one.

        So it is where it was restored, and what is not in the log was not signed.
        """
        whole = folder not in self._differing and newest.size <= self._tree.size
        return whole and newest.origin.epoch < self._epoch == self._reached

    def _fault(self, seq: int, reason: str) -> None:
        if len(self._faults) < FAULTS_MAX:
            self._faults.append(Fault(seq, _SIGNED, reason))

    def report(self) -> Checked:
        """Once all was taken."""
        size = self._tree.size
        covered = 0
        for folder, _, checkpoints, faults in self._found:
            for reason in faults:
                self._fault(size, f"{folder}: {reason}")
            if size and not checkpoints and not faults:
                self._fault(size, f"{folder} has nothing signed yet: {_FIRST}")
            for newest in checkpoints[-1:]:
                covered = max(covered, newest.size)
                if newest.origin.epoch != self._epoch and not self._goes_on(folder, newest):
                    made = (
                        f"the log is of epoch {self._epoch}, {folder} has signed epoch {newest.origin.epoch}"
                    )
                    self._fault(size, f"{made} with {newest.size} records: it was made anew")
                if newest.size > size:
                    self._fault(size + 1, f"missing: {folder} has signed {newest.size} records")
        return Checked(
            records=size,
            checkpoints=len({c for each in self._found for c in each.checkpoints}),
            covered=covered,
            last_seq=size,
            root=self._tree.root.hex(),
            faults=tuple(self._faults),
        )


def check(messages: Iterable[Stored], partition: int, epoch: int, found: Sequence[Signed]) -> Checked:
    """The report of a log given as its messages from sequence 1."""
    checker = Checker(epoch, found)
    checker.take(leaves_of(messages, Place(), partition, epoch))
    return checker.report()


class Stretch(NamedTuple):
    """Records that were looked at apart: their leaves, if `before` is what stands before them."""

    before: Place
    leaves: Leaves


async def stretch_of(log: Log, first: int, last: int) -> Stretch | None:
    """Records `first` to `last`, behind whatever the record before them is; None where anything is wrong.

    Raises what reading the log raises, but for what is wrong with it.
    """
    start = Place() if first == 1 else None
    place = Place()
    row: list[Stored] = []
    hashes: list[bytes] = []
    try:
        async with aclosing(cast("AsyncGenerator[list[Stored]]", log.read(max(first - 1, 1)))) as reading:
            async for messages in reading:
                row += messages
                if start is None:
                    before, *row = row
                    body = before.body
                    place = start = Place(before.seq, _decode(body).epoch, hashlib.sha256(body).hexdigest())
                if len(row) < _ROW and (not row or row[-1].seq < last):
                    continue
                leaves = leaves_of(row[: last - place.seq], place, log.partition, log.epoch)
                if leaves.faults:
                    return None
                hashes += leaves.hashes
                place, row = leaves.end, []
                if place.seq == last:
                    return Stretch(start, Leaves(hashes, place, []))
    except (Violation, ArchiveDamaged, msgspec.MsgspecError):
        return None
    return None


async def check_log(
    log: Log, found: Sequence[Signed], ahead: AsyncIterator[Stretch | None] | None = None
) -> Checked:
    """The report of a whole log, as far as it goes when the reading begins.

    `ahead` tells of stretches from record 1 on that others look at meanwhile; from the first one that does
    not fit, all is read here. A damaged archive is a fault at the first record that could not be read. Raises
    what else reading raises.
    """
    checker = Checker(log.epoch, found)
    place = Place()
    if ahead is not None:
        async for stretch in ahead:
            if stretch is None or stretch.before != place:
                break
            place = checker.take(stretch.leaves)
    row: list[Stored] = []
    unread: list[Fault] = []
    try:
        async for messages in log.read(place.seq + 1):
            row += messages
            if len(row) >= _ROW:
                place = checker.take(leaves_of(row, place, log.partition, log.epoch))
                if place.seq < row[-1].seq:
                    return checker.report()
                row = []
    except Violation as violation:
        unread.append(Fault(violation.seq, "chain", str(violation)))
    except ArchiveDamaged as damage:
        unread.append(Fault(place.seq + len(row) + 1, "archive", str(damage)))
    leaves = leaves_of(row, place, log.partition, log.epoch)
    checker.take(leaves._replace(faults=leaves.faults + unread))
    return checker.report()
