"""The checker's view of what logs say to each other: sent once, accepted once and in order, then settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from writ.schemas.links import (
    GONE,
    Content,
    JobTold,
    Mark,
    MessageAccepted,
    MessageSent,
    MessageSettled,
    OfTenant,
)
from writ.schemas.records import Record
from writ.schemas.shards import OfShard

from .plan import HOME
from .tally import TERMINAL, Tally, Wrong


class Letter(NamedTuple):
    """One message."""

    mark: Mark
    content: Content


class Distant(NamedTuple):
    """What a log was told of a job of another partition, with its own log time and sequence of hearing it."""

    key: str
    state: str = "unheard of"
    ended_at: int = 0
    round: int = 1
    output: bytes | None = None
    ended_by: int = 0

    @property
    def live(self) -> bool:
        return self.state not in TERMINAL


class Mail:
    """What one log sent to others and accepted from them, by the other's number."""

    def __init__(self, partition: int, jobs: dict[str, Tally]) -> None:
        self.partition = partition
        self._jobs = jobs
        self._distant: dict[str, Distant] = {}
        self._told: dict[tuple[str, int], int] = {}
        """A job that another partition asked for, and that partition, to the end that it was last told."""
        self.sent: dict[int, list[Letter]] = {}
        self.accepted: dict[int, list[Letter]] = {}
        self.settled: dict[int, Mark] = {}
        self.others: Sequence[Mail] = ()
        """Those of all partitions, this one too; empty where one log is looked at alone."""

    def take(self, record: Record) -> None:
        """The next record of kind `link`. Raises Wrong."""
        other = int(record.key)
        for index, event in enumerate(record.events):
            match event:
                case MessageSent(content=content):
                    self._true(content)
                    if isinstance(content, JobTold):
                        self._told[f"{content.tenant}.{content.key}", other] = content.ended_by
                    self.sent.setdefault(other, []).append(
                        Letter(Mark(record.epoch, record.seq, index), content)
                    )
                case MessageAccepted(message=message, content=content):
                    self._accepted(other, Letter(message, content))
                    if isinstance(content, OfTenant | OfShard):
                        continue
                    place = f"{content.tenant}.{content.key}"
                    if not isinstance(content, JobTold):
                        self._told.setdefault((place, other), 0)
                    else:
                        state = "dead" if content.ended_by == GONE else str(content.state)
                        round_ = 1 if place not in self._distant else self._distant[place].round + 1
                        output = None if content.output is None else bytes(content.output.plain)
                        self._distant[place] = Distant(place, state, record.at, round_, output, record.seq)
                case MessageSettled(message=message):
                    self._settled(other, message)
                case _:
                    raise Wrong(f"{type(event).__name__} is no event of a link")

    def close(self) -> None:
        """Raises Wrong where a job has ended, or was opened again, and whoever asked for it was not told."""
        for (place, other), told in self._told.items():
            job = self._jobs.get(place)
            if job is not None and told != (0 if job.live else job.ended_by):
                raise Wrong(f"{place} is {job.state}, and partition {other} was not told")

    def distant(self, place: str) -> Distant | None:
        """A job of another partition; None for one that would live here."""
        if HOME[place.partition(".")[2].partition("~")[0]] == self.partition:
            return None
        return self._distant.get(place) or Distant(place)

    def _true(self, content: Content) -> None:
        """A log says of its own jobs what it knows of them."""
        if not isinstance(content, JobTold):
            return
        job = self._jobs.get(f"{content.tenant}.{content.key}")
        if job is None:
            if content.ended_by != GONE:
                raise Wrong(f"tells of {content.key}, which does not exist")
        elif content.ended_by != (0 if job.live else job.ended_by) or str(content.state) != job.state:
            raise Wrong(f"tells that {content.key} is {content.state}; it is {job.state}")

    def _accepted(self, other: int, letter: Letter) -> None:
        had = self.accepted.setdefault(other, [])
        if self.others:
            sent = self.others[other].sent.get(self.partition, [])
            if len(had) == len(sent):
                raise Wrong(f"accepts {letter} of partition {other}, which was not sent")
            if sent[len(had)] != letter:
                raise Wrong(f"accepts {letter} of partition {other}, where {sent[len(had)]} was next")
        had.append(letter)

    def _settled(self, other: int, message: Mark) -> None:
        if message <= self.settled.get(other, Mark(0, 0, 0)):
            raise Wrong(f"settles {message} with partition {other} again")
        if self.others and not any(
            letter.mark == message for letter in self.others[other].accepted.get(self.partition, ())
        ):
            raise Wrong(f"settles {message}, which partition {other} has not accepted")
        self.settled[other] = message

    def left(self) -> list[str]:
        """What was sent and is not accepted, or accepted and not settled; nothing once all is quiet."""
        found: list[str] = []
        for other, letters in self.sent.items():
            accepted = self.others[other].accepted.get(self.partition, [])
            if len(accepted) < len(letters):
                found.append(f"partition {other} never accepted {letters[len(accepted)]}")
            elif self.settled.get(other) != letters[-1].mark:
                found.append(f"{letters[-1]} to partition {other} was never settled")
        return found
