"""What the process of an engine tells: the engine, and its connection."""

from __future__ import annotations

import os
from typing import Any

from writ.orchestrator.engine import Engine
from writ.orchestrator.hosting_desk import used
from writ.schemas import catalog
from writ.schemas.metrics import Family, of_partition, told

from .components import name_in
from .processes import process

_PARTS = 3


def of_engine(engine: Engine, link: Any) -> list[Family]:
    """`link` is the connection that the engine appends on."""
    state, figures, waiting = engine.state, engine.figures, engine.waiting
    families = [
        told(catalog.LEADING, int(engine.leading.is_set())),
        told(catalog.LED, int(engine.leader is not None)),
        told(catalog.LAST_SEQ, state.seq),
        told(catalog.ROUNDS, figures.rounds),
        told(catalog.APPEND, figures.append),
        told(catalog.BATCH, figures.batch),
        told(catalog.APPENDS_FAILED, figures.refused, "refused"),
        told(catalog.APPENDS_FAILED, figures.unknown, "unknown"),
        told(catalog.REQUESTS, figures.requests),
        told(catalog.SHED, figures.shed),
        told(catalog.ASKED, waiting.requests),
        told(catalog.INTAKE, waiting.submits),
        told(catalog.RUNNING, len(state.running)),
        told(catalog.LIVE, state.jobs.live),
        told(catalog.LIVE_MAX, engine.live_max),
        told(catalog.NO_ROOM, int(engine.no_room is not None)),
        told(catalog.IN_MEMORY, len(state.jobs.here)),
        told(catalog.WAITERS, waiting.acquires),
        told(catalog.WAITING_SLOTS, waiting.slots),
        *[told(catalog.FLOODS, count, tenant) for tenant, count in figures.floods.items()],
        *_kept_out(engine),
        *_budgets(engine),
    ]
    name = name_in(catalog.ENGINE, state.number)
    return [
        *of_partition(state.number, families),
        told(catalog.CONNECTED, int(link.is_connected), name),
        *process(name, os.getpid()),
    ]


def _kept_out(engine: Engine) -> list[Family]:
    """The tenants that are, those of the longest time, as far as tenants are told by name."""
    first = sorted([(at, tenant) for tenant, at in engine.kept_out.items()])[: catalog.TENANTS_MAX]
    return [told(catalog.KEPT_OUT, at, tenant) for at, tenant in first]


def _budgets(engine: Engine) -> list[Family]:
    """Of each tenant that has one, as far as tenants are told by name."""
    state, found = engine.state, list[Family]()
    for tenant, account in sorted(state.accounts.items()):
        budget = account.limits.budget
        if budget is None or len(found) >= catalog.TENANTS_MAX * _PARTS:
            continue
        uses = used(state, tenant, engine.now)
        found.append(told(catalog.BUDGET, budget.limit_microusd, tenant, "limit"))
        found.append(told(catalog.BUDGET, uses.spent_microusd, tenant, "spent"))
        found.append(told(catalog.BUDGET, uses.reserved_microusd, tenant, "reserved"))
    return found
