"""A bundle: a stretch of a log in one file, which replays anywhere without a broker.

A file of lines, each a JSON document: a head that says what is in it, the records as stored, and at the end
the SHA-256 of all lines before. A name that ends in `.gz` is compressed. A bundle of a whole log, or of a
whole tenant, is besides held together by the log's own chain of digests.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from .history import Entry
from .stretch import Coverage, Stretch

FORMAT: Final = 1


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a bundle. `jobs` are the keys that were asked for; none where it is everything.

    `made_at` is RFC 3339, `by` the principal who exported it, `last` where the log ended then.
    """

    writ_bundle: int
    made_at: str
    by: str
    version: str
    tenant: str
    partition: int
    epoch: int
    last: int
    coverage: Coverage
    records: int
    jobs: tuple[str, ...] = ()


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    subject: str
    record: msgspec.Raw


class _Tail(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str


class BundleError(ValueError):
    """A file that is no bundle, or not the one that was made; the text says why."""


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_head = msgspec.json.Decoder(Head)
_line = msgspec.json.Decoder(_Line)
_tail = msgspec.json.Decoder(_Tail)
_encode = msgspec.json.Encoder().encode


def lines(
    stretch: Stretch, *, made_at: str, by: str, version: str, jobs: tuple[str, ...] = ()
) -> Iterator[bytes]:
    """The lines of a stretch's bundle."""
    head = Head(
        FORMAT,
        made_at,
        by,
        version,
        stretch.tenant,
        stretch.partition,
        stretch.epoch,
        stretch.last,
        stretch.coverage,
        len(stretch.entries),
        jobs,
    )
    digest = hashlib.sha256()
    for document in (head, *[_Line(e.seq, e.subject, msgspec.Raw(e.body)) for e in stretch.entries]):
        line = _encode(document) + b"\n"
        digest.update(line)
        yield line
    yield _encode(_Tail(digest.hexdigest())) + b"\n"


def write(path: Path, found: Iterator[bytes]) -> None:
    """Puts lines into a file, which is there as a whole or not at all. Raises OSError."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        with open(temporary, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    packed.writelines(found)
            else:
                raw.writelines(found)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Head, Stretch]:
    """What is in a file. Raises OSError, and BundleError where it is not exactly what was written."""
    body = path.read_bytes()
    if body.startswith(b"\x1f\x8b"):
        try:
            body = gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise BundleError(f"{path} cannot be unpacked: {error}") from error
    *found, end = body.split(b"\n")
    if end or len(found) < 2:
        raise BundleError(f"{path} is cut off, or no bundle: it does not end with a line of its checksum")
    try:
        head = _head.decode(found[0])
    except _UNREADABLE as error:
        raise BundleError(f"{path} is no bundle: its first line is no head ({error})") from error
    if head.writ_bundle != FORMAT:
        raise BundleError(f"{path} has format {head.writ_bundle}; this version reads format {FORMAT}")
    try:
        told = _tail.decode(found[-1]).sha256
    except _UNREADABLE as error:
        raise BundleError(f"{path} is cut off: its last line holds no checksum") from error
    digest = hashlib.sha256(body[: len(body) - len(found[-1]) - 1]).hexdigest()
    if digest != told:
        raise BundleError(
            f"{path} was changed after it was made: its checksum is {digest[:16]}..., it says {told[:16]}..."
        )
    entries = [_entry(path, number, line) for number, line in enumerate(found[1:-1], 2)]
    if len(entries) != head.records:
        raise BundleError(f"{path} holds {len(entries)} records; its head says {head.records}")
    stretch = Stretch(head.tenant, head.partition, head.epoch, head.last, head.coverage, tuple(entries))
    return head, stretch


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        found = _line.decode(line)
    except _UNREADABLE as error:
        raise BundleError(f"{path}, line {number}: {error}") from error
    return Entry(found.seq, found.subject, bytes(found.record))
