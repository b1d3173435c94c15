"""Content of erasable jobs, sealed on its way into the log and opened for whoever runs them.

A job's key is that of its input; what comes later is sealed under the same. Decisions are made of plain
content, but for errors: their text counts in the cause of a death, which must come out the same from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from writ.schemas.events import Fact, JobSubmitted
from writ.schemas.lifecycle import Job
from writ.schemas.sealed import UNSEALED, Keys, Sealed, mapped, seal
from writ.schemas.steps import Reproduces

from .shards import ONE
from .state import Partition

_NULL: Final = b"null"


class Sealing:
    """One leadership's, over the key store of its node."""

    def __init__(self, state: Partition, keys: Keys) -> None:
        self._state = state
        self.keys = keys

    def sealed(
        self, tenant: str, key: str, events: tuple[Fact, ...], data_subject: str | None
    ) -> tuple[Fact, ...]:
        """A job's events with their content sealed, where the job's is."""
        job = self._state.jobs.get(f"{tenant}.{key}")
        if job is not None:
            under = job.input.key
        elif isinstance(events[0], JobSubmitted):
            under = self._of_new(tenant, key, data_subject, events[0].reproduces)
        else:
            return events
        if under == UNSEALED:
            return events
        change = partial(self._under, under)
        return tuple([mapped(event, change) for event in events])

    def _under(self, key: str, content: Sealed) -> Sealed:
        return self.keys.seal(key, bytes(content.plain)) if content.key == UNSEALED else content

    def _of_new(self, tenant: str, key: str, data_subject: str | None, reproduces: Reproduces | None) -> str:
        """The key of a new job: that of the run which it reproduces, as its content is the same."""
        first = self._first(tenant, reproduces)
        if first is not None and first.input.key != UNSEALED:
            return first.input.key
        if self.asked_for(tenant, key.partition("~")[0], data_subject):
            return self._key_of(tenant, data_subject)
        return UNSEALED

    def _first(self, tenant: str, reproduces: Reproduces | None) -> Job | None:
        return None if reproduces is None else self._state.jobs.get(f"{tenant}.{reproduces.job}")

    def asked_for(
        self, tenant: str, queue: str, data_subject: str | None, reproduces: Reproduces | None = None
    ) -> bool:
        """Whether a new job's content is to be sealed."""
        first = self._first(tenant, reproduces)
        if first is not None and first.input.key != UNSEALED:
            return True
        return data_subject is not None or self._state.erasable(tenant, queue)

    def digest_key(self, job: Job) -> bytes:
        """What its worker digests parameters with, so that a digest gives away nothing once it is destroyed.

        A reproduction's are the first run's, to be compared. Empty where content is plain.
        """
        first = self._first(job.tenant, job.reproduces) or job
        return b"" if first.input.key == UNSEALED else self.keys.digest_key(first.input.key)

    def _key_of(self, tenant: str, data_subject: str | None) -> str:
        if data_subject is None:
            return self.keys.new()
        # One whose erasure is decided may still be there: what comes later does not go with it.
        live = [key for key in self.of(tenant, data_subject) if key not in self._state.erased]
        return live[-1] if live else self.keys.new(self._subject(tenant, data_subject))

    def of(self, tenant: str, data_subject: str) -> list[str]:
        """The keys of a subject."""
        return self.keys.of(self._subject(tenant, data_subject))

    def _subject(self, tenant: str, data_subject: str) -> str:
        """Its name among keys: where partitions share a vault, each has keys of its own to destroy."""
        own = "" if self._state.links.partitions == ONE else f"{self._state.number}."
        return f"{tenant}.{own}{data_subject}"

    def seal_of(self, job: Job | None) -> Callable[[bytes], Sealed]:
        """How content that comes for a job is sealed."""
        if job is None or job.input.key == UNSEALED:
            return seal
        return partial(self.keys.seal, job.input.key)

    def revealed(self, job: Job | None) -> Job | None:
        """A job with its content in plain, for decisions that look into it."""
        if job is None or job.input.key == UNSEALED:
            return job
        return mapped(job, self._plain)

    def _plain(self, content: Sealed) -> Sealed:
        return Sealed(UNSEALED, content.digest, plain=msgspec.Raw(self.open(content)))

    def open(self, content: Sealed) -> bytes:
        """The JSON text of an envelope; null where it was erased."""
        found = self.keys.open(content)
        return _NULL if found is None else found
