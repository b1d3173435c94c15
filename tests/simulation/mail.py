"""The checker's view of what logs say to each other: sent once, accepted once and in order, then settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from writ.schemas.links import Content, Mark, MessageAccepted, MessageSent, MessageSettled
from writ.schemas.records import Record

from .tally import Wrong


class Letter(NamedTuple):
    """One message."""

    mark: Mark
    content: Content


class Mail:
    """What one log sent to others and accepted from them, by the other's number."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
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
                    self.sent.setdefault(other, []).append(
                        Letter(Mark(record.epoch, record.seq, index), content)
                    )
                case MessageAccepted(message=message, content=content):
                    self._accepted(other, Letter(message, content))
                case MessageSettled(message=message):
                    self._settled(other, message)
                case _:
                    raise Wrong(f"{type(event).__name__} is no event of a link")

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
