"""Reads of a node with several partitions: what the views of the first do not hold, those of the others tell.

A list goes through the partitions one after the other, each in its own order, and its cursors say in which
one it goes on: `@2:` before what that one's own cursor is. One thing is looked for in all of them. All other
reads are of the first partition, unless the subject names another.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec.structs import replace

from writ.broker.ports import OutcomeUnknown
from writ.projections.shown import PAGE_MAX_BYTES
from writ.schemas.commands import Answer
from writ.schemas.queries import NodeStatus, PartitionStatus
from writ.schemas.rejections import RejectionKind
from writ.schemas.verbs import QUERY_VERBS

LISTS: Final = frozenset(
    {"jobs", "dead", "queues", "schedules", "operations", "batches", "holds", "audit", "attempts"}
)
ONE: Final = frozenset({"job", "records", "prove"})
"""Reads of one thing, which is in one partition; a job's id may be in queues of several."""

_CURSOR: Final = re.compile(r"@([0-9]{1,2}):(.*)", re.DOTALL)

Answers = Callable[[str, bytes], Awaitable[bytes]]
Page = dict[str, msgspec.Raw]

_page = msgspec.json.Decoder(Page).decode
_rows = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode


class Front:
    """`own` answers for the first partition, `ask` for the others, on their subjects.

    `ask` raises OutcomeUnknown where nobody answers. `who` leads a partition is asked where its views do not.
    """

    def __init__(self, own: Answers, ask: Answers, who: Callable[[int], Awaitable[str | None]]) -> None:
        self.partitions = 1
        self._own = own
        self._ask = ask
        self._who = who

    async def answer(self, subject: str, body: bytes) -> bytes:
        """The answer to a query; nothing is raised."""
        parts = subject.split(".")
        verb = parts[4] if len(parts) == _WHOLE else ""
        if self.partitions == 1 or not (verb in LISTS or verb in ONE or verb == "status"):
            return await self._own(subject, body)
        if verb == "status":
            return await self._status(subject, body)
        try:
            query = _page(body or b"{}")
        except msgspec.MsgspecError:
            return await self._own(subject, body)  # it says what is wrong with it
        query.pop("min_position", None)  # of one log: each is read up to its newest record
        if verb in LISTS:
            found = _CURSOR.fullmatch(_text(query.get("cursor")))
            if found:
                del query["cursor"]
            asks, answers = QUERY_VERBS[verb]
            try:
                asked = msgspec.json.decode(_encode(query), type=asks)
            except msgspec.MsgspecError:
                return await self._own(subject, body)
            limit: int = cast("Any", asked).limit
            place = (int(found[1]), found[2]) if found else (0, _text(query.get("cursor")))
            return await self._list(subject, query, limit, place, _rows_of(answers))
        return await self._one(subject, query, _rows_of(QUERY_VERBS[verb][1]))

    async def _at(self, partition: int, subject: str, query: Page) -> bytes:
        body = _encode(query)
        if partition == 0:
            return await self._own(subject, body)
        try:
            return await self._ask(f"{subject}.{partition}", body)
        except OutcomeUnknown as silent:
            reason = f"the views of partition {partition} do not answer: {silent}; they are started again"
            return _encode({"error": {"kind": RejectionKind.TRY_LATER, "reason": reason}, "position": 0})

    # --- lists --------------------------------------------------------------------------------------------

    async def _list(self, subject: str, query: Page, limit: int, place: tuple[int, str], name: str) -> bytes:
        """At most `limit` rows, from a place on: a partition, and that one's cursor or nothing."""
        partition, cursor = place
        if partition >= self.partitions:
            reason = f"the cursor is of partition {partition}, and there are {self.partitions}"
            return _encode({"error": {"kind": RejectionKind.MALFORMED, "reason": reason, "field": "cursor"}})
        rows: list[msgspec.Raw] = []
        while True:
            asked = query | {"limit": _raw(limit - len(rows)), "cursor": _raw(cursor or None)}
            said = await self._at(partition, subject, asked)
            page = _page(said)
            if "error" in page:
                return said
            rows += _rows(page.get(name) or b"[]")
            cursor = _text(page.get("next"))
            if not cursor:
                partition += 1
            room = PAGE_MAX_BYTES - sum(map(len, map(bytes, rows)))
            if cursor or partition >= self.partitions or len(rows) >= limit or len(said) > room:
                break
        more = f"@{partition}:{cursor}" if partition and partition < self.partitions else cursor or None
        return _encode(page | {name: _raw(rows), "next": _raw(more)})

    # --- one thing ----------------------------------------------------------------------------------------

    async def _one(self, subject: str, query: Page, name: str) -> bytes:
        """What the first partition tells that knows of it; of jobs with an id all that do."""
        everywhere = subject.endswith(".job") and _text(query.get("queue")) == ""
        best, jobs = b"", list[msgspec.Raw]()
        for partition in range(self.partitions):
            said = await self._at(partition, subject, query)
            page = _page(said)
            error = msgspec.json.decode(page.get("error") or b"null")
            if error and error["kind"] != RejectionKind.NOT_FOUND:
                return said
            knows = name in page
            if knows and not everywhere:
                return said
            best = said if knows or not best else best
            jobs += _rows(page[name]) if knows else []
        return _encode(_page(best) | {name: _raw(jobs)}) if jobs else best

    # --- the status ---------------------------------------------------------------------------------------

    async def _status(self, subject: str, body: bytes) -> bytes:
        whole = msgspec.json.decode(await self._own(subject, body), type=NodeStatus)
        if whole.error is not None:
            return _encode(whole)
        for partition in range(1, self.partitions):
            try:
                told = await self._ask(f"{subject}.{partition}", body)
                whole = _joined(whole, msgspec.json.decode(told, type=NodeStatus), partition)
            except OutcomeUnknown as silent:
                leads = PartitionStatus(partition, 0, await self._who(partition), 0)
                away = f"the views of partition {partition} do not answer: {silent}"
                whole = replace(
                    whole, partitions=(*whole.partitions, leads), warnings=(*whole.warnings, away)
                )
        return _encode(whole)


_WHOLE: Final = 5


def _rows_of(answers: type[Answer]) -> str:
    """The field of an answer that holds what was found: the first of its own. It is left out where empty."""
    return answers.__struct_fields__[len(Answer.__struct_fields__)]


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _text(value: msgspec.Raw | None) -> str:
    """A string of a message, empty where there is none."""
    said = None if value is None else msgspec.json.decode(value)
    return said if isinstance(said, str) else ""


def _joined(whole: NodeStatus, other: NodeStatus, partition: int) -> NodeStatus:
    """The status of a node with what another of its partitions tells."""
    jobs = dict(whole.jobs)
    for state, count in other.jobs.items():
        jobs[state] = jobs.get(state, 0) + count
    views = [replace(view, name=f"{view.name} of {partition}") for view in other.views]
    durability = whole.durability
    if durability is not None and other.durability is not None:
        durability = replace(
            durability,
            orchestrators=_merged(durability.orchestrators, other.durability.orchestrators),
            reads=durability.reads | other.durability.reads,
            written=min(durability.written, other.durability.written),
        )
    return replace(
        whole,
        partitions=(*whole.partitions, *other.partitions),
        views=(*whole.views, *views),
        jobs=jobs,
        warnings=_merged(whole.warnings, other.warnings),
        durability=durability,
    )


def _merged(first: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *more]))
