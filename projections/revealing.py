"""Sealed content, opened for an answer: no view and no index ever holds it."""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec.structs import replace

from writ.schemas.codec import decode, encode
from writ.schemas.sealed import UNSEALED, Keys, Sealed, mapped

from .reading import JobRow


def revealed(row: JobRow, keys: Keys | None) -> JobRow:
    """A job with its content in plain, as far as it was not erased."""
    job = row.job
    if keys is None or row.input.key == UNSEALED:
        return row
    error = job.error
    if error is not None and error.text is not None:
        error = replace(error, text=_opened(error.text, keys))
    progress = None if job.progress is None else _opened(job.progress, keys)
    tags = None if job.tags is None else _opened(job.tags, keys)
    return row._replace(
        job=replace(job, error=error, progress=progress, tags=tags),
        input=_opened(row.input, keys),
        output=None if row.output is None else _opened(row.output, keys),
    )


def revealed_record(body: bytes, keys: Keys) -> bytes:
    """A stored record with its content in plain, as far as it was not erased."""
    record = decode(body)
    events = tuple([mapped(event, partial(_opened, keys=keys)) for event in record.events])
    return body if events == record.events else encode(replace(record, events=events), record.prev)


def _opened(content: Sealed, keys: Keys) -> Sealed:
    plain = None if content.key == UNSEALED else keys.open(content)
    return content if plain is None else Sealed(UNSEALED, content.digest, plain=msgspec.Raw(plain))
