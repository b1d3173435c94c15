"""The tree view: the Merkle tree over a log's records, from which checkpoints and proofs are made.

It is kept in tiles of 256 hashes, as https://c2sp.org/tlog-tiles has them: a tile of level 0 holds leaves,
one of level 1 the hashes over whole tiles of level 0, and so on. What lies between is computed when it is
asked for, and a batch of records costs a row or two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from writ.schemas.merkle import HASH_BYTES, Subtrees, record_leaf, root_at
from writ.schemas.records import Record

from .file import position_of
from .view import Write

_BITS: Final = 8
_TILE_BYTES: Final = HASH_BYTES << _BITS
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tiles (
    level INTEGER NOT NULL, place INTEGER NOT NULL,
    hashes BLOB NOT NULL, -- 32 bytes each; the last tile of a level may have fewer than 256
    PRIMARY KEY (level, place)
) WITHOUT ROWID
"""
_PUT: Final = "INSERT OR REPLACE INTO tiles VALUES (?, ?, ?)"
_TILE: Final = "SELECT hashes FROM tiles WHERE level = ? AND place = ?"


class Head(NamedTuple):
    """The tree as it is: of which epoch its newest record is, its size and its root."""

    epoch: int
    size: int
    root: bytes


class TreeView:
    """The fold."""

    name = "tree"
    version = 1
    schema = _SCHEMA

    def __init__(self) -> None:
        self._open: list[tuple[int, bytearray]] | None = None
        """By level, the place and the hashes of the tile that is being filled."""
        self._full: list[tuple[int, int, bytes]] = []
        self._digests: Sequence[str] = ()
        self._taken = 0

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        self._taken = 0
        if self._open is None:
            self._open = []
            count = position_of(db)  # of the hashes in a level
            while count:
                place = count >> _BITS
                found = db.execute(_TILE, (len(self._open), place)).fetchone()
                self._open.append((place, bytearray() if found is None else bytearray(found[0])))
                count = place

    def digests(self, digests: Sequence[str]) -> None:
        """Of the bytes of the records that are folded next."""
        self._digests = digests

    def fold(self, records: Sequence[Record]) -> None:
        digests = self._digests[self._taken : self._taken + len(records)]
        self._taken += len(records)
        leaves = [
            record_leaf(record.seq, f"{record.tenant}.{record.kind}.{record.key}", digest)
            for record, digest in zip(records, digests, strict=True)
        ]
        self._add(0, b"".join(leaves))

    def _add(self, level: int, nodes: bytes) -> None:
        """Adds hashes to a level, and to those above it what they complete."""
        assert self._open is not None, "load() comes before fold()"
        if level == len(self._open):
            self._open.append((0, bytearray()))
        place, hashes = self._open[level]
        over: list[bytes] = []
        while len(hashes) + len(nodes) >= _TILE_BYTES:
            room = _TILE_BYTES - len(hashes)
            tile, nodes = bytes(hashes) + nodes[:room], nodes[room:]
            self._full.append((level, place, tile))
            over.append(_over(tile))
            place, hashes = place + 1, bytearray()
        self._open[level] = (place, hashes + nodes)
        if over:
            self._add(level + 1, b"".join(over))

    def writes(self) -> list[Write]:
        assert self._open is not None, "load() comes before writes()"
        rest = [(level, place, bytes(some)) for level, (place, some) in enumerate(self._open) if some]
        return [Write(_PUT, [*self._full, *rest])]

    def settle(self) -> None:
        self._full = []

    def discard(self) -> None:
        self._open, self._full = None, []


def _over(hashes: bytes) -> bytes:
    """The hash over a power of two of hashes that stand beside each other."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join([sha256(b"\x01" + hashes[at : at + 2 * HASH_BYTES]).digest() for at in pairs])
    return hashes


def subtrees_in(db: sqlite3.Connection) -> Subtrees:
    """The complete subtrees of the tree in a view's file, within one read transaction."""
    tiles: dict[tuple[int, int], bytes] = {}

    def hash_of(level: int, place: int) -> bytes:
        tile_level, height = divmod(level, _BITS)
        first, count = place << height, 1 << height
        tile, at = first >> _BITS, (first & ((1 << _BITS) - 1)) * HASH_BYTES
        if (tile_level, tile) not in tiles:
            found = db.execute(_TILE, (tile_level, tile)).fetchone()
            tiles[tile_level, tile] = b"" if found is None else bytes(found[0])
        part = tiles[tile_level, tile][at : at + count * HASH_BYTES]
        assert len(part) == count * HASH_BYTES, f"the tree has no subtree {level}, {place}"
        return _over(part)

    return hash_of


def head(db: sqlite3.Connection) -> Head:
    """The tree in a view's file. Raises sqlite3.Error."""
    size = position_of(db)
    epoch = next((int(epoch) for (epoch,) in db.execute("SELECT epoch FROM position")), 0)
    return Head(epoch, size, root_at(size, subtrees_in(db)))
