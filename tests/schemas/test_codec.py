"""Records to bytes and back: round trips, frozen bytes, upcasts, faults in words."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writ.schemas import codec
from writ.schemas.assets import AssetRead, AssetRemoved, AssetSet
from writ.schemas.backups import LogRestored
from writ.schemas.canaries import (
    CanaryJudged,
    CanaryPolicy,
    Finding,
    Measure,
    OnFine,
    OnWorse,
    Watched,
)
from writ.schemas.codec import CodecError, NotYetWritten, decode, digest, encode
from writ.schemas.commands import SubmitJob
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.evaluations import Better, Compared, Dimension, Measured, Verdict
from writ.schemas.evaluations import Outcome as Checked
from writ.schemas.events import (
    EVENT_TYPES,
    VERSIONS,
    AlarmKind,
    AlarmRaised,
    Approval,
    AttemptFailed,
    AttemptStarted,
    Barrier,
    BatchEnded,
    BatchSealed,
    CancelRequested,
    CommandRejected,
    ContentErased,
    DeadReason,
    Fact,
    Filter,
    HistoryLong,
    HoldLifted,
    HoldPlaced,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDropped,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaderElected,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeasesRenewed,
    OnDead,
    OnParentEnd,
    OnTimeout,
    OperationEnded,
    OperationPlanned,
    OperationVerb,
    ProgressReported,
    QueueDeclared,
    QueueDraining,
    QueuePaused,
    QueueResumed,
    RefusedReport,
    RejectionsFolded,
    Renewal,
    ReportRejected,
    RetryScheduled,
    SignalReceived,
    TimeResumed,
    WaitReason,
    WorkerSeen,
    type_names,
)
from writ.schemas.faults import explain_fault
from writ.schemas.fleet import WorkerDrained, WorkerUndrained
from writ.schemas.gates import Approvals, GateDeclared, GateRemoved, GateSpec, PolicyName, Window
from writ.schemas.links import (
    CanaryTold,
    FleetTold,
    JobAsked,
    JobTold,
    Mark,
    MessageAccepted,
    MessageSent,
    MessageSettled,
    PartitionOpened,
    PolicyTold,
    PricesTold,
    PrincipalTold,
    ProcessTold,
    QuotasTold,
    TenantHosted,
)
from writ.schemas.policy import (
    ClassRetry,
    Isolation,
    Limits,
    OnClash,
    OnExhausted,
    QueuePolicy,
    Retry,
    ToolPolicy,
)
from writ.schemas.prices import Price, PriceSet
from writ.schemas.principals import (
    AccessDeclined,
    AccessDenied,
    AccessProposed,
    Grant,
    KeyAdded,
    KeyRemoved,
    Principal,
    PrincipalCreated,
    PrincipalKind,
    PrincipalRestored,
    PrincipalRevoked,
    Role,
    RoleGranted,
    RoleUngranted,
    SessionEnded,
    SessionStarted,
    TenantCreated,
    Token,
    TokenIssued,
    TokenRevoked,
)
from writ.schemas.processes import (
    Alias,
    Canary,
    CanaryEnded,
    CanaryStarted,
    Check,
    DrillRecorded,
    EvaluationRecorded,
    Pinned,
    Pointer,
    PolicyChecked,
    Process,
    PromotionBlocked,
    PromotionProposed,
    Release,
    ReleaseApproved,
    ReleaseFrozen,
    ReleasePromoted,
    ReleasePublished,
    ReleaseRevoked,
    ReleaseRolledBack,
    ReleaseUnfrozen,
)
from writ.schemas.quotas import Budget, BudgetReached, Period, Quotas, QuotasSet
from writ.schemas.records import GENESIS, Record, Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.schedules import (
    Overlap,
    ScheduleBackfilled,
    ScheduleDeclared,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleSpec,
    ScheduleTriggered,
)
from writ.schemas.sealed import seal
from writ.schemas.shards import AllTold, Cut, ShardAwaited, ShardKept, ShardMoved, ShardOffered, ShardPlaced
from writ.schemas.states import State
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    OnUnknown,
    Reproduces,
    StepBy,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    ToolOutcome,
    UsageRecorded,
)
from writ.schemas.tenants import TenantDeclared, TenantPolicy
from writ.schemas.upgrading import BROUGHT, LOGICS, RECORDS, Member, RecordsRaised, not_yet, written

GOLDEN = Path(__file__).parent.parent / "golden"

# --- round trips ----------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NUMBER = st.integers(0, 2**62)
SHARE = st.floats(0, 1)
JSON_TEXT: st.SearchStrategy[bytes] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
SEALED = st.builds(seal, JSON_TEXT)
ERROR = st.builds(AttemptError, st.sampled_from(ErrorClass), TEXT, st.none() | SEALED)
REJECTION = st.builds(
    Rejection, st.sampled_from(RejectionKind), TEXT, st.none() | TEXT, st.none() | st.integers(0, 499)
)
MAYBE = st.none() | NUMBER
MAYBE_TEXT = st.none() | TEXT
ROLE = st.sampled_from(Role)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
LABELS = st.dictionaries(TEXT, TEXT, max_size=3)
COUNT = st.none() | st.integers(1, 9)
CLASS_RETRY = st.builds(
    ClassRetry,
    st.none() | st.integers(0, 9),
    st.none() | st.floats(0, 9),
    st.none() | st.floats(1, 9),
    st.none() | SHARE,
)
RETRY = st.builds(
    Retry,
    st.integers(0, 9),
    st.floats(0, 9),
    st.floats(1, 9),
    st.floats(0, 9),
    SHARE,
    st.integers(1, 9),
    TEXTS,
    st.dictionaries(st.sampled_from(["system", "application", "timeout"]), CLASS_RETRY),
    st.sampled_from(OnExhausted),
)
LIMITS = st.builds(
    Limits, st.floats(1, 99), st.floats(0.1, 99), st.floats(0.1, 99), st.none() | st.floats(0.1, 9)
)
NAMES = st.lists(st.text("abc*", min_size=1, max_size=9), max_size=3).map(tuple)
POLICY = st.builds(
    QueuePolicy,
    RETRY,
    LIMITS,
    st.integers(1, 5),
    COUNT,
    COUNT,
    st.none() | st.floats(0.1, 9),
    st.integers(1, 9),
    COUNT,
    COUNT,
    st.sampled_from(OnClash),
    st.builds(ToolPolicy, NAMES, NAMES, st.none() | st.integers(0, 9), NAMES),
    st.none() | st.floats(0, 9),
    st.booleans(),
    strict_lease=st.booleans(),
    lanes=st.integers(1, 32),
)
ALIAS = st.sampled_from(Alias)
CHECKED = st.sampled_from(Checked)
CHECKS = st.lists(st.builds(Check, TEXT, NUMBER, TEXT, CHECKED, TEXT, TEXTS, st.booleans()), max_size=2).map(
    tuple
)
_SHARE = st.none() | st.floats(-1, 1)
SCORES = st.lists(st.lists(st.none() | st.floats(0, 1), max_size=3).map(tuple), max_size=3).map(tuple)
DIMENSION = st.builds(
    Dimension,
    *(st.just("d"), st.sampled_from(Better), st.booleans(), st.floats(0, 1), st.floats(0.1, 1)),
    *(_SHARE, _SHARE, st.booleans()),
)
MEASURED = st.lists(st.builds(Measured, DIMENSION, SCORES, st.none() | SCORES), max_size=2).map(tuple)
COMPARED = st.builds(
    Compared, st.just("d"), CHECKED, TEXT, *[_SHARE] * 8, st.none() | st.integers(1, 9), st.integers(0, 9)
)
VERDICT = st.builds(Verdict, CHECKED, st.lists(COMPARED, max_size=2).map(tuple), NUMBER, NUMBER)
NAMED = st.lists(st.text(min_size=1, max_size=9), max_size=2).map(tuple)
GATE = st.builds(
    GateSpec,
    st.sampled_from(["*", "inv"]),
    st.sampled_from(["*", "bills/*"]),
    st.lists(ALIAS, min_size=1, max_size=2).map(tuple),
    NAMED,
    st.lists(st.sampled_from(PolicyName), max_size=2).map(tuple),
    st.none() | st.builds(Approvals, st.integers(1, 9), ROLE),
    st.lists(st.builds(Window, st.just(("fri",)), st.just("16:00"), st.none()), max_size=1).map(tuple),
    NAMED,
    COUNT,
    ROLE,
)
MOMENT = st.none() | st.datetimes(
    datetime.datetime(1970, 1, 2), datetime.datetime(2099, 1, 1), timezones=st.just(datetime.UTC)
)
NAME = st.text("abcXYZ019_-+=:@/,", min_size=1, max_size=9)
SPEC = st.builds(
    ScheduleSpec,
    NAME,
    st.none() | st.just("30 8 * * 1-5"),
    st.none() | st.floats(1, 99),
    st.sampled_from(["UTC", "Europe/Berlin"]),
    MOMENT,
    MOMENT,
    MOMENT,
    st.sampled_from(Overlap),
    st.integers(0, 9),
    st.none() | st.floats(0.1, 9),
    st.booleans(),
    st.none() | st.integers(1, 5),
    st.none() | RETRY,
    st.none() | st.floats(1, 9),
    st.none() | st.floats(0.1, 9),
    st.none() | st.floats(0.1, 9),
    st.none() | st.floats(0.1, 9),
    st.none() | NAME,
    st.none() | NAME,
)
FILTER = st.builds(
    Filter,
    st.lists(st.sampled_from(State), max_size=3).map(tuple),
    MAYBE_TEXT,
    MAYBE_TEXT,
    st.none() | st.sampled_from(DeadReason),
    st.none() | st.sampled_from(ErrorClass),
    MAYBE_TEXT,
    st.none() | TEXTS,
)
WAIT = st.sampled_from(WaitReason)
MARK = st.builds(Mark, NUMBER, NUMBER, NUMBER)
PRICE = st.builds(Price, TEXT, NUMBER, NUMBER, NUMBER)
TENANT_POLICY = st.builds(TenantPolicy, st.none() | st.floats(0, 1e6), st.booleans())
BUDGET = st.builds(Budget, st.integers(0, 10**15), st.integers(1, 2**40), st.sampled_from(Period))
FEW = st.none() | st.integers(0, 10**9)
QUOTAS = st.builds(
    Quotas, FEW, st.none() | st.floats(0.1, 9e4), st.integers(1, 99), FEW, FEW, st.none() | BUDGET
)
GRANT = st.builds(Grant, st.sampled_from(Role), TEXT, TEXT, NUMBER, TEXT, MAYBE, MAYBE_TEXT)
PRINCIPAL = st.builds(
    Principal,
    *(NAME, NAME, st.sampled_from(PrincipalKind), NUMBER, TEXT, TEXTS),
    st.lists(st.builds(Token, TEXT, TEXT, NUMBER, MAYBE), max_size=2).map(tuple),
    st.lists(GRANT, max_size=2).map(tuple),
)
CANARY_POLICY = st.builds(
    CanaryPolicy,
    st.sampled_from(Measure),
    *(st.floats(0.01, 0.5), st.floats(0, 0.5), st.floats(0.5, 1), st.integers(1, 1_000)),
    on_worse=st.sampled_from(OnWorse),
    on_fine=st.sampled_from(OnFine),
)
EVIDENCE = st.floats(0, 1e9)
FINDING = st.builds(
    Finding,
    *(TEXT, TEXT, NUMBER, NUMBER, st.floats(0.001, 0.5)),
    st.builds(Watched, CHECKED, NUMBER, st.floats(-1, 1), EVIDENCE, EVIDENCE),
)
PROCESS = st.builds(
    Process,
    NAME,
    NUMBER,
    st.dictionaries(
        TEXT, st.builds(Release, TEXT, TEXT, NUMBER, TEXT, TEXT, NAME, NUMBER, NUMBER, MAYBE_TEXT), max_size=2
    ),
    st.lists(st.builds(Pointer, TEXT, ALIAS, TEXT, NUMBER, TEXTS, TEXTS), max_size=2).map(tuple),
    st.lists(
        st.builds(Canary, TEXT, TEXT, NUMBER, SHARE, TEXTS, CANARY_POLICY, st.none() | CHECKED), max_size=2
    ).map(tuple),
    MAYBE_TEXT,
)
OF_TENANT = (
    st.builds(PricesTold, NAME, NUMBER, st.lists(PRICE, max_size=3).map(tuple))
    | st.builds(PolicyTold, NAME, NUMBER, TENANT_POLICY)
    | st.builds(QuotasTold, NAME, NUMBER, QUOTAS)
    | st.builds(TenantHosted, NAME, PRINCIPAL)
    | st.builds(PrincipalTold, NAME, NUMBER, PRINCIPAL)
    | st.builds(FleetTold, NAME, NUMBER, TEXTS)
    | st.builds(ProcessTold, NAME, NUMBER, PROCESS)
    | st.builds(CanaryTold, NAME, NUMBER, FINDING)
    | st.builds(AllTold, NAME, NUMBER)
    | st.builds(ShardPlaced, NAME, NUMBER, NUMBER, NUMBER)
)
OF_SHARD = (
    st.builds(ShardOffered, NUMBER, NUMBER)
    | st.builds(ShardAwaited, NUMBER, NUMBER, TEXTS)
    | st.builds(ShardMoved, NUMBER, NUMBER, st.dictionaries(NAME, st.builds(Cut, NUMBER, NUMBER), max_size=2))
    | st.builds(ShardKept, NUMBER, NUMBER, NUMBER)
)
CONTENT = (
    OF_TENANT
    | OF_SHARD
    | st.builds(JobAsked, NAME, TEXT)
    | st.builds(
        JobTold,
        NAME,
        TEXT,
        st.integers(-1, 2**40),
        st.none() | st.sampled_from(State),
        st.none() | SEALED,
        st.none() | TEXT,
    )
)
EVENTS: dict[type[Fact], st.SearchStrategy[Fact]] = {
    JobSubmitted: st.builds(
        JobSubmitted,
        TEXT,
        SEALED,
        MAYBE,
        st.integers(1, 5),
        RETRY,
        LIMITS,
        NUMBER,
        MAYBE_TEXT,
        MAYBE_TEXT,
        MAYBE_TEXT,
        TEXTS,
        st.sampled_from(OnDead),
        st.dictionaries(TEXT, TEXT, max_size=3),
        MAYBE_TEXT,
        st.sampled_from(OnParentEnd),
        MAYBE_TEXT,
        MAYBE_TEXT,
        st.none() | st.builds(Approval, st.none() | st.floats(0.1, 9e4), st.sampled_from(OnTimeout)),
        st.none() | st.builds(Reproduces, st.just("mail~a"), st.integers(1, 2**40)),
        st.none() | SEALED,
        MAYBE,
        MAYBE_TEXT,
        LABELS,
    ),
    JobDue: st.builds(JobDue),
    LeaseGranted: st.builds(
        LeaseGranted, TEXT, NUMBER, st.none() | TEXT, st.sampled_from(Isolation), NUMBER, MAYBE_TEXT, LABELS
    ),
    AttemptStarted: st.builds(AttemptStarted, NUMBER, NUMBER),
    AttemptFailed: st.builds(
        AttemptFailed, NUMBER, NUMBER, ERROR, MAYBE, st.none() | SHARE, permanent=st.booleans()
    ),
    LeaseExpired: st.builds(LeaseExpired, NUMBER, NUMBER, TEXT, NUMBER, NUMBER, NUMBER),
    LeaseReleased: st.builds(LeaseReleased, NUMBER, NUMBER, TEXT),
    RetryScheduled: st.builds(
        RetryScheduled, NUMBER, TEXT, NUMBER, NUMBER, SHARE, SHARE, SHARE, st.none() | SHARE, MAYBE
    ),
    CancelRequested: st.builds(CancelRequested, TEXT),
    JobCompleted: st.builds(JobCompleted, NUMBER, NUMBER, st.none() | SEALED, MAYBE),
    JobCancelled: st.builds(JobCancelled, TEXT),
    JobDeadLettered: st.builds(JobDeadLettered, st.sampled_from(DeadReason), TEXT, MAYBE_TEXT),
    JobRedriven: st.builds(JobRedriven, NUMBER, TEXT, MAYBE_TEXT),
    JobRerun: st.builds(JobRerun, NUMBER, TEXT, MAYBE_TEXT, NUMBER),
    StepIntended: st.builds(
        StepIntended,
        *(NUMBER, NUMBER, NUMBER, TEXT, TEXT),
        st.sampled_from(OnUnknown),
        st.booleans(),
        st.none() | st.sampled_from(OnUnknown),
    ),
    StepDone: st.builds(StepDone, NUMBER, NUMBER, NUMBER, st.none() | SEALED, MAYBE, st.sampled_from(StepBy)),
    StepFailed: st.builds(StepFailed, NUMBER, NUMBER, NUMBER, ERROR, MAYBE, st.sampled_from(StepBy)),
    StepCompensated: st.builds(StepCompensated, NUMBER, NUMBER, NUMBER, MAYBE),
    ToolCalled: st.builds(
        ToolCalled,
        *(NUMBER, NUMBER, TEXT, TEXT, SEALED, TEXT, st.sampled_from(ToolOutcome), NUMBER, MAYBE_TEXT),
        *(st.none() | ERROR, st.none() | SEALED, MAYBE, MAYBE, st.sampled_from(StepBy)),
    ),
    UsageRecorded: st.builds(UsageRecorded, NUMBER, NUMBER, TEXT, NUMBER, NUMBER, MAYBE, NUMBER),
    CompensationDue: st.builds(CompensationDue, TEXT, st.none() | st.sampled_from(DeadReason), MAYBE_TEXT),
    CompensationEnded: st.builds(CompensationEnded, NUMBER, NUMBER, MAYBE),
    PriceSet: st.builds(PriceSet, NUMBER, TEXT, NUMBER, NUMBER, NUMBER, TEXT),
    AssetSet: st.builds(AssetSet, NUMBER, st.booleans(), TEXT, TEXT, NUMBER, TEXT),
    AssetRemoved: st.builds(AssetRemoved, TEXT),
    AssetRead: st.builds(AssetRead, NUMBER, NUMBER, TEXT, NUMBER, st.booleans(), TEXT, NUMBER),
    TenantDeclared: st.builds(TenantDeclared, NUMBER, TENANT_POLICY, TEXT),
    QuotasSet: st.builds(QuotasSet, NUMBER, QUOTAS, TEXT),
    BudgetReached: st.builds(BudgetReached, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER),
    ReleasePublished: st.builds(ReleasePublished, TEXT, TEXT, NUMBER, TEXT, TEXT, MAYBE_TEXT, st.booleans()),
    ReleasePromoted: st.builds(
        ReleasePromoted, TEXT, ALIAS, TEXT, TEXT, MAYBE_TEXT, CHECKS, MAYBE, MAYBE_TEXT
    ),
    PromotionBlocked: st.builds(PromotionBlocked, TEXT, ALIAS, TEXT, TEXT, CHECKS),
    PromotionProposed: st.builds(PromotionProposed, NUMBER, TEXT, ALIAS, TEXT, TEXT, CHECKS),
    ReleaseRolledBack: st.builds(ReleaseRolledBack, TEXT, TEXT, TEXT, TEXT, st.sampled_from(Pinned)),
    ReleaseFrozen: st.builds(ReleaseFrozen, TEXT, MAYBE_TEXT),
    ReleaseUnfrozen: st.builds(ReleaseUnfrozen, TEXT, MAYBE_TEXT),
    ReleaseRevoked: st.builds(ReleaseRevoked, TEXT, TEXT),
    CanaryStarted: st.builds(
        CanaryStarted, TEXT, TEXT, TEXT, SHARE, TEXTS, CHECKS, st.none() | CANARY_POLICY
    ),
    CanaryJudged: st.builds(CanaryJudged, TEXT, TEXT, CANARY_POLICY, FINDING),
    CanaryEnded: st.builds(CanaryEnded, TEXT, TEXT, TEXT),
    ReleaseApproved: st.builds(ReleaseApproved, TEXT, TEXT, TEXT),
    EvaluationRecorded: st.builds(
        EvaluationRecorded,
        *(TEXT, TEXT, TEXT, VERDICT, MEASURED, MAYBE_TEXT, MAYBE_TEXT),
    ),
    DrillRecorded: st.builds(DrillRecorded, TEXT, TEXT, CHECKED, TEXT),
    PolicyChecked: st.builds(PolicyChecked, TEXT, TEXT, CHECKED, TEXTS, MAYBE_TEXT),
    GateDeclared: st.builds(GateDeclared, NUMBER, GATE, TEXT),
    GateRemoved: st.builds(GateRemoved, NUMBER, TEXT),
    JobDropped: st.builds(JobDropped, TEXT),
    JobSuspended: st.builds(JobSuspended, WAIT, TEXT, TEXTS, MAYBE, st.sampled_from(OnTimeout), MAYBE, MAYBE),
    JobResumed: st.builds(JobResumed, WAIT, TEXT, st.none() | SEALED),
    JobSnoozed: st.builds(JobSnoozed, NUMBER, NUMBER, NUMBER),
    ProgressReported: st.builds(ProgressReported, NUMBER, NUMBER, SEALED),
    SignalReceived: st.builds(SignalReceived, TEXT, SEALED),
    JobEdited: st.builds(JobEdited, TEXT, st.none() | st.integers(1, 5), MAYBE, st.none() | SEALED),
    QueueDeclared: st.builds(QueueDeclared, NUMBER, POLICY, TEXT),
    QueuePaused: st.builds(QueuePaused, TEXT),
    QueueDraining: st.builds(QueueDraining, TEXT),
    QueueResumed: st.builds(QueueResumed, TEXT),
    PartitionOpened: st.builds(PartitionOpened, NUMBER, NUMBER),
    LogRestored: st.builds(LogRestored, NUMBER, NUMBER, NUMBER),
    MessageSent: st.builds(MessageSent, CONTENT),
    MessageAccepted: st.builds(MessageAccepted, MARK, CONTENT),
    MessageSettled: st.builds(MessageSettled, MARK, NUMBER),
    BatchSealed: st.builds(BatchSealed, NUMBER, TEXT),
    BatchEnded: st.builds(BatchEnded, NUMBER, NUMBER, NUMBER),
    OperationPlanned: st.builds(
        OperationPlanned,
        st.sampled_from(OperationVerb),
        FILTER,
        TEXT,
        NUMBER,
        NUMBER,
        st.none() | SHARE,
        NUMBER,
        NUMBER,
    ),
    OperationEnded: st.builds(OperationEnded, TEXT, NUMBER),
    ContentErased: st.builds(ContentErased, NUMBER, TEXT),
    HoldPlaced: st.builds(HoldPlaced, FILTER, TEXT),
    HoldLifted: st.builds(HoldLifted, TEXT),
    AlarmRaised: st.builds(AlarmRaised, st.sampled_from(AlarmKind), TEXT),
    HistoryLong: st.builds(HistoryLong, NUMBER, NUMBER),
    ScheduleDeclared: st.builds(ScheduleDeclared, NUMBER, SPEC, SEALED, TEXT),
    ScheduleFired: st.builds(ScheduleFired, NUMBER, TEXT, TEXT, st.sampled_from(Overlap), TEXTS, TEXTS),
    ScheduleSkipped: st.builds(ScheduleSkipped, NUMBER, TEXT, NUMBER, MAYBE, st.booleans()),
    SchedulePaused: st.builds(SchedulePaused, TEXT),
    ScheduleResumed: st.builds(ScheduleResumed, TEXT),
    ScheduleDeleted: st.builds(ScheduleDeleted, TEXT),
    ScheduleTriggered: st.builds(
        ScheduleTriggered, NUMBER, TEXT, TEXT, st.sampled_from(Overlap), TEXTS, TEXTS
    ),
    ScheduleBackfilled: st.builds(
        ScheduleBackfilled, NUMBER, NUMBER, TEXTS, TEXT, st.sampled_from(Overlap), NUMBER
    ),
    LeasesRenewed: st.builds(LeasesRenewed, st.lists(st.builds(Renewal, TEXT, NUMBER)).map(tuple)),
    WorkerSeen: st.builds(WorkerSeen, TEXT, TEXT, NUMBER, LABELS, LABELS, TEXTS),
    WorkerDrained: st.builds(WorkerDrained, TEXT),
    WorkerUndrained: st.builds(WorkerUndrained, TEXT),
    LeaderElected: st.builds(LeaderElected, TEXT, TEXT, st.none() | TEXT, NUMBER),
    RecordsRaised: st.builds(
        RecordsRaised, NUMBER, NUMBER, st.lists(st.builds(Member, TEXT, NUMBER)).map(tuple), TEXT
    ),
    TimeResumed: st.builds(TimeResumed, NUMBER),
    Barrier: st.builds(Barrier),
    CommandRejected: st.builds(CommandRejected, TEXT, st.lists(REJECTION).map(tuple), TEXT, NUMBER),
    ReportRejected: st.builds(
        ReportRejected, TEXT, TEXT, st.lists(st.builds(RefusedReport, TEXT, NUMBER, REJECTION)).map(tuple)
    ),
    TenantCreated: st.builds(TenantCreated, TEXT),
    PrincipalCreated: st.builds(PrincipalCreated, st.sampled_from(PrincipalKind), TEXT),
    KeyAdded: st.builds(KeyAdded, TEXT),
    KeyRemoved: st.builds(KeyRemoved, TEXT, TEXT),
    TokenIssued: st.builds(TokenIssued, TEXT, TEXT, MAYBE),
    TokenRevoked: st.builds(TokenRevoked, TEXT, TEXT),
    SessionStarted: st.builds(SessionStarted, TEXT, TEXT, NUMBER, TEXT, MAYBE_TEXT),
    SessionEnded: st.builds(SessionEnded, TEXT, TEXT),
    RoleGranted: st.builds(RoleGranted, ROLE, TEXT, TEXT, TEXT, MAYBE, MAYBE, MAYBE_TEXT),
    RoleUngranted: st.builds(RoleUngranted, ROLE, TEXT, TEXT),
    AccessProposed: st.builds(AccessProposed, NUMBER, ROLE, TEXT, TEXT, TEXT, MAYBE, MAYBE),
    AccessDeclined: st.builds(AccessDeclined, NUMBER, TEXT),
    PrincipalRevoked: st.builds(PrincipalRevoked, TEXT),
    PrincipalRestored: st.builds(PrincipalRestored, TEXT),
    AccessDenied: st.builds(AccessDenied, TEXT, TEXT, REJECTION, TEXT, NUMBER),
    RejectionsFolded: st.builds(RejectionsFolded, NUMBER, REJECTION),
}
ANY_RECORD = st.builds(
    Record,
    epoch=NUMBER,
    seq=NUMBER,
    tenant=TEXT,
    kind=TEXT,
    key=TEXT,
    at=NUMBER,
    actor=TEXT,
    events=st.lists(st.one_of(list(EVENTS.values())), min_size=1, max_size=3).map(tuple),
    cause=st.none() | TEXT,
    vouched=st.none() | st.booleans(),
    source=st.none() | st.builds(Source, NUMBER, NUMBER, st.integers(-1, 499)),
    trace=st.none() | TEXT,
    logic=st.integers(1, 99),
)


def test_every_event_has_a_strategy_here() -> None:
    assert set(EVENTS) == set(EVENT_TYPES.values())


@given(ANY_RECORD, st.sampled_from([GENESIS, "ab" * 32]))
@settings(max_examples=300, deadline=None)
def test_any_record_comes_back_as_it_was(record: Record, prev: str) -> None:
    body = encode(record, prev)
    assert decode(body) == msgspec.structs.replace(record, prev=prev)
    assert encode(decode(body), prev) == body
    for event, stored in zip(record.events, json.loads(body)["events"], strict=True):
        assert stored["type"] == type_names[type(event)]
        assert stored["v"] == VERSIONS[stored["type"]]


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_every_event_comes_back_as_it_was(cls: type[Fact]) -> None:
    @given(EVENTS[cls])
    @settings(max_examples=60, deadline=None)
    def check(event: Fact) -> None:
        record = Record(1, 2, "t", "job", "q~1", 3, "me", (event,))
        assert decode(encode(record, GENESIS)).events == (event,)

    check()


# --- frozen bytes ---------------------------------------------------------------------------------------


def plainly(value: Any) -> Any:
    """A record as JSON shows it: structs with the names of their classes, raw JSON as its text."""
    kind: type[Any] = value.__class__
    if issubclass(kind, msgspec.Struct):
        fields = {name: plainly(getattr(value, name)) for name in kind.__struct_fields__}
        return {"class": kind.__name__, **fields}
    if kind is tuple:
        return [plainly(each) for each in value]
    if kind is dict:
        return {name: plainly(each) for name, each in value.items()}
    if kind is msgspec.Raw:
        return bytes(value).decode()
    if kind is bytes:
        return value.hex()
    if kind is datetime.datetime:
        return value.isoformat()
    return value


def without_added(value: Any, read: Any) -> Any:
    """`plainly(value)` without the fields that `read` does not know, each of which must hold its default.

    Within a version fields may be added: bytes from before are read with what they mean when left out.
    """
    kind: type[Any] = value.__class__
    if issubclass(kind, msgspec.Struct) and type(read) is dict:
        shown: dict[str, Any] = {"class": kind.__name__}
        for field in msgspec.structs.fields(kind):
            mine = getattr(value, field.name)
            if field.name in read:
                shown[field.name] = without_added(mine, read[field.name])
            elif field.default_factory is not msgspec.NODEFAULT:
                assert mine == field.default_factory(), f"{field.name} was added, and is not left out"
            else:
                assert mine == field.default, f"{field.name} was added, and is not left out"
        return shown
    if kind is tuple:
        return [without_added(*both) for both in zip(value, read, strict=True)]
    return plainly(value)


def golden() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.stem}: {case['name']}", case)
        for path in sorted(GOLDEN.glob("*.json"))
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
    ]


@pytest.mark.parametrize(("name", "case"), golden(), ids=[name for name, _ in golden()])
def test_bytes_once_written_read_the_same_for_ever(name: str, case: dict[str, Any]) -> None:
    """`read` is what the bytes must be read as; current versions must also be written as these bytes."""
    body = case["body"].encode()
    record = decode(body)
    assert without_added(record, case["read"]) == case["read"]
    assert digest(body) == case["sha256"]
    if all(event["v"] == VERSIONS[event["type"]] for event in json.loads(body)["events"]):
        assert encode(record, record.prev) == body


def test_every_field_that_is_written_is_frozen() -> None:
    """Some case holds each field of each event, so that no name of one can change unseen."""
    frozen = {
        (event["type"], field)
        for _, case in golden()
        for event in json.loads(case["body"])["events"]
        if event["v"] == VERSIONS[event["type"]]
        for field in event["data"]
    }
    fields = {
        (name, field.encode_name)
        for name, cls in EVENT_TYPES.items()
        for field in msgspec.structs.fields(cls)
    }
    missing = fields - frozen
    assert not missing, f"add cases to tests/golden that hold {sorted(missing)}"


def test_every_event_type_and_version_is_frozen() -> None:
    """Golden histories: frozen bytes of every event type and version."""
    frozen = {(e["type"], e["v"]) for _, case in golden() for e in json.loads(case["body"])["events"]}
    written = {(name, version) for name, now in VERSIONS.items() for version in range(1, now + 1)}
    missing = written - frozen
    assert not missing, f"add a case to tests/golden for each of {sorted(missing)}"


# --- upcasts --------------------------------------------------------------------------------------------


def stored(name: str, version: int, data: dict[str, Any]) -> bytes:
    event = {"type": name, "v": version, "data": data}
    head = {"epoch": 1, "seq": 1, "tenant": "t", "kind": "job", "key": "q~1", "at": 5, "actor": "me"}
    return json.dumps(head | {"events": [event]}).encode()


def test_old_versions_are_read_through_every_step_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "lease_released", 3)
    monkeypatch.setitem(codec.UPCASTS, ("lease_released", 1), lambda data: {**data, "why": "drain"})
    monkeypatch.setitem(
        codec.UPCASTS,
        ("lease_released", 2),
        lambda data: {"attempt": data["attempt"], "token": data["token"], "reason": data["why"]},
    )
    first = decode(stored("lease_released", 1, {"attempt": 1, "token": 7}))
    second = decode(stored("lease_released", 2, {"attempt": 1, "token": 7, "why": "stop"}))
    third = decode(stored("lease_released", 3, {"attempt": 1, "token": 7, "reason": "end"}))
    expected = [LeaseReleased(1, 7, reason) for reason in ("drain", "stop", "end")]
    assert [event for r in (first, second, third) for event in r.events] == expected
    monkeypatch.delitem(codec.UPCASTS, ("lease_released", 2))
    with pytest.raises(CodecError, match="cannot be read"):
        decode(stored("lease_released", 2, {"attempt": 1, "token": 7, "why": "stop"}))


def test_every_older_version_has_its_upcast_and_the_way_back() -> None:
    steps = {(name, old) for name, now in VERSIONS.items() for old in range(1, now)}
    assert set(codec.UPCASTS) == steps
    assert set(codec.DOWNCASTS) == {(name, old + 1) for name, old in steps}


# --- versions of records as a whole -----------------------------------------------------------------------


def test_the_first_version_of_records_knows_what_it_always_knew() -> None:
    """An event type that is added now is named in `BROUGHT`: else who cannot read it would be sent it."""
    first = set(json.loads(Path(__file__).with_name("version_1.json").read_text(encoding="utf-8")))
    assert set(EVENT_TYPES) - not_yet(1) == first
    assert set(BROUGHT) == set(range(2, RECORDS + 1)) == set(LOGICS) - {1}


@pytest.mark.parametrize("version", range(1, RECORDS))
def test_a_log_of_an_older_version_is_written_as_it_always_was(version: int) -> None:
    """Byte by byte, from the frozen records: whoever is of that version reads what a newer leader writes."""
    compared: set[str] = set()
    for _, case in golden():
        events = json.loads(case["body"])["events"]
        if not_yet(version).isdisjoint({e["type"] for e in events}) and all(
            e["v"] == written(version).get(e["type"], 1) for e in events
        ):
            record = decode(case["body"].encode())
            assert encode(record, record.prev, version) == case["body"].encode()
            compared |= {e["type"] for e in events}
    assert compared == set(EVENT_TYPES) - not_yet(version)


def test_what_an_older_version_does_not_know_is_not_written_in_it() -> None:
    raised = Record(1, 2, "t", "partition", "0", 3, "me", (RecordsRaised(2, 1, (), "now"),))
    with pytest.raises(NotYetWritten, match="records_raised is not known to records of version 1"):
        encode(raised, GENESIS, 1)


@pytest.mark.parametrize(("name", "version"), [("job_due", 2), ("job_teleported", 1)])
def test_what_a_newer_writ_wrote_is_not_guessed_at(name: str, version: int) -> None:
    with pytest.raises(CodecError, match="newer Writ"):
        decode(stored(name, version, {}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"epoch":1}',
        stored("lease_granted", 1, {"worker": 5}),
        stored("lease_granted", 1, {}),
        stored("job_due", 1, {})[:-1],
    ],
)
def test_what_is_no_record_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(CodecError, match=r"record's body cannot be read"):
        decode(body)


def test_an_unknown_field_of_data_is_passed_over() -> None:
    """Within a version fields may be added: an older reader of the same version lives with them."""
    body = stored("attempt_started", 1, {"attempt": 1, "token": 2, "added_later": 3})
    assert decode(body).events == (AttemptStarted(1, 2),)


# --- faults in words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"{}", "task", "missing required field"),
        (b'{"task":1}', "task", "Expected `str`"),
        (b'{"task":"a","colour":1}', "colour", "unknown field"),
        (b'{"task":"a","retry":{"jitter":2}}', "retry.jitter", "<= 1"),
        (b'{"task":"a","retry":{"speed":2}}', "retry.speed", "unknown field"),
        (b'{"task":"a","priority":9}', "priority", "<= 5"),
        (b"7", None, "Expected `object`"),
    ],
)
def test_a_fault_names_the_field(body: bytes, field: str | None, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as fault:
        msgspec.json.decode(body, type=SubmitJob)
    named, reason = explain_fault(fault.value)
    assert named == field
    assert words in reason


@pytest.mark.parametrize("data", [b'"../../etc/passwd"', b"[]", b"7", b"null", b"{}", b'{"leader":7}'])
def test_an_older_event_that_is_damaged_is_refused_as_any_other(data: bytes) -> None:
    """What is no object is not handed to the function that brings it up to date."""
    body = next(case["body"] for _, case in golden() if '"leader_elected"' in case["body"])
    record = msgspec.json.decode(body, type=dict[str, Any])
    record["events"] = [{"type": "leader_elected", "v": 1, "data": msgspec.Raw(data)}]
    with pytest.raises(CodecError, match="cannot be read"):
        decode(msgspec.json.encode(record))
