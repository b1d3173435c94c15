"""The search view: the words of inputs and of last errors. A node has it where it was asked for.

Of sealed content there is nothing in it: neither words nor the job. So nothing has to be found and taken out
when content is erased.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from writ.schemas.events import AttemptFailed, Fact, JobEdited, JobSubmitted
from writ.schemas.ids import split_job_key
from writ.schemas.records import Record
from writ.schemas.sealed import UNSEALED, Sealed

from .paging import SCANNED_MAX
from .view import Write

NAME: Final = "search"
TEXT_MAX_CHARS: Final = 20_000
"""Of one input: what lies behind that is not found."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS places ( -- where the words of a job stand
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    id TEXT NOT NULL,
    opened INTEGER NOT NULL, -- sequence of the record that submitted it
    PRIMARY KEY (tenant, queue, id)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(tenant, input, error);
"""
_PLACE: Final = "INSERT INTO places VALUES (?, ?, ?, ?)"
_INSERT: Final = "INSERT INTO words (rowid, tenant, input, error) VALUES (?, ?, ?, ?)"
_INPUT: Final = "UPDATE words SET input = ? WHERE rowid = ?"
_ERROR: Final = "UPDATE words SET error = ? WHERE rowid = ?"
_LOOKUP: Final = (
    "SELECT p.tenant, p.queue, p.id, p.opened FROM json_each(?) AS wanted CROSS JOIN places AS p"
    " ON p.tenant = json_extract(wanted.value, '$[0]') AND p.queue = json_extract(wanted.value, '$[1]')"
    " AND p.id = json_extract(wanted.value, '$[2]')"
)
_MATCHES: Final = (
    "SELECT rowid FROM words WHERE words MATCH ? AND rowid >= ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"
)
_TERM: Final = re.compile(r'"([^"]*)"|(\S+)')

Json: TypeAlias = "str | int | float | bool | dict[str, Json] | list[Json] | None"
Address = tuple[str, str]
"""Tenant and key of a job."""


class SearchView:
    """The fold. A job's words stand under the sequence of its submit, as its row in the jobs view does."""

    name = NAME
    version = 1
    schema = _SCHEMA

    def __init__(self) -> None:
        self._known: dict[Address, int] = {}
        self._new: dict[Address, list[Any]] = {}
        self._inputs: dict[int, str] = {}
        self._errors: dict[int, str] = {}

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        """The jobs that are edited or have failed."""
        wanted = {
            (record.tenant, *split_job_key(record.key)): None
            for record in records
            if record.kind == "job" and any(isinstance(e, AttemptFailed | JobEdited) for e in record.events)
        }
        if wanted:
            for tenant, queue, job, opened in db.execute(_LOOKUP, (msgspec.json.encode([*wanted]).decode(),)):
                self._known[tenant, f"{queue}~{job}"] = opened

    def fold(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.kind == "job":
                for event in record.events:
                    self._fold_event(record, event)

    def _fold_event(self, record: Record, event: Fact) -> None:
        place = (record.tenant, record.key)
        new = self._new.get(place)
        match event:
            case JobSubmitted(input=content) if content.key == UNSEALED:
                self._new[place] = [record.seq, _tenant(record.tenant), _text(content), ""]
            case JobEdited(input=Sealed() as content):
                if new is not None:
                    new[2] = _text(content)
                elif place in self._known:
                    self._inputs[self._known[place]] = _text(content)
            case AttemptFailed(error=error):
                said = f"{error.type} {_text(error.text)}"
                if new is not None:
                    new[3] = said
                elif place in self._known:
                    self._errors[self._known[place]] = said
            case _:
                pass

    def writes(self) -> list[Write]:
        places = [(tenant, *split_job_key(key), row[0]) for (tenant, key), row in self._new.items()]
        writes = [
            Write(_PLACE, places),
            Write(_INSERT, list(self._new.values())),
            Write(_INPUT, [(text, opened) for opened, text in self._inputs.items()]),
            Write(_ERROR, [(text, opened) for opened, text in self._errors.items()]),
        ]
        return [write for write in writes if write.rows]

    def settle(self) -> None:
        self.discard()

    def discard(self) -> None:
        self._known, self._new, self._inputs, self._errors = {}, {}, {}, {}


def matches(
    db: sqlite3.Connection, tenant: str, text: str, first: int, end: int
) -> tuple[list[int], int | None]:
    """Jobs in whose input or last error all the words are, by the sequence that opened each, newest first.

    No more than a page looks at; then with the sequence below which there may be more.
    """
    terms = [quoted or word for quoted, word in _TERM.findall(text)]
    asked = [term.replace('"', '""') for term in terms if any(map(str.isalnum, term))]
    if not asked:
        return [], None
    words = " AND ".join([f'"{term}"' for term in asked])
    sought = f'tenant : "{_tenant(tenant)}" AND {{input error}} : ({words})'
    found = [int(opened) for (opened,) in db.execute(_MATCHES, (sought, first, end, SCANNED_MAX))]
    return found, found[-1] if len(found) == SCANNED_MAX else None


def _tenant(name: str) -> str:
    """A tenant's name as one word."""
    return f"t{name.encode().hex()}"


def _text(content: Sealed | None) -> str:
    """The words of JSON, without what makes it JSON; nothing of what is sealed."""
    if content is None or content.key != UNSEALED or not bytes(content.plain):
        return ""
    parts: list[str] = []
    room = TEXT_MAX_CHARS
    for part in _parts(msgspec.json.decode(content.plain)):
        parts.append(part[:room])
        room -= len(part) + 1
        if room <= 0:
            break
    return "\n".join(parts)


def _parts(value: Json) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for name, each in value.items():
                yield str(name)
                yield from _parts(each)
        case list():
            for each in value:
                yield from _parts(each)
        case bool() | None:
            pass
        case _:
            yield str(value)
