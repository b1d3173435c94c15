"""Which release a grant gives a job, and why it gives none: by the process as this partition knows it."""

from __future__ import annotations

from typing import NamedTuple

from writ.schemas.lifecycle import Job
from writ.schemas.processes import Alias, Process, Release, named
from writ.schemas.rejections import Rejection, RejectionKind


class Chosen(NamedTuple):
    """The digest that a grant gives, or None where the job must wait; `why` says by what, in words."""

    digest: str | None
    why: str


def choose(job: Job, process: Process | None) -> Chosen:
    """The release for the next lease of a job that names one."""
    assert job.process is not None
    name, ref = named(job.process)
    if process is None:
        return Chosen(None, f"no process {name} is known")
    release, why = _meant(job, process, ref)
    if release is None:
        return Chosen(None, why)
    barred = bar(process, release)
    return Chosen(release.digest, why) if barred is None else Chosen(None, barred)


def bar(process: Process, release: Release) -> str | None:
    """Why no lease is given for a release; None where one may be."""
    if release.revoked is not None:
        return f"release {release.version} of {process.name} is revoked: {release.revoked}"
    if release.frozen is not None:
        return f"release {release.version} of {process.name} is frozen: {release.frozen}"
    if process.frozen is not None:
        return f"all of {process.name} is frozen: {process.frozen}"
    return None


def _meant(job: Job, process: Process, ref: str) -> tuple[Release | None, str]:
    if ref not in set(Alias):
        release = process.releases.get(ref)
        return release, f"{process.name} has no release {ref}" if release is None else "named by its digest"
    pointer = process.pointer(ref, job.queue)
    if job.steps and job.release is not None:
        moved = pointer is not None and job.release in pointer.left
        kept = process.releases.get(job.release)
        if kept is not None and not moved:
            return kept, "kept since its first recorded step"
    if pointer is None:
        return None, f"alias {ref} of {process.name} points at no release for queue {job.queue}"
    canary = process.canary(job.queue) if ref == Alias.LIVE else None
    if canary is not None and canary.takes(job.key, job.fairness_key):
        release = process.releases[canary.digest]
        if bar(process, release) is None:
            return release, f"in the canary of scope {canary.scope}, since record {canary.seq}"
    return process.releases[pointer.digest], f"{ref} in scope {pointer.scope}, since record {pointer.seq}"


def at_submit(text: str, process: Process | None, index: int | None) -> str | Rejection:
    """What a submit names, as the job keeps it: a version becomes the digest that it stands for."""
    name, ref = named(text)
    if process is None:
        reason = f"process names {name}, which is not known; publish it first"
        return Rejection(RejectionKind.NOT_FOUND, reason, "process", index)
    if ref in set(Alias):
        return text
    release = process.find(ref)
    if release is None:
        reason = f"process names {text}; {name} has no such release"
        return Rejection(RejectionKind.NOT_FOUND, reason, "process", index)
    if release.revoked is not None:
        reason = f"process names {text}, which is revoked: {release.revoked}"
        return Rejection(RejectionKind.CONFLICT, reason, "process", index)
    return f"{name}@{release.digest}"
