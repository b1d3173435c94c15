"""Deciding about assets: a further version, a removal, and whether a job may read one."""

from __future__ import annotations

from collections.abc import Container
from fnmatch import fnmatchcase

from writ.schemas.assets import (
    ASSETS_MAX,
    VERSIONS_MAX,
    Asset,
    AssetRead,
    AssetRemoved,
    AssetSet,
    AssetVersion,
    KeptAsset,
    ReadAsset,
)
from writ.schemas.events import Fact
from writ.schemas.lifecycle import Job
from writ.schemas.queues import Queue
from writ.schemas.rejections import Rejection, RejectionKind

from .lease import fence

_FLAVOURS = ("an asset", "a secret")


def set_asset(
    asset: Asset | None, command: KeptAsset, count: int, erased: Container[str]
) -> tuple[Fact, ...] | Rejection:
    """The next version. `count` is how many assets the tenant has."""
    there = asset is not None and not asset.removed
    if command.rotate and not there:
        return _not_found(command.name)
    if not there and count >= ASSETS_MAX:
        reason = f"the tenant has {count} assets; at most {ASSETS_MAX} are kept"
        return Rejection(RejectionKind.TOO_LARGE, reason, "name")
    if asset is not None and there and asset.secret != command.secret:
        reason = (
            f"{command.name} is {_FLAVOURS[asset.secret]}, and {_FLAVOURS[command.secret]} is given; "
            "remove it first, or choose another name"
        )
        return Rejection(RejectionKind.CONFLICT, reason, "secret")
    versions = () if asset is None else asset.versions
    kept = sum([each.key not in erased for each in versions])
    if kept >= VERSIONS_MAX and not command.forget:
        reason = f"{command.name} has {kept} versions; at most {VERSIONS_MAX} are kept: rotate it with forget"
        return Rejection(RejectionKind.TOO_LARGE, reason, "name")
    number = versions[-1].version + 1 if versions else 1
    return (
        AssetSet(number, command.secret, command.key, command.digest, command.size_bytes, command.reason),
    )


def remove_asset(asset: Asset | None, name: str, reason: str) -> tuple[Fact, ...] | Rejection:
    """The end of a name."""
    if asset is None or asset.removed:
        return _not_found(name)
    return (AssetRemoved(reason),)


def found(
    asset: Asset | None, name: str, version: int | None, erased: Container[str]
) -> AssetVersion | Rejection:
    """The version that is meant, whose value is there."""
    if asset is None or (asset.removed and version is None):
        return _not_found(name)
    meant = asset.version(version)
    if meant is None:
        reason = f"{name} has no version {version}; the newest is {asset.newest.version}"
        return Rejection(RejectionKind.NOT_FOUND, reason, "version")
    if meant.key in erased:
        reason = f"the value of version {meant.version} of {name} was erased"
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    return meant


def read_asset(
    job: Job | None,
    queue: Queue,
    asset: Asset | None,
    command: ReadAsset,
    principal: str,
    erased: Container[str],
) -> tuple[Fact, ...] | Rejection:
    """That a running job is given a version of an asset."""
    void = fence(job, command, principal)
    if void is not None:
        return void
    assert job is not None
    name = command.name
    if not granted(queue, name, job.task):
        reason = (
            f"version {queue.version} of the policy of queue {job.queue} does not grant {name} to task "
            f"{job.task}: list it in its assets"
        )
        return Rejection(RejectionKind.DENIED, reason, "name")
    if command.version is not None and job.reproduces is None:
        reason = f"version {command.version} is asked for; only a reproduction reads another than the newest"
        return Rejection(RejectionKind.CONFLICT, reason, "version")
    meant = found(asset, name, command.version, erased)
    if isinstance(meant, Rejection):
        return meant
    assert asset is not None
    if asset.secret != command.secret:
        how = "ctx.secret" if asset.secret else "ctx.asset"
        reason = f"{name} is {_FLAVOURS[asset.secret]}; it is read with {how}"
        return Rejection(RejectionKind.CONFLICT, reason, "secret")
    return (
        AssetRead(job.attempt, command.token, name, meant.version, asset.secret, meant.digest, queue.version),
    )


def granted(queue: Queue, name: str, task: str) -> bool:
    """Whether a queue's policy lets jobs of a task read an asset."""
    return any(
        fnmatchcase(name, pattern) and any(fnmatchcase(task, each) for each in tasks)
        for pattern, tasks in queue.policy.assets.items()
    )


def _not_found(name: str) -> Rejection:
    return Rejection(RejectionKind.NOT_FOUND, f"there is no asset {name}", "name")
