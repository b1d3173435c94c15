"""What a client can look up of what happened: audit, attempts, workers, traffic, cost, tools, the dead."""

from __future__ import annotations

from typing import Any

from writ.schemas.lists import (
    AttemptsPage,
    AttemptsQuery,
    AuditPage,
    AuditQuery,
    CostPage,
    CostQuery,
    ToolCallsPage,
    ToolCallsQuery,
    ToolsPage,
    ToolsQuery,
    TrafficPage,
    TrafficQuery,
    WorkersPage,
    WorkersQuery,
)
from writ.schemas.queries import DeadPage, DeadQuery

from .asking import Asking


class Listing(Asking):
    """Reads of the further views. `filters` are the fields of the query that each names.

    Pass a page's `next` as `cursor` for the following one. Lists of what happened come newest first, and a
    page of one may hold less than its limit and still have a `next`.
    """

    async def audit(self, /, *, timeout_s: float = 10.0, **filters: Any) -> AuditPage:
        """What principals did and were refused, see AuditQuery: `actor`, `queue`, `job`, `since`, ..."""
        return await self._query("audit", AuditQuery(**filters), AuditPage, timeout_s)

    async def attempts(self, /, *, timeout_s: float = 10.0, **filters: Any) -> AttemptsPage:
        """Attempts with their leases, see AttemptsQuery: `job`, `queue`, `worker`, `since`, ..."""
        return await self._query("attempts", AttemptsQuery(**filters), AttemptsPage, timeout_s)

    async def workers(self, /, *, timeout_s: float = 10.0, **filters: Any) -> WorkersPage:
        """Workers with leases, and those heard of from `since` on, see WorkersQuery."""
        return await self._query("workers", WorkersQuery(**filters), WorkersPage, timeout_s)

    async def traffic(self, /, *, timeout_s: float = 10.0, **filters: Any) -> TrafficPage:
        """What came and went in queues from `since` on, and how long jobs waited, see TrafficQuery."""
        return await self._query("traffic", TrafficQuery(**filters), TrafficPage, timeout_s)

    async def cost(self, /, *, timeout_s: float = 10.0, **filters: Any) -> CostPage:
        """Tokens and what they cost, summed `by` day, queue, task, model or release, see CostQuery."""
        return await self._query("cost", CostQuery(**filters), CostPage, timeout_s)

    async def tools(self, /, *, timeout_s: float = 10.0, **filters: Any) -> ToolsPage:
        """Tools with their calls, denials and times from `since` on, see ToolsQuery."""
        return await self._query("tools", ToolsQuery(**filters), ToolsPage, timeout_s)

    async def tool_calls(self, /, *, timeout_s: float = 10.0, **filters: Any) -> ToolCallsPage:
        """Calls of tools, see ToolCallsQuery: `tool`, `queue`, `job`, `outcome`, `since`, ..."""
        return await self._query("tool_calls", ToolCallsQuery(**filters), ToolCallsPage, timeout_s)

    async def dead(self, /, *, timeout_s: float = 10.0, **filters: Any) -> DeadPage:
        """Dead letters that nobody has settled, counted by queue and cause, see DeadQuery."""
        return await self._query("dead", DeadQuery(**filters), DeadPage, timeout_s)
