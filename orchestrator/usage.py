"""What each tenant uses now of what quotas can limit: counted from the jobs as they change."""

from __future__ import annotations

from collections.abc import Set

from writ.schemas.jobs import HeldLease, Job
from writ.schemas.sealed import Sealed

from .decide.quotas import NO_LOAD, Load

Worker = tuple[str, str]
"""Principal and name of a worker."""


class _Counted:
    """What changes with every job, counted in place: a load is made of it for whoever asks."""

    __slots__ = ("input_bytes", "jobs", "reserved_microusd")

    def __init__(self) -> None:
        self.jobs = self.input_bytes = self.reserved_microusd = 0


class Usage:
    """The loads of all tenants."""

    def __init__(self) -> None:
        self._counted: dict[str, _Counted] = {}
        self._leases: dict[str, dict[Worker, set[str]]] = {}

    def of(self, tenant: str) -> Load:
        counted = self._counted.get(tenant)
        if counted is None:
            return NO_LOAD
        workers = len(self._leases.get(tenant, ()))
        return Load(counted.jobs, counted.input_bytes, workers, counted.reserved_microusd)

    def holds_lease(self, tenant: str, principal: str, worker: str) -> bool:
        """Whether a worker holds any lease of the tenant."""
        return (principal, worker) in self._leases.get(tenant, ())

    def held_by(self, tenant: str, principal: str, worker: str) -> Set[str]:
        """The keys of the jobs of which a worker holds the lease, in all queues."""
        return self._leases.get(tenant, {}).get((principal, worker), frozenset())

    def change(self, tenant: str, old: Job | None, new: Job | None) -> None:
        """A job was `old` and is `new`."""
        before = None if old is None or old.finished_at is not None else old.input
        after = None if new is None or new.finished_at is not None else new.input
        was, now = None if old is None else old.lease, None if new is None else new.lease
        if before is after and was is now:
            return
        counted = self._counted.get(tenant)
        if counted is None:
            counted = self._counted[tenant] = _Counted()
        if before is not after:
            counted.jobs += (after is not None) - (before is not None)
            counted.input_bytes += _size(after) - _size(before)
        if was is now:
            return
        if old is not None and was is not None:
            counted.reserved_microusd -= was.outstanding_microusd
            self._drop(tenant, was, old.key)
        if new is not None and now is not None:
            counted.reserved_microusd += now.outstanding_microusd
            held = self._leases.setdefault(tenant, {})
            held.setdefault((now.principal, now.worker), set()).add(new.key)

    def _drop(self, tenant: str, lease: HeldLease, key: str) -> None:
        held, who = self._leases[tenant], (lease.principal, lease.worker)
        held[who].discard(key)
        if not held[who]:
            del held[who]


def _size(content: Sealed | None) -> int:
    return 0 if content is None else content.size_bytes
