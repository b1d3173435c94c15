"""What each tenant uses now of what quotas can limit: counted from the jobs as they change."""

from __future__ import annotations

from collections.abc import Set

from writ.schemas.jobs import HeldLease, Job

from .decide.quotas import NO_LOAD, Load

Worker = tuple[str, str]
"""Principal and name of a worker."""


class Usage:
    """The loads of all tenants."""

    def __init__(self) -> None:
        self._loads: dict[str, Load] = {}
        self._leases: dict[str, dict[Worker, set[str]]] = {}

    def of(self, tenant: str) -> Load:
        return self._loads.get(tenant, NO_LOAD)

    def holds_lease(self, tenant: str, principal: str, worker: str) -> bool:
        """Whether a worker holds any lease of the tenant."""
        return (principal, worker) in self._leases.get(tenant, ())

    def held_by(self, tenant: str, principal: str, worker: str) -> Set[str]:
        """The keys of the jobs of which a worker holds the lease, in all queues."""
        return self._leases.get(tenant, {}).get((principal, worker), frozenset())

    def change(self, tenant: str, old: Job | None, new: Job | None) -> None:
        """A job was `old` and is `new`."""
        jobs, size_bytes = _live(new)
        jobs_before, size_before = _live(old)
        was, now = None if old is None else old.lease, None if new is None else new.lease
        if was is now and (jobs, size_bytes) == (jobs_before, size_before):
            return
        if old is not None and was is not None and was is not now:
            self._drop(tenant, was, old.key)
        if new is not None and now is not None and was is not now:
            held = self._leases.setdefault(tenant, {})
            held.setdefault((now.principal, now.worker), set()).add(new.key)
        load = self._loads.get(tenant, NO_LOAD)
        self._loads[tenant] = Load(
            load.jobs + jobs - jobs_before,
            load.input_bytes + size_bytes - size_before,
            len(self._leases.get(tenant, ())),
            load.reserved_microusd + _outstanding(now) - _outstanding(was),
        )

    def _drop(self, tenant: str, lease: HeldLease, key: str) -> None:
        held, who = self._leases[tenant], (lease.principal, lease.worker)
        held[who].discard(key)
        if not held[who]:
            del held[who]


def _live(job: Job | None) -> tuple[int, int]:
    return (0, 0) if job is None or job.finished_at is not None else (1, job.input.size_bytes)


def _outstanding(lease: HeldLease | None) -> int:
    return 0 if lease is None else lease.outstanding_microusd
