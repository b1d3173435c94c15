"""Content of erasable jobs, sealed on its way into the log and opened for whoever runs them.

A job's key is that of its input; what comes later is sealed under the same. Decisions are made of plain
content, but for errors: their text counts in the cause of a death, which must come out the same from the log.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from writ.schemas.events import Fact, JobSubmitted
from writ.schemas.lifecycle import Job
from writ.schemas.sealed import UNSEALED, Keys, Sealed, seal

from .links import ONE
from .state import Partition

Seal = Callable[[Sealed], Sealed]
_S = TypeVar("_S", bound=msgspec.Struct)
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
        elif isinstance(events[0], JobSubmitted) and self.asked_for(tenant, key, data_subject):
            under = self._key_of(tenant, data_subject)
        else:
            return events
        if under == UNSEALED:
            return events
        change = partial(self._under, under)
        return tuple([_mapped(event, change) for event in events])

    def _under(self, key: str, content: Sealed) -> Sealed:
        return self.keys.seal(key, bytes(content.plain)) if content.key == UNSEALED else content

    def asked_for(self, tenant: str, key: str, data_subject: str | None) -> bool:
        """Whether a new job's content is to be sealed."""
        return data_subject is not None or self._state.erasable(tenant, key.partition("~")[0])

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
        return _mapped(job, self._plain)

    def _plain(self, content: Sealed) -> Sealed:
        return Sealed(UNSEALED, content.digest, plain=msgspec.Raw(self.open(content)))

    def open(self, content: Sealed) -> bytes:
        """The JSON text of an envelope; null where it was erased."""
        found = self.keys.open(content)
        return _NULL if found is None else found


def _mapped(struct: _S, change: Seal) -> _S:
    """The Struct with each envelope in it, at any depth, changed."""
    changed: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        new = _changed(value, change)
        if new is not value:
            changed[name] = new
    return replace(struct, **changed) if changed else struct


def _changed(value: Any, change: Seal) -> Any:
    if isinstance(value, Sealed):
        return change(value)
    if isinstance(value, msgspec.Struct):
        return _mapped(value, change)
    if isinstance(value, tuple):
        items: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        each = [_changed(one, change) for one in items]
        same = all(new is old for new, old in zip(each, items, strict=True))
        return items if same else tuple(each)
    return value
