"""All reads of the views, by verb: what is asked, and what it is answered with."""

from __future__ import annotations

from typing import Final

from . import lists, proofs, queries, stored
from .commands import Answer
from .queries import Query

QUERY_VERBS: Final[dict[str, tuple[type[Query], type[Answer]]]] = {
    "jobs": (queries.JobsQuery, queries.JobsPage),
    "job": (queries.JobQuery, queries.JobsPage),
    "dead": (queries.DeadQuery, queries.DeadPage),
    "records": (queries.RecordsQuery, queries.RecordsPage),
    "log": (queries.LogQuery, queries.RecordsPage),
    "stretch": (queries.StretchQuery, queries.StretchPage),
    "queues": (queries.QueuesQuery, queries.QueuesPage),
    "schedules": (queries.SchedulesQuery, queries.SchedulesPage),
    "operations": (queries.OperationsQuery, queries.OperationsPage),
    "batches": (queries.BatchesQuery, queries.BatchesPage),
    "holds": (queries.HoldsQuery, queries.HoldsPage),
    "audit": (lists.AuditQuery, lists.AuditPage),
    "attempts": (lists.AttemptsQuery, lists.AttemptsPage),
    "workers": (lists.WorkersQuery, lists.WorkersPage),
    "traffic": (lists.TrafficQuery, lists.TrafficPage),
    "cost": (lists.CostQuery, lists.CostPage),
    "tools": (lists.ToolsQuery, lists.ToolsPage),
    "tool_calls": (lists.ToolCallsQuery, lists.ToolCallsPage),
    "checkpoint": (proofs.CheckpointQuery, proofs.CheckpointPage),
    "consistency": (proofs.ConsistencyQuery, proofs.ConsistencyPage),
    "prove": (proofs.ProveQuery, proofs.ProvePage),
    "principals": (lists.PrincipalsQuery, lists.PrincipalsPage),
    "whoami": (lists.WhoamiQuery, lists.PrincipalsPage),
    "can": (lists.CanQuery, lists.Verdict),
    "package": (stored.PackageQuery, stored.PackagePart),
    "keep_package": (stored.KeepPackage, stored.PackageKept),
    "status": (queries.StatusQuery, queries.NodeStatus),
}

SYSTEM_QUERIES: Final[dict[str, tuple[type[Query], type[Answer]]]] = {
    "bearer": (lists.BearerQuery, lists.Bearer),
}
"""What parts of Writ ask, in the tenant that no principal can be in."""
