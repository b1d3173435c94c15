"""The orchestrator's own gate: each command is checked against what its principal was granted.

In a log that knows no tenant everybody may do everything that the broker lets through; a node creates its
tenants before it takes its first command. From then on what is not granted is denied.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from writ.schemas import bounds
from writ.schemas.access import OPERATIONS, SUBMIT, Decision, Resource, allowed, denied
from writ.schemas.commands import Command, SubmitJob
from writ.schemas.granting import ApproveAccess, DeclineAccess, GrantRole, OfPrincipal, UngrantRole
from writ.schemas.ids import SYSTEM_TENANT, split_job_key
from writ.schemas.principals import AccessDenied
from writ.schemas.rejections import Rejection
from writ.schemas.releasing import CheckGates, InScope
from writ.schemas.subjects import Addressed

from .decide.access import proposal_scope
from .messages import Asked
from .state import Partition

FOLD_US = 10 * bounds.SECOND_US
"""Repeats of a denial within so long of its record are counted, and told of together at the end of it."""

_KNOWN_MAX = 20_000
_FOLDED_MAX = 1_000
_FOREVER = 1 << 62
_Kind = tuple[str, str, str, str, str]
"""Tenant, principal, operation, resource and rule of a denial."""


class Guard:
    """Decisions, remembered until anything is granted or taken away."""

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._known: dict[tuple[str, str, str, str], int] = {}
        """Until when (log time) a principal may do something: tenant, principal, operation, queue."""

        self._as_of = -1

    def permits(self, tenant: str, principal: str, operation: str, queue: str, now: int) -> bool:
        """Whether an operation in a queue is allowed; next to nothing where it was asked before."""
        state = self._state
        if not state.governed:
            return True
        if self._as_of != state.access_changes:
            self._known.clear()
            self._as_of = state.access_changes
        key = (tenant, principal, operation, queue)
        until = self._known.get(key)
        if until is not None and now < until:
            return True
        decision = self.decide(tenant, principal, operation, Resource(tenant, queue), now)
        if decision.allowed:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = _FOREVER if decision.until is None else decision.until
        return decision.allowed

    def decide(self, tenant: str, principal: str, operation: str, resource: Resource, now: int) -> Decision:
        """The decision and its rule, from what the log says."""
        return allowed(self._state.principals.get(f"{tenant}.{principal}"), operation, resource, now)

    def denial(self, asked: Asked, now: int) -> tuple[Resource, Decision] | None:
        """What a request is denied, and by which rule; None where it is allowed."""
        tenant, principal, verb, queue = asked.address
        command = asked.command
        if not self._state.governed or tenant == SYSTEM_TENANT:
            return None
        if isinstance(command, Rejection) and verb not in OPERATIONS:
            return None  # there is no such thing to allow; what is malformed is denied before it is explained
        if not isinstance(command, OfPrincipal | InScope | CheckGates):
            if self.permits(tenant, principal, verb, queue, now):
                return None
            resource = Resource(tenant, queue)
        else:
            resource = self._about(tenant, queue, command)
        decision = self.decide(tenant, principal, verb, resource, now)
        return None if decision.allowed else (resource, decision)

    def _about(self, tenant: str, queue: str, command: OfPrincipal | InScope | CheckGates) -> Resource:
        """What a command about a principal or a release is about: the scope that it names, if any."""
        if not isinstance(command, OfPrincipal):
            return about_release(tenant, command)
        scope = queue
        if isinstance(command, GrantRole | UngrantRole):
            scope = command.scope
        elif isinstance(command, ApproveAccess | DeclineAccess):
            scope = proposal_scope(self._state.principals.get(f"{tenant}.{command.name}"), command.number)
        return Resource(tenant, scope, command.name)

    def naming(self, address: Addressed, job: SubmitJob, now: int, index: int | None) -> Rejection | None:
        """Why a submit may not name the jobs of other queues that it names; None where it may.

        To come after a job takes the right to submit beside it, and to take its output the right to read it.
        """
        if not (job.after or job.input_from or job.parent or job.reproduces):
            return None
        tenant, principal, _, queue = address
        wanted = [("job", key) for key in job.input_from.values()]
        wanted += [("job", job.reproduces.job)] if job.reproduces is not None else []
        wanted += [(SUBMIT, key) for key in (*job.after, *((job.parent,) if job.parent else ()))]
        for operation, key in wanted:
            where = split_job_key(key)[0]
            if where != queue and not self.permits(tenant, principal, operation, where, now):
                resource = Resource(tenant, where)
                decision = self.decide(tenant, principal, operation, resource, now)
                return replace(denied(principal, operation, resource, decision), index=index)
        return None


def about_release(tenant: str, command: Command) -> Resource:
    """What a command about releases is about: the scope that it names, or the whole tenant."""
    return Resource(tenant, command.scope) if isinstance(command, InScope | CheckGates) else Resource(tenant)


class Denials:
    """How often what was denied before is asked again, so that no flood of it fills the log."""

    def __init__(self) -> None:
        self._counted: dict[_Kind, tuple[int, int, Rejection]] = {}

    def first(self, address: Addressed, resource: str, rule: str, why: Rejection, now: int) -> bool:
        """Whether a denial is to be recorded now; else it is counted."""
        key = self._key(address, resource, rule)
        if key not in self._counted:
            self._counted[key] = (now + FOLD_US, 0, why)
            return True
        self._count(key, why, 1, now)
        return False

    def put_off(
        self, address: Addressed, resource: str, rule: str, why: Rejection, count: int, now: int
    ) -> None:
        """Counts denials of which none is to be recorded now."""
        self._count(self._key(address, resource, rule), why, count, now)

    def _key(self, address: Addressed, resource: str, rule: str) -> _Kind:
        """What denials are counted by."""
        key = (address.tenant, address.principal, address.verb, resource, rule)
        if key not in self._counted and len(self._counted) >= _FOLDED_MAX:
            return (*key[:3], "", rule)  # many resources: told of together
        return key

    def _count(self, key: _Kind, why: Rejection, more: int, now: int) -> None:
        end, count, _ = self._counted.get(key, (now + FOLD_US, 0, why))
        self._counted[key] = (end, count + more, why)

    def hurry(self) -> bool:
        """Ends the time of all that was counted: whoever counted is about to go. Whether anything was."""
        self._counted = {key: (0, count, why) for key, (_, count, why) in self._counted.items() if count}
        return bool(self._counted)

    def over(self, now: int) -> Iterator[tuple[str, str, AccessDenied]]:
        """What was counted and is to be told now: tenant, principal, event. What is not taken stays."""
        for key in [key for key, (end, _, _) in self._counted.items() if end <= now]:
            tenant, principal, operation, resource, rule = key
            _, count, why = self._counted.pop(key)
            if count:
                yield tenant, principal, AccessDenied(operation, resource, why, rule, count)

    def next_at(self) -> int | None:
        """Log time at which something is to be told."""
        return min([end for end, count, _ in self._counted.values() if count], default=None)
