"""What somebody may do to a log behind everybody's back, and whether verification finds it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.stretch import Stretch
from writ.orchestrator.replay.verify import verify_stretch

Spoil = Callable[[list[Entry], int, random.Random], list[Entry]]


class Found(NamedTuple):
    """How many spoiled logs were looked at, and those that passed for sound."""

    spoiled: int
    passed: list[str]


def as_seen(stretch: Stretch) -> Stretch:
    """A log that a view has read to its end: what is left of it when the log itself is spoiled."""
    return replace(stretch, seen=(stretch.last, hashlib.sha256(stretch.entries[-1].body).hexdigest()))


def edited(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """One character of a record's body is another one, at any place where it stays JSON."""
    entry = entries[place]
    spots = [index for index, byte in enumerate(entry.body) if chr(byte).isalnum()]
    rng.shuffle(spots)
    for spot in spots:
        other = b"7" if chr(entry.body[spot]).isdigit() and entry.body[spot] != ord("7") else b"x"
        body = entry.body[:spot] + other + entry.body[spot + 1 :]
        try:
            msgspec.json.decode(body)
        except msgspec.MsgspecError:
            continue
        if body != entry.body:
            return [*entries[:place], entry._replace(body=body), *entries[place + 1 :]]
    raise AssertionError("a record without a letter")


def renamed(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """A record stands under another subject."""
    entry = entries[place]
    return [*entries[:place], entry._replace(subject=f"{entry.subject}x"), *entries[place + 1 :]]


def deleted(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """A record is missing, and the log has a hole."""
    return entries[:place] + entries[place + 1 :]


def closed_up(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """A record is missing, and those behind it have moved up."""
    return [each._replace(seq=number) for number, each in enumerate(deleted(entries, place, rng), 1)]


def inserted(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """A record stands twice, and those behind it have moved on."""
    twice = [*entries[: place + 1], *entries[place:]]
    return [each._replace(seq=number) for number, each in enumerate(twice, 1)]


def reordered(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """Two neighbours have changed places."""
    first = min(place, len(entries) - 2)
    swapped = [*entries[:first], entries[first + 1], entries[first], *entries[first + 2 :]]
    return [each._replace(seq=number) for number, each in enumerate(swapped, 1)]


def cut(entries: list[Entry], place: int, rng: random.Random) -> list[Entry]:
    """The log ends before a record."""
    return entries[:place]


WAYS: tuple[Spoil, ...] = (edited, renamed, deleted, closed_up, inserted, reordered, cut)


def spoil_everywhere(stretch: Stretch, rng: random.Random, most: int | None = None) -> Found:
    """Each way at each record, or at `most` of them."""
    stretch = as_seen(stretch)
    assert verify_stretch(stretch).ok
    places = list(range(len(stretch.entries)))
    if most is not None:
        # The first and the last are where a chain has one end only.
        places = sorted({0, places[-1], *rng.sample(places, min(most, len(places)))})
    passed: list[str] = []
    for place, way, spoiled in _spoiled(stretch, places, rng):
        if verify_stretch(spoiled).ok:
            passed.append(f"{way} at record {place + 1} of {len(stretch.entries)}")
    return Found(len(places) * len(WAYS), passed)


def _spoiled(stretch: Stretch, places: list[int], rng: random.Random) -> Iterator[tuple[int, str, Stretch]]:
    for place in places:
        for way in WAYS:
            entries = tuple(way(list(stretch.entries), place, rng))
            last = entries[-1].seq if entries else 0
            yield place, way.__name__, replace(stretch, entries=entries, last=last)
