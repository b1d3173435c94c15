"""The Merkle tree over a log's records, as RFC 6962 has it (RFC 9162 keeps the same tree).

A leaf is a record: its sequence, its subject and the digest of its stored bytes. The tree only grows, and
none of its bytes ever changes: erasing content destroys a key, and trimming a log moves records elsewhere.

Its complete subtrees are called by level and place: `(0, i)` is the hash of leaf `i`, `(k, i)` that over the
leaves `i * 2^k` up to `(i + 1) * 2^k`. Whoever keeps those can make every proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY: Final = hashlib.sha256().digest()
"""The root of a tree without leaves."""

Subtrees = Callable[[int, int], bytes]
"""The hash of a complete subtree, by its level and its place in it."""


def record_leaf(seq: int, subject: str, digest: str) -> bytes:
    """The hash of a record's leaf; `digest` is that of its stored bytes, in hex, as the chain has it."""
    return hashlib.sha256(f"\x00{seq} {subject} {digest}".encode()).digest()


def leaf_hash(content: bytes) -> bytes:
    """The hash of a leaf that holds `content`."""
    return hashlib.sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def peaks_of(size: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that a tree of so many leaves is made of, from the largest: level and place."""
    done = 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            yield level, done >> level
            done += 1 << level


def root_of(peaks: Sequence[bytes]) -> bytes:
    """The root over the hashes of `peaks_of`, in their order."""
    if not peaks:
        return EMPTY
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


class Tree:
    """A tree that grows leaf by leaf and keeps the hashes of its peaks alone: log2 of its size."""

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self._peaks = list(peaks)
        assert len(self._peaks) == size.bit_count(), "a tree has a peak for each one in its size"

    def add(self, leaf: bytes) -> list[bytes]:
        """Adds the hash of a leaf; the subtrees that it completes, from level 0 up."""
        completed, peaks = [leaf], self._peaks
        bits = self.size
        while bits & 1:
            leaf = hashlib.sha256(b"\x01" + peaks.pop() + leaf).digest()
            completed.append(leaf)
            bits >>= 1
        peaks.append(leaf)
        self.size += 1
        return completed

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Adds many, level by level: in half the time, where nobody needs the subtrees."""
        peaks = dict(zip([level for level, _ in peaks_of(self.size)], self._peaks, strict=True))
        sha256, nodes, level = hashlib.sha256, list(leaves), 0
        self.size += len(nodes)
        while nodes:
            if level in peaks:
                nodes.insert(0, peaks.pop(level))
            if len(nodes) & 1:
                peaks[level] = nodes.pop()
            nodes = [sha256(b"\x01" + a + b).digest() for a, b in zip(nodes[::2], nodes[1::2], strict=True)]
            level += 1
        self._peaks = [peaks[level] for level, _ in peaks_of(self.size)]

    @property
    def root(self) -> bytes:
        return root_of(self._peaks)


def root_at(size: int, subtrees: Subtrees) -> bytes:
    """The root of the tree as it was at a size."""
    return root_of([subtrees(level, place) for level, place in peaks_of(size)])


def _over(first: int, size: int, subtrees: Subtrees) -> bytes:
    """The hash over `size` leaves from `first` on, where RFC 6962 may ask for it."""
    parts = [subtrees(level, (first >> level) + place) for level, place in peaks_of(size)]
    return root_of(parts)


def _split(size: int) -> int:
    """How many of at least two leaves are in the left subtree."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, subtrees: Subtrees) -> list[bytes]:
    """The path that leads from leaf `index`, counted from 0, to the root of the tree of `size` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    path: list[bytes] = []
    first = 0
    while size > 1:
        left = _split(size)
        if index - first < left:
            path.append(_over(first + left, size - left, subtrees))
            size = left
        else:
            path.append(_over(first, left, subtrees))
            first, size = first + left, size - left
    return path[::-1]


def root_from_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to from the hash of a leaf; None where no path of that place has its length.

    RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    at, last, root = index, size - 1, leaf
    for step in path:
        if last == 0:
            return None
        if at & 1 or at == last:
            root = node_hash(step, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, step)
        at, last = at >> 1, last >> 1
    return root if last == 0 else None


def consistency_proof(old: int, new: int, subtrees: Subtrees) -> list[bytes]:
    """What shows that the tree of `new` leaves begins with that of `old` leaves."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {new} leaves has not grown from one of {old}")
    path: list[bytes] = []
    first, size, whole = 0, new, True
    while old < size:
        left = _split(size)
        if old <= left:
            path.append(_over(first + left, size - left, subtrees))
            size = left
        else:
            path.append(_over(first, left, subtrees))
            first, size, old, whole = first + left, size - left, old - left, False
    if not whole:
        path.append(_over(first, size, subtrees))
    return path[::-1]


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a path shows that the tree of the new root begins with that of the old one.

    RFC 9162, section 2.1.4.2.
    """
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not steps:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    was = now = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            was, now = node_hash(step, was), node_hash(step, now)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            now = node_hash(now, step)
        at, last = at >> 1, last >> 1
    return last == 0 and (was, now) == (old_root, new_root)
