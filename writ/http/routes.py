"""All that the API does, one entry each. The routing and the document are made from this list."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Meta

from writ.schemas.bounds import SUBMIT_ARRAY_MAX_JOBS
from writ.schemas.commands import CONTROL_VERBS, Fence, Planned, SubmitJob, Token
from writ.schemas.forms import QueueName
from writ.schemas.granting import PublicKey
from writ.schemas.ids import split_job_key
from writ.schemas.processes import ProcessName
from writ.schemas.subjects import NO_QUEUE
from writ.schemas.supposed import Supposed
from writ.schemas.verbs import QUERY_VERBS

from . import gating, replaying, sessions
from .live import stream
from .route import ACCEPTED, OK, OfPartition, Route, command, listing, single
from .submits import Submitted, SubmittedMany, submit, submit_many
from .told import JobExplanation, Timeline, explanation, timeline

QUEUE: Final = "/v1/queues/{queue}"
JOB: Final = f"{QUEUE}/jobs/{{id}}"
SCHEDULE: Final = f"{QUEUE}/schedules/{{name}}"
BATCH: Final = f"{QUEUE}/batches/{{batch}}"
HOLD: Final = f"{QUEUE}/holds/{{name}}"
OPERATION: Final = f"{QUEUE}/operations/{{id}}"
PRINCIPAL: Final = "/v1/principals/{name}"
PROCESS: Final = "/v1/processes/{process}"


class OfQueue(msgspec.Struct, frozen=True, kw_only=True):
    queue: QueueName


class AsSeenFrom(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever may look from one queue alone names it."""

    queue: QueueName = NO_QUEUE


class OfJob(OfQueue, frozen=True, kw_only=True):
    id: Token


class OfName(OfQueue, frozen=True, kw_only=True):
    name: Token


class OfPrincipal(msgspec.Struct, frozen=True, kw_only=True):
    name: Token


class OfAsset(msgspec.Struct, frozen=True, kw_only=True):
    name: Token


class OfKey(OfPrincipal, frozen=True, kw_only=True):
    key: PublicKey


class OfToken(OfPrincipal, frozen=True, kw_only=True):
    token: Token


class OfSession(OfPrincipal, frozen=True, kw_only=True):
    session: Token


class OfProposal(OfPrincipal, frozen=True, kw_only=True):
    number: Fence


class OfProcess(msgspec.Struct, frozen=True, kw_only=True):
    process: ProcessName


class OfPromotion(OfProcess, frozen=True, kw_only=True):
    number: Fence


class OfGate(msgspec.Struct, frozen=True, kw_only=True):
    name: Token


class OfWorker(msgspec.Struct, frozen=True, kw_only=True):
    worker: Token


class OfBatch(OfQueue, frozen=True, kw_only=True):
    batch: Token


Jobs = Annotated[list[SubmitJob], Meta(min_length=1, max_length=SUBMIT_ARRAY_MAX_JOBS)]


def _list(path: str, verb: str, name: str = "") -> Route:
    return listing(path, name or f"list_{verb}", *QUERY_VERBS[verb])


def _one(path: str, verb: str, name: str, among: str) -> Route:
    return single(path, name, *QUERY_VERBS[verb], among)


def _ask(path: str, verb: str, of: type[msgspec.Struct], name: str = "", method: str = "POST") -> Route:
    return command(method, path, name or verb, CONTROL_VERBS[verb], of)


def _planned(queue: str, answer: Planned) -> tuple[Planned, str | None]:
    """An operation is known here by its name in the queue, as everything is."""
    if answer.operation is None:
        return answer, None
    _, name = split_job_key(answer.operation)
    where = OPERATION.format(queue=quote(queue, safe=""), id=quote(name, safe=""))
    return msgspec.structs.replace(answer, operation=name), where


def _then(route: Route, to: dict[str, str], *names: str) -> Route:
    """The route with links to others, whose parameters are found where `to` says."""
    return replace(route, links={name: to for name in names})


_IN_PATH: Final = {"queue": "$request.path.queue"}
_SUBMITTED: Final = _IN_PATH | {"id": "$response.body#/id"}
_NAMED: Final = _IN_PATH | {"name": "$request.path.name"}
_JOB_VERBS: Final = (
    *("cancel", "terminate", "redrive", "drop", "rerun", "pause", "resume", "approve", "reject"),
    *("signal", "edit"),
)
_SCHEDULE_VERBS: Final = ("pause", "resume", "trigger", "backfill")

JOBS: Final = (
    _list("/v1/jobs", "jobs"),
    _list("/v1/jobs/{id}", "job", "list_jobs_named"),
    _one(JOB, "job", "get_job", "jobs"),
    _list(f"{JOB}/records", "records", "list_records"),
    Route(
        "GET",
        f"{JOB}/timeline",
        "get_timeline",
        "What happened to a job, in words, from its records alone.",
        OfJob,
        {200: Timeline},
        timeline,
    ),
    Route(
        "GET",
        f"{JOB}/explanation",
        "explain_job",
        "The questions that anyone asks of a job, answered from its records; and why it is not running.",
        OfJob,
        {200: JobExplanation},
        explanation,
    ),
    _then(
        Route(
            "POST",
            f"{QUEUE}/jobs",
            "submit_job",
            "Submits a job. 201 once it is one, 202 where it is stored and nobody has decided on it yet.",
            OfQueue,
            {201: Submitted, 202: Submitted},
            submit,
            SubmitJob,
        ),
        _SUBMITTED,
        *("get_job", "list_records", "get_timeline", "explain_job", "verify_job"),
        *[f"{verb}_job" for verb in _JOB_VERBS],
    ),
    Route(
        "POST",
        f"{QUEUE}/submits",
        "submit_jobs",
        "Submits up to 500 jobs, and tells of each what became of it.",
        OfQueue,
        {200: SubmittedMany},
        submit_many,
        Jobs,
    ),
    *[_ask(f"{JOB}/{verb}", verb, OfJob, f"{verb}_job") for verb in _JOB_VERBS],
)
GOVERNING: Final = (
    _list("/v1/queues", "queues"),
    _one(QUEUE, "queues", "get_queue", "queues"),
    _then(_ask(QUEUE, "declare", OfQueue, "declare_queue", "PUT"), _IN_PATH, "get_queue", "submit_job"),
    *[_ask(f"{QUEUE}/{verb}", f"{verb}_queue", OfQueue) for verb in ("pause", "resume", "drain")],
    _ask(f"{QUEUE}/shard", "move_shard", OfQueue, method="PUT"),
    _list("/v1/schedules", "schedules"),
    _one(SCHEDULE, "schedules", "get_schedule", "schedules"),
    _then(
        _ask(SCHEDULE, "declare_schedule", OfName, method="PUT"),
        _NAMED,
        *("get_schedule", "delete_schedule", *[f"{verb}_schedule" for verb in _SCHEDULE_VERBS]),
    ),
    _ask(SCHEDULE, "delete_schedule", OfName, method="DELETE"),
    *[_ask(f"{SCHEDULE}/{verb}", f"{verb}_schedule", OfName) for verb in _SCHEDULE_VERBS],
    _list("/v1/batches", "batches"),
    _one(BATCH, "batches", "get_batch", "batches"),
    _ask(f"{BATCH}/seal", "seal_batch", OfBatch),
    _list("/v1/holds", "holds"),
    _one(HOLD, "holds", "get_hold", "holds"),
    _ask(HOLD, "place_hold", OfName, method="PUT"),
    _ask(HOLD, "lift_hold", OfName, method="DELETE"),
    _ask(f"{QUEUE}/erase", "erase", OfQueue),
    _list("/v1/operations", "operations"),
    _one(OPERATION, "operations", "get_operation", "operations"),
    _then(
        command("POST", f"{QUEUE}/operations", "plan", CONTROL_VERBS["plan"], OfQueue, made=_planned),
        _IN_PATH | {"id": "$response.body#/operation"},
        "get_operation",
    ),
)
PRINCIPALS: Final = (
    _list("/v1/principals", "principals"),
    _one(PRINCIPAL, "principals", "get_principal", "principals"),
    _one("/v1/whoami", "whoami", "whoami", "principals"),
    listing("/v1/can", "can", *QUERY_VERBS["can"]),
    _ask(PRINCIPAL, "create_principal", OfPrincipal),
    _ask(f"{PRINCIPAL}/revoke", "revoke_principal", OfPrincipal),
    _ask(f"{PRINCIPAL}/restore", "restore_principal", OfPrincipal),
    _ask(f"{PRINCIPAL}/keys/{{key}}", "add_key", OfKey, method="PUT"),
    _ask(f"{PRINCIPAL}/keys/{{key}}", "remove_key", OfKey, method="DELETE"),
    _ask(f"{PRINCIPAL}/tokens/{{token}}", "issue_token", OfToken, method="PUT"),
    _ask(f"{PRINCIPAL}/tokens/{{token}}", "revoke_token", OfToken, method="DELETE"),
    _ask(f"{PRINCIPAL}/sessions/{{session}}", "end_session", OfSession, method="DELETE"),
    _ask(f"{PRINCIPAL}/grant", "grant", OfPrincipal),
    _ask(f"{PRINCIPAL}/ungrant", "ungrant", OfPrincipal),
    _ask("/v1/elevate", "elevate", msgspec.Struct),
    _ask(f"{PRINCIPAL}/proposals/{{number}}/approve", "approve_access", OfProposal),
    _ask(f"{PRINCIPAL}/proposals/{{number}}/decline", "decline_access", OfProposal),
)
RELEASES: Final = (
    _ask("/v1/processes", "list_processes", AsSeenFrom, method="GET"),
    _ask(f"{PROCESS}/releases", "publish_release", OfProcess),
    _ask(f"{PROCESS}/promote", "promote_release", OfProcess),
    _ask(f"{PROCESS}/promotions/{{number}}/approve", "approve_promotion", OfPromotion),
    _ask(f"{PROCESS}/rollback", "rollback_release", OfProcess),
    _ask(f"{PROCESS}/freeze", "freeze_release", OfProcess),
    _ask(f"{PROCESS}/unfreeze", "unfreeze_release", OfProcess),
    _ask(f"{PROCESS}/revoke", "revoke_release", OfProcess),
    _ask(f"{PROCESS}/canary", "start_canary", OfProcess, method="PUT"),
    _ask(f"{PROCESS}/canary/end", "end_canary", OfProcess),
    _ask(f"{PROCESS}/approve", "approve_release", OfProcess),
    _ask(f"{PROCESS}/evaluations", "record_evaluation", OfProcess),
    _ask(f"{PROCESS}/drills", "record_drill", OfProcess),
    _ask(f"{PROCESS}/policy-checks", "record_policy_check", OfProcess),
    *gating.ROUTES,
    _ask("/v1/gates", "list_gates", msgspec.Struct, method="GET"),
    _ask("/v1/gates/{name}", "declare_gate", OfGate, method="PUT"),
    _ask("/v1/gates/{name}/remove", "remove_gate", OfGate),
)
READS: Final = (
    _list("/v1/dead-letters", "dead", "list_dead_letters"),
    *[
        _list(f"/v1/{path}", verb)
        for path, verb in (
            *(("audit", "audit"), ("attempts", "attempts"), ("workers", "workers"), ("traffic", "traffic")),
            *(("cost", "cost"), ("tools", "tools"), ("tool-calls", "tool_calls")),
        )
    ],
    _list("/v1/audit/checkpoint", "checkpoint", "get_checkpoint"),
    _list("/v1/audit/consistency", "consistency", "get_consistency"),
    _list(f"{JOB}/proof", "prove", "prove_job"),
    _ask("/v1/prices", "list_prices", msgspec.Struct, method="GET"),
    _ask("/v1/prices", "set_price", msgspec.Struct),
    _ask("/v1/assets", "list_assets", msgspec.Struct, method="GET"),
    _ask("/v1/assets/{name}", "get_asset", OfAsset, method="GET"),
    _ask("/v1/assets/{name}", "set_asset", OfAsset, method="PUT"),
    _ask("/v1/assets/{name}", "remove_asset", OfAsset, method="DELETE"),
    _ask("/v1/tenant", "get_tenant", msgspec.Struct, method="GET"),
    _ask("/v1/tenant", "declare_tenant", msgspec.Struct, method="PUT"),
    _ask("/v1/tenants", "list_tenants", msgspec.Struct, method="GET"),
    _ask("/v1/tenants", "create_tenant", msgspec.Struct),
    _ask("/v1/tenants/quotas", "set_quotas", msgspec.Struct, method="PUT"),
    _ask("/v1/records", "raise_records", msgspec.Struct, method="PUT"),
    _ask("/v1/shards", "list_shards", msgspec.Struct, method="GET"),
    *[_ask(f"/v1/workers/{{worker}}/{verb}", f"{verb}_worker", OfWorker) for verb in ("drain", "undrain")],
)
FORENSICS: Final = (
    *[
        Route("GET", path, name, about, asked, {OK: told}, handle)
        for path, name, about, asked, told, handle in (
            (
                *("/v1/replay", "replay", "A tenant or a queue as it was at a moment, folded from the log."),
                *(replaying.OfAll, replaying.Replayed, replaying.replay),
            ),
            (
                *("/v1/replay/diff", "diff", "What changed between two moments of the log."),
                *(replaying.AllBetween, replaying.Changes, replaying.diff),
            ),
            (
                *("/v1/replay/verification", "verify", "Every record, transition and decision once more."),
                *(msgspec.Struct, replaying.Verified, replaying.verify),
            ),
            (
                *(f"{JOB}/replay", "replay_job", "The job as it was at a moment, from its records alone."),
                *(replaying.JobAt, replaying.ReplayedJob, replaying.replay_job),
            ),
            (
                *(f"{JOB}/diff", "diff_job", "What changed of the job between two moments."),
                *(replaying.JobBetween, replaying.Changes, replaying.diff_job),
            ),
            (
                *(f"{JOB}/verification", "verify_job", "The job's records and decisions, and its view."),
                *(OfJob, replaying.Verified, replaying.verify_job),
            ),
        )
    ],
    Route(
        "POST",
        "/v1/replay/what-if",
        "suppose",
        "What would have come out under other policies and prices, and which alerts would have fired.",
        *(replaying.Some, {OK: replaying.Supposition}, replaying.what_if, Supposed),
    ),
    Route(
        "GET",
        "/v1/bundle",
        "export",
        "A bundle of some jobs, or of everything, as `writ replay --bundle` takes it.",
        *(replaying.Which, {OK: str}, replaying.export),
        media_type=replaying.BUNDLE,
    ),
    Route(
        "GET",
        f"{JOB}/bundle",
        "export_job",
        "A bundle of the job, as `writ replay --bundle` takes it.",
        *(OfJob, {OK: str}, replaying.export_job),
        media_type=replaying.BUNDLE,
    ),
    Route(
        "POST",
        "/v1/views/{name}/rebuild",
        "rebuild_view",
        "Builds a view anew beside the one that answers; /v1/status tells how far it is.",
        *(replaying.OfView, {ACCEPTED: replaying.Rebuilding}, replaying.rebuild),
    ),
)
NODE: Final = (
    # Neither waits for a view.
    replace(
        listing("/v1/log", "list_log", *QUERY_VERBS["log"], ("min_position",), OfPartition), stream=stream
    ),
    listing("/v1/log/stretch", "list_stretch", *QUERY_VERBS["stretch"], ("min_position",), OfPartition),
    listing("/v1/status", "get_status", *QUERY_VERBS["status"], without=("min_position",)),
)
ROUTES: Final[tuple[Route, ...]] = (
    *(*JOBS, *GOVERNING, *PRINCIPALS, *sessions.ROUTES, *RELEASES, *READS, *FORENSICS, *NODE),
)
OPEN: Final = frozenset([(route.method, route.path) for route in ROUTES if route.is_open])


def by_path() -> dict[str, dict[str, Route]]:
    """The routes by their paths and methods."""
    found: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        found.setdefault(route.path, {})[route.method] = route
    return found
