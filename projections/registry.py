"""All views, in the order in which they are shown. To add one, add a line; another for what it answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from writ.schemas.commands import Answer
from writ.schemas.lists import (
    AttemptsQuery,
    AuditQuery,
    CostQuery,
    PrincipalsQuery,
    ToolCallsQuery,
    ToolsQuery,
    TrafficQuery,
    WorkersQuery,
)
from writ.schemas.queries import (
    BatchesQuery,
    HoldsQuery,
    OperationsQuery,
    Query,
    QueuesQuery,
    SchedulesQuery,
)

from .attempts import AttemptsView, attempts
from .audit import AuditView, audit
from .cost import CostView, cost
from .governed import batches, holds, operations, queues, schedules
from .jobs import JobsView
from .metrics import MetricsView
from .principals import PrincipalsView, principals
from .search import SearchView
from .tools import ToolsView, tool_calls, tools
from .traffic import TrafficView, traffic
from .tree import TreeView
from .view import View
from .workers import WorkersView, workers

VIEWS: Final[tuple[Callable[[], View], ...]] = (
    JobsView,
    AttemptsView,
    WorkersView,
    TrafficView,
    CostView,
    ToolsView,
    AuditView,
    MetricsView,
    TreeView,
    PrincipalsView,
)

OPTIONAL: Final[tuple[Callable[[], View], ...]] = (SearchView,)
"""Views that a node has only where they were asked for."""

APART: Final[frozenset[Callable[[], View]]] = frozenset({JobsView, TrafficView, MetricsView, SearchView})
"""Views that a second process folds while they are far behind (see `helping`): as costly as the rest."""


class Listed(NamedTuple):
    """A query and what answers it, for a tenant, from a view's file in one read transaction."""

    query: type[Query]
    read: Callable[[sqlite3.Connection, str, Any], Answer]


LISTS: Final[Mapping[str, Mapping[str, Listed]]] = {
    "jobs": {
        "queues": Listed(QueuesQuery, queues),
        "schedules": Listed(SchedulesQuery, schedules),
        "operations": Listed(OperationsQuery, operations),
        "batches": Listed(BatchesQuery, batches),
        "holds": Listed(HoldsQuery, holds),
    },
    "attempts": {"attempts": Listed(AttemptsQuery, attempts)},
    "workers": {"workers": Listed(WorkersQuery, workers)},
    "traffic": {"traffic": Listed(TrafficQuery, traffic)},
    "cost": {"cost": Listed(CostQuery, cost)},
    "tools": {"tools": Listed(ToolsQuery, tools), "tool_calls": Listed(ToolCallsQuery, tool_calls)},
    "principals": {"principals": Listed(PrincipalsQuery, principals)},
    "audit": {"audit": Listed(AuditQuery, audit)},
}
"""What the views answer beside the jobs themselves, by the view's name and the query's verb."""
