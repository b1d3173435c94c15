"""Every metric of Writ, by who tells it. `docs/reference/metrics.md` is made from this page.

LOG       folded from the log: the same after any restart, and on any machine that folds it
ENGINE    of the process that runs an engine, since its start
VIEWS     of the process of the views
          (of these three each partition has its own: their last label says which)
BROKER    what the broker says of itself and of its streams
WORKER    of a worker's process, since its start
COMPONENT of each process, and whether it could be asked
"""

from __future__ import annotations

from typing import Final

from .metrics import RECORDS, SECONDS, Kind, Metric, Scale

C, G, H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

TENANTS_MAX: Final = 20
"""Tenants that are told by name; the others are `other`."""

QUEUES_MAX: Final = 100
"""Queues of all tenants that are told by name; those past it are `other` of their tenant."""

TASKS_MAX: Final = 200
"""Tasks of all queues that are told by name; those past it are `other` of their queue."""

MODELS_MAX: Final = 50
"""Models of all tenants that are told by name."""

TOOLS_MAX: Final = 100
"""Tools of all tenants that are told by name."""

PROCESSES_MAX: Final = 50
"""Processes of all tenants that are told by name."""

_catalog: dict[str, Metric] = {}
_by_source: dict[str, list[Metric]] = {}
_MILLION: Final = 1_000_000
PARTITION: Final = "partition"
_OF_PARTITION: Final = ("log", "engine", "views")
_QUEUE: Final = ("tenant", "queue")
_TASK: Final = (*_QUEUE, "task")


def _metric(
    source: str,
    name: str,
    kind: Kind,
    help_: str,
    labels: tuple[str, ...] = (),
    scale: Scale | None = None,
    unit: int = 1,
) -> Metric:
    if source in _OF_PARTITION:
        labels = (*labels, PARTITION)
    made = Metric(name, kind, help_, labels, scale, scale.unit if scale else unit)
    assert name not in _catalog, f"{name} stands twice in the catalog"
    _catalog[name] = made
    _by_source.setdefault(source, []).append(made)
    return made


# --- folded from the log --------------------------------------------------------------------------------

LOG: Final = "log"
JOBS: Final = _metric(LOG, "writ_jobs", G, "Jobs by the state that they are in.", (*_QUEUE, "state"))
DEAD_OPEN: Final = _metric(
    LOG, "writ_dead_letters_open", G, "Dead letters that nobody has redriven, rerun or dropped.", _QUEUE
)
OLDEST: Final = _metric(
    LOG,
    "writ_queue_oldest_age_seconds",
    G,
    "How long the pending job that waits longest has been ready; 0 where none is pending.",
    _QUEUE,
)
PAUSED: Final = _metric(
    LOG, "writ_queue_paused", G, "1 while an operator keeps a queue from granting leases.", _QUEUE
)
SUBMITTED: Final = _metric(LOG, "writ_jobs_submitted_total", C, "Jobs accepted.", _TASK)
TRANSITIONS: Final = _metric(
    LOG,
    "writ_job_transitions_total",
    C,
    "Changes of state, from `none` for a new job.",
    (*_QUEUE, "from", "to"),
)
WAIT: Final = _metric(
    LOG,
    "writ_schedule_to_start_seconds",
    H,
    "From when a job was ready to run to the grant of its lease, once for each attempt.",
    _QUEUE,
    SECONDS,
)
EXECUTION: Final = _metric(
    LOG,
    "writ_execution_seconds",
    H,
    "How long an attempt ran: the worker's own measure where it gave one, else from grant to end.",
    _TASK,
    SECONDS,
)
ATTEMPTS: Final = _metric(
    LOG,
    "writ_attempts_total",
    C,
    "Attempts ended: completed, failed, lost (nobody renewed), released, snoozed, suspended, compensated.",
    (*_TASK, "outcome"),
)
GRANTS: Final = _metric(LOG, "writ_lease_grants_total", C, "Leases granted.", _QUEUE)
RENEWALS: Final = _metric(LOG, "writ_lease_renewals_total", C, "Leases renewed, each in each beat.", _QUEUE)
EXPIRIES: Final = _metric(LOG, "writ_lease_expiries_total", C, "Leases that nobody renewed.", _QUEUE)
STALE: Final = _metric(
    LOG, "writ_stale_reports_total", C, "Reports and renewals of a lease that was not live.", _QUEUE
)
RETRIES: Final = _metric(
    LOG, "writ_retries_total", C, "Retries scheduled, by the class of the error.", (*_QUEUE, "class")
)
DEAD: Final = _metric(
    LOG,
    "writ_dead_letters_total",
    C,
    "Jobs dead-lettered, by reason and by the class of the last error (`none` without one).",
    (*_QUEUE, "reason", "class"),
)
TOKENS: Final = _metric(
    LOG,
    "writ_model_tokens_total",
    C,
    "Tokens that calls of models took, by direction: input or output.",
    ("tenant", "model", "direction"),
)
COST: Final = _metric(
    LOG,
    "writ_model_cost_dollars_total",
    C,
    "What calls of models cost, by the price table of the time; those without a price add nothing.",
    ("tenant", "model"),
    unit=_MILLION,
)
UNPRICED: Final = _metric(
    LOG, "writ_model_calls_unpriced_total", C, "Calls of models without a price.", ("tenant", "model")
)
QUEUE_COST: Final = _metric(
    LOG,
    "writ_queue_cost_dollars_total",
    C,
    "What calls of models by jobs of a queue cost.",
    _QUEUE,
    unit=_MILLION,
)
TOOL_CALLS: Final = _metric(
    LOG,
    "writ_tool_calls_total",
    C,
    "Calls of tools: done, failed, denied, or recorded (answered from the record of another run).",
    ("tenant", "tool", "outcome"),
)
TOOL_TIME: Final = _metric(
    LOG,
    "writ_tool_call_seconds",
    H,
    "How long calls of tools took, by the worker's measure.",
    ("tenant", "tool"),
    SECONDS,
)
REFUSALS: Final = _metric(
    LOG, "writ_refusals_total", C, "Commands and reports refused, by kind.", ("tenant", "kind")
)
DUE_TIMES: Final = _metric(
    LOG,
    "writ_schedule_due_times_total",
    C,
    "Due times of schedules, by what came of them: fired or skipped.",
    ("tenant", "outcome"),
)
CANARIES: Final = _metric(
    LOG,
    "writ_canaries_judged_total",
    C,
    "Verdicts on canaries that are judged: fail where one was proved worse than live, pass where not.",
    ("tenant", "process", "outcome"),
)
RECORDS_TOTAL: Final = _metric(LOG, "writ_log_records_total", C, "Records of the log.", ("kind",))
ELECTIONS: Final = _metric(LOG, "writ_leader_elections_total", C, "Leaders elected.")
OUTAGE: Final = _metric(
    LOG,
    "writ_outage_seconds_total",
    C,
    "Time in which the log could not be written, or its leader stood still, as it was given back to leases.",
    unit=1_000,
)
NAMES_FULL: Final = _metric(
    LOG,
    "writ_label_values_full",
    G,
    "1 where so many values of a label were met that new ones are told as `other`.",
    ("label",),
)
EPOCH: Final = _metric(LOG, "writ_log_epoch", G, "The log's epoch; it grows where the log is made anew.")
NEWEST: Final = _metric(
    LOG,
    "writ_log_newest_timestamp_seconds",
    G,
    "Log time of the newest record told of here, in seconds since 1970.",
)

# --- an engine ------------------------------------------------------------------------------------------

ENGINE: Final = "engine"
LEADING: Final = _metric(ENGINE, "writ_engine_leading", G, "1 while this engine leads its partition.")
LED: Final = _metric(
    ENGINE,
    "writ_engine_led",
    G,
    "1 while this engine leads its partition, or has just heard of one that does.",
)
LAST_SEQ: Final = _metric(
    ENGINE, "writ_engine_last_sequence", G, "Newest record that this engine knows of its log."
)
ROUNDS: Final = _metric(ENGINE, "writ_engine_rounds_total", C, "Rounds that stored records.")
APPEND: Final = _metric(
    ENGINE,
    "writ_engine_append_seconds",
    H,
    "How long the broker took to store the records of a round.",
    scale=SECONDS,
)
BATCH: Final = _metric(
    ENGINE, "writ_engine_append_records", H, "Records stored by one append.", scale=RECORDS
)
APPENDS_FAILED: Final = _metric(
    ENGINE,
    "writ_engine_appends_failed_total",
    C,
    "Appends that failed: refused (surely not stored) or unknown (no answer).",
    ("how",),
)
REQUESTS: Final = _metric(
    ENGINE, "writ_engine_requests_total", C, "Requests of workers and operators that arrived."
)
SHED: Final = _metric(
    ENGINE, "writ_engine_requests_shed_total", C, "Requests told to ask again, as too many waited."
)
ASKED: Final = _metric(ENGINE, "writ_engine_requests_waiting", G, "Requests that wait for a round.")
INTAKE: Final = _metric(ENGINE, "writ_engine_intake_waiting", G, "Submits read that wait for a round.")
RUNNING: Final = _metric(ENGINE, "writ_engine_leases", G, "Live leases.")
LIVE: Final = _metric(ENGINE, "writ_engine_live_jobs", G, "Jobs that have not ended: all are in memory.")
LIVE_MAX: Final = _metric(
    ENGINE, "writ_engine_live_jobs_max", G, "Live jobs from which on submits are refused."
)
NO_ROOM: Final = _metric(
    ENGINE, "writ_engine_refuses_submits", G, "1 while submits are refused for want of room."
)
FLOODS: Final = _metric(
    ENGINE,
    "writ_tenant_floods_total",
    C,
    "How often submits of a tenant were refused for a while, as too many of its jobs were not decided on.",
    ("tenant",),
)
KEPT_OUT: Final = _metric(
    ENGINE,
    "writ_tenant_kept_out_timestamp_seconds",
    G,
    "Since when they are, of a tenant of which they are refused now, in seconds since 1970.",
    ("tenant",),
    unit=_MILLION,
)
IN_MEMORY: Final = _metric(
    ENGINE, "writ_engine_jobs_in_memory", G, "Live jobs, and those that have ended of late."
)
WAITERS: Final = _metric(ENGINE, "writ_engine_acquires_waiting", G, "Acquires of workers that wait for jobs.")
WAITING_SLOTS: Final = _metric(
    ENGINE, "writ_engine_slots_waiting", G, "Slots of workers for which those acquires wait."
)

# --- the views ------------------------------------------------------------------------------------------

VIEWS: Final = "views"
POSITION: Final = _metric(VIEWS, "writ_view_position", G, "Newest record that a view tells of.", ("view",))
LAG_RECORDS: Final = _metric(
    VIEWS, "writ_view_lag_records", G, "Records of the log that a view does not tell of yet.", ("view",)
)
LAG_SECONDS: Final = _metric(
    VIEWS,
    "writ_view_lag_seconds",
    G,
    "How long a view has been behind the log; 0 where it is not.",
    ("view",),
)
AWAY: Final = _metric(VIEWS, "writ_view_away", G, "1 while a view's file cannot be written.", ("view",))
HALTED: Final = _metric(
    VIEWS,
    "writ_view_halted",
    G,
    "1 where a view stopped for good, as it and the log do not agree.",
    ("view",),
)

BUDGET: Final = _metric(
    ENGINE,
    "writ_tenant_budget_usd",
    G,
    "Of a tenant's budget in its period: the limit, what is spent, and what is reserved for attempts.",
    ("tenant", "part"),
    unit=_MILLION,
)

CHECKPOINT_LAG: Final = _metric(
    VIEWS,
    "writ_audit_checkpoint_lag_seconds",
    G,
    "How long records have waited for a signed checkpoint; 0 where the newest covers them all.",
)
ALARM: Final = _metric(
    VIEWS, "writ_audit_alarm", G, "1 where the log or a stream is not as the rules leave it.", ("alarm",)
)
MIRROR_LAG: Final = _metric(
    VIEWS, "writ_audit_mirror_lag_records", G, "Records that the mirror of the log does not have yet."
)

# --- the broker -----------------------------------------------------------------------------------------

BROKER: Final = "broker"
CONNECTED: Final = _metric(
    BROKER, "writ_broker_connected", G, "1 while a component reaches the broker.", ("component",)
)
BREAK_GLASS: Final = _metric(
    BROKER, "writ_break_glass_total", C, "Connections as the broker's user for emergencies."
)
STREAM_BYTES: Final = _metric(
    BROKER, "writ_stream_bytes", G, "What a stream takes of the broker's disk.", ("stream",)
)
STREAM_MESSAGES: Final = _metric(BROKER, "writ_stream_messages", G, "Messages in a stream.", ("stream",))
REPLICAS: Final = _metric(
    BROKER, "writ_stream_replicas", G, "Servers on which a stream shall be kept.", ("stream",)
)
REPLICAS_CURRENT: Final = _metric(
    BROKER,
    "writ_stream_replicas_current",
    G,
    "Servers that have all of a stream now; 0 where nobody leads it.",
    ("stream",),
)
DISK_FREE: Final = _metric(BROKER, "writ_disk_free_bytes", G, "Free on the disk of the node's directory.")
DISK_SIZE: Final = _metric(BROKER, "writ_disk_size_bytes", G, "Size of the disk of the node's directory.")

# --- a worker -------------------------------------------------------------------------------------------

WORKER: Final = "worker"
SLOTS: Final = _metric(WORKER, "writ_worker_slots", G, "Attempts that this worker may run at a time.")
SLOTS_BUSY: Final = _metric(WORKER, "writ_worker_slots_busy", G, "Slots with a running attempt.")
WORKER_RUNS: Final = _metric(
    WORKER,
    "writ_worker_leases_total",
    C,
    "Leases of this worker: acquired, and how they ended; stale are reports that changed nothing.",
    ("what",),
)

# --- every process --------------------------------------------------------------------------------------

COMPONENT: Final = "component"
UP: Final = _metric(
    COMPONENT, "writ_component_up", G, "1 where a component of the node answered.", ("component",)
)
CPU: Final = _metric(COMPONENT, "writ_process_cpu_seconds_total", C, "CPU time of a process.", ("component",))
MEMORY: Final = _metric(
    COMPONENT, "writ_process_resident_memory_bytes", G, "Resident memory of a process.", ("component",)
)
STARTED: Final = _metric(
    COMPONENT,
    "writ_process_start_time_seconds",
    G,
    "When a process started, in seconds since 1970.",
    ("component",),
)

CATALOG: Final = _catalog
"""Name to metric, in the order of this page."""

BY_SOURCE: Final = _by_source
