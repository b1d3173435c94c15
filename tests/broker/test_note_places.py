"""Files of signed notes: what is added, what a crash left, and what that costs, however many there are."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from writ.broker import note_places
from writ.broker.notary import Notary
from writ.broker.note_places import NoteFile, NoteFolder
from writ.schemas.checkpoints import Checkpoint, Note, NoteError

WAIT_S = 30.0


@pytest.fixture
def notes(tmp_path: Path) -> list[Note]:
    """Some that are signed; one of them has a second signature."""
    notary = Notary(tmp_path / "node", 1)
    found = [notary.sign("any", f"text {n}\nand é\n") for n in range(4)]
    twice = Note(found[1].text, (*found[1].signatures, *notary.sign("other", found[1].text).signatures))
    return [found[0], twice, *found[2:]]


def written(*notes: Note) -> bytes:
    return "".join([f"{note}\n" for note in notes]).encode()


@pytest.mark.parametrize("tail", [1, 50, 4_096])
def test_the_end_is_found_from_the_end_wherever_a_crash_cut_the_file(
    notes: list[Note], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: int
) -> None:
    monkeypatch.setattr(note_places, "_TAIL_BYTES", tail)
    content, file = written(*notes), NoteFile(tmp_path / "row")
    ends = [len(written(*notes[:count])) for count in range(len(notes) + 1)]
    for cut in range(len(content) + 1):
        file.path.write_bytes(content[:cut])
        whole = max(number for number, end in enumerate(ends) if end <= cut)
        last = notes[whole - 1] if whole else None
        assert file.end() == (ends[whole], last)
        assert file.read() == notes[:whole]
        assert file.before(cut) == (last if cut == ends[whole] else None)
        assert file.read(ends[whole]) == []
        file.add(notes[whole:])
        assert file.path.read_bytes() == content
    assert [file.read(end) for end in ends] == [notes[count:] for count in range(len(ends))]
    assert [file.before(end) for end in ends] == [None, *notes]


@pytest.mark.parametrize(
    "other", ["a\n\nb\n\n", "{0}a\n\nb\n\n", "{0}— x y\n\n", "— x y\n\n", "{0}a\n\n— !\n\n"]
)
def test_what_ends_with_something_else_is_not_added_to(notes: list[Note], tmp_path: Path, other: str) -> None:
    file = NoteFile(tmp_path / "row")
    content = other.format(f"{notes[0]}\n").encode()
    file.path.write_bytes(content)
    with pytest.raises(NoteError, match="row: "):
        file.add(notes)
    with pytest.raises(NoteError, match="row: "):
        file.end()
    assert file.path.read_bytes() == content


def test_what_another_one_is_writing_is_not_taken_for_what_a_crash_left(
    notes: list[Note], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, waits, lock = NoteFile(tmp_path / "row"), threading.Event(), fcntl.flock

    def flock(taken: int, how: int) -> None:
        waits.set()
        lock(taken, how)

    content = written(notes[0])
    with file.path.open("ab") as other:
        lock(other, fcntl.LOCK_EX)
        other.write(content[:9])
        other.flush()
        monkeypatch.setattr(fcntl, "flock", flock)
        second = threading.Thread(target=file.add, args=(notes[1:],), daemon=True)
        second.start()
        assert waits.wait(WAIT_S)
        other.write(content[9:])
    second.join(WAIT_S)
    assert file.read() == notes


def _read_by(work: Callable[[], object]) -> int:
    """How many bytes this thread read of files meanwhile."""

    def told() -> int:
        lines = Path("/proc/thread-self/io").read_text().splitlines()
        return next(int(line.partition(" ")[2]) for line in lines if line.startswith("rchar: "))

    before = told()
    work()
    return told() - before


def test_a_signature_costs_the_same_however_many_there_were(tmp_path: Path) -> None:
    """Must hold: also with copies, and for whoever asks for the newest one."""
    notary = Notary(tmp_path / "node", 1, [NoteFolder(tmp_path / "copy")])
    origin = notary.origin(0, 1)

    def sign(size: int) -> None:
        found = Notary(tmp_path / "node", 1, [NoteFolder(tmp_path / "copy")])
        assert found.newest(0) is not None
        found.add(Checkpoint(origin, size, bytes(32), size))

    def fill(sizes: range) -> None:
        file = notary.file(0)
        file.add([notary.sign(str(origin), Checkpoint(origin, n, bytes(32), n).text) for n in sizes])
        notary.copy(0)

    fill(range(50))
    short = _read_by(lambda: sign(50))
    fill(range(51, 5_000))
    assert notary.file(0).path.stat().st_size > 20 * short
    assert _read_by(lambda: sign(5_000)) < 1.2 * short
    assert (tmp_path / "copy" / "log-0").read_bytes() == notary.file(0).path.read_bytes()


@pytest.mark.parametrize("lost", [0, 2, 3])
def test_a_copy_and_a_file_that_lack_different_notes_are_not_brought_together(
    notes: list[Note], tmp_path: Path, lost: int
) -> None:
    notary = Notary(tmp_path / "node", 1, [NoteFolder(tmp_path / "copy")])
    notary.file(0).add(notes)
    notary.copy(0)
    rest = [*notes[:lost], *notes[lost + 1 :]]
    for path in (notary.file(0).path, tmp_path / "copy" / "log-0"):
        path.write_bytes(written(*rest))
        if path == notary.file(0).path or rest != notes[:lost]:
            with pytest.raises(NoteError, match="has others than"):
                notary.copy(0)
        else:
            notary.copy(0)  # it only lacks the last one
        path.write_bytes(written(*notes))
    notary.copy(0)
