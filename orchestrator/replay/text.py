"""A history in words: one line for each event, with the facts that matter."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

import msgspec

from writ.broker.coding import encoding_of
from writ.schemas.assets import AssetRead, AssetRemoved, AssetSet
from writ.schemas.backups import LogRestored
from writ.schemas.bounds import SECOND_US
from writ.schemas.errors import AttemptError
from writ.schemas.events import (
    AlarmRaised,
    AttemptFailed,
    AttemptStarted,
    Barrier,
    BatchEnded,
    BatchSealed,
    CancelRequested,
    CommandRejected,
    ContentErased,
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
    OperationEnded,
    OperationPlanned,
    ProgressReported,
    QueueDeclared,
    QueueDraining,
    QueuePaused,
    QueueResumed,
    RejectionsFolded,
    ReportRejected,
    RetryScheduled,
    SignalReceived,
    TimeResumed,
    WorkerSeen,
    type_names,
)
from writ.schemas.fleet import WorkerDrained, WorkerUndrained, label_words
from writ.schemas.ids import token_position
from writ.schemas.lifecycle import Job
from writ.schemas.links import (
    GONE,
    CanaryTold,
    Content,
    FleetTold,
    JobAsked,
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
from writ.schemas.policy import Isolation
from writ.schemas.prices import PriceSet
from writ.schemas.principals import (
    AccessDeclined,
    AccessDenied,
    AccessProposed,
    KeyAdded,
    KeyRemoved,
    PrincipalCreated,
    PrincipalRestored,
    PrincipalRevoked,
    RoleGranted,
    RoleUngranted,
    SessionEnded,
    SessionStarted,
    TenantCreated,
    TokenIssued,
    TokenRevoked,
)
from writ.schemas.quotas import STOP_PERCENT, BudgetReached, Quotas, QuotasSet
from writ.schemas.records import Record
from writ.schemas.schedules import (
    ScheduleBackfilled,
    ScheduleDeclared,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleTriggered,
)
from writ.schemas.sealed import UNSEALED, Sealed
from writ.schemas.shards import (
    AllTold,
    OfShard,
    ShardAwaited,
    ShardKept,
    ShardMoved,
    ShardOffered,
    ShardPlaced,
)
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    StepBy,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    Steps,
    ToolCalled,
    ToolOutcome,
    UsageRecorded,
)
from writ.schemas.tenants import TenantDeclared
from writ.schemas.upgrading import RecordsRaised

from ..decide.canary import in_words
from ..decide.quotas import dollars
from .history import Step
from .releasing import release_words, short
from .wording import one_line as one_line  # noqa: PLC0414 - with the other words

_EPOCH = datetime.datetime(1970, 1, 1)


def clock_time(at: int) -> str:
    """Log time as RFC 3339 with milliseconds."""
    return f"{(_EPOCH + datetime.timedelta(microseconds=at)).isoformat(timespec='milliseconds')}Z"


def duration(us: int) -> str:
    """Microseconds in the units that fit: `850 ms`, `12.5 s`, `3 min 20 s`, `2 h 5 min`, `4 d 1 h`."""
    if us < 0:
        return f"-{duration(-us)}"
    if us < SECOND_US:
        return f"{us / 1_000:.3g} ms"
    if us < 60 * SECOND_US:
        return f"{us / SECOND_US:.3g} s"
    seconds = us // SECOND_US
    for large, small, unit, rest in ((86_400, 3_600, "d", "h"), (3_600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= large:
            more = seconds % large // small
            return f"{seconds // large} {unit}" + (f" {more} {rest}" if more else "")
    raise AssertionError("a minute has sixty seconds")


def shown(content: Sealed | None) -> str:
    """Content on one line, shortened; or why it cannot be shown."""
    if content is None:
        return "none"
    if content.key != UNSEALED:
        return f"sealed under key {content.key}"
    text = bytes(content.plain).decode()
    if text.startswith('"'):
        text = str(msgspec.json.decode(content.plain))
    return encoding_of(text) or one_line(text)


def error_words(error: AttemptError) -> str:
    """Class, type and text of an error."""
    text = f": {shown(error.text)}" if error.text is not None else ""
    return f"{error.class_} error {error.type}{text}"


def delay_words(event: RetryScheduled, at: int) -> str:
    """How the delay of a retry came about."""
    low, high = event.base_s * (1 - event.jitter), event.base_s * (1 + event.jitter)
    how = (
        f"backoff {event.base_s:g} s for failure {event.failures}, "
        f"jitter {event.jitter:g} placed it in {low:.4g} to {high:.4g} s by seed {event.seed:.4f}"
    )
    if event.retry_after_s is not None:
        how += f", the worker asked for {event.retry_after_s:g} s"
    return f"in {duration(event.due_at - at)} ({how})"


def event_words(event: Fact, step: Step) -> str:
    """One event as a phrase, without its name."""
    record, job = step.record, step.job
    match event:
        case JobSubmitted(task=task, priority=priority):
            due = f", due in {duration(job.due_at - record.at)}" if event.due_at is not None else ""
            ties = _ties(event)
            return (
                f"task {task} by {record.actor}, priority {priority}{due}{ties}, input {shown(event.input)}"
            )
        case JobDue():
            return "its time has come"
        case LeaseGranted(worker=worker, attempt=attempt):
            to, token = f"worker {worker}{_apart(event.isolation)}", job.last_token
            of = "" if event.release is None else f" of release {short(event.release)}"
            return f"attempt {attempt}{of} to {to}, token {token} (record {token_position(token)[1]})"
        case AttemptStarted(attempt=attempt):
            return f"attempt {attempt}: user code runs"
        case AttemptFailed(attempt=attempt, error=error, run_ms=run_ms):
            died = " its process died:" if event.crashed else ""
            return f"attempt {attempt}{_ran(run_ms)}{_apart(event.isolation)}:{died} {error_words(error)}"
        case LeaseExpired(worker=worker, losses=losses, max_lease_losses=cap, expires_at=expires_at):
            late = duration(record.at - expires_at)
            return f"worker {worker} did not renew; {late} over time; loss {losses} of {cap}"
        case LeaseReleased(attempt=attempt, reason=reason):
            return f"attempt {attempt} given back unfinished: {one_line(reason)}"
        case RetryScheduled(rule=rule):
            return f"{delay_words(event, record.at)}; {rule}"
        case CancelRequested(reason=reason):
            return f"by {record.actor}: {one_line(reason)}"
        case JobCompleted(attempt=attempt, output=output, run_ms=run_ms):
            return f"attempt {attempt}{_ran(run_ms)}{_apart(event.isolation)}, output {shown(output)}"
        case JobCancelled(reason=reason):
            return one_line(reason)
        case JobDeadLettered(reason=reason, rule=rule):
            return f"{reason}: {rule}"
        case JobRedriven(answers=answers, reason=reason) | JobRerun(answers=answers, reason=reason):
            by = f"operation {event.operation}" if event.operation is not None else record.actor
            return f"round {job.round} by {by}, answers record {answers}: {one_line(reason)}"
        case LeasesRenewed():
            return f"worker {record.key}{_lives_until(job, record.at)}"
        case LeaderElected(leader=leader, previous=previous):
            after = f" after {previous}" if previous else ""
            return f"{leader}{after}{_lives_until(job, record.at)}"
        case TimeResumed(gap_ms=gap_ms):
            return (
                f"the log could not be written for {duration(gap_ms * 1_000)}{_lives_until(job, record.at)}"
            )
        case _:
            return (
                _waiting_words(event, record)
                or noted_words(event, job.steps)
                or governing_words(event, record.actor)
            )


def _waiting_words(event: Fact, record: Record) -> str:
    """Events of a job that waits, or is told something."""
    match event:
        case JobDropped(reason=reason):
            return f"settled by {record.actor}: {one_line(reason)}"
        case JobSuspended(reason=reason, rule=rule, on=on, until=until):
            named = f", {', '.join(on)}" if on else ""
            end = "" if until is None else f"; in {duration(until - record.at)} it ends in {event.on_timeout}"
            gave = "" if event.attempt is None else f"; attempt {event.attempt} gave its lease back"
            return f"by {record.actor}, for {reason}{named}: {one_line(rule)}{end}{gave}"
        case JobResumed(reason=reason, rule=rule, data=data):
            came = "" if data is None else f", with {shown(data)}"
            return f"by {record.actor}, from {reason}: {one_line(rule)}{came}"
        case JobSnoozed(attempt=attempt, due_at=due_at):
            return (
                f"attempt {attempt} asked to be run again in {duration(due_at - record.at)}; no attempt used"
            )
        case ProgressReported(attempt=attempt, progress=progress):
            return f"attempt {attempt}: {shown(progress)}"
        case SignalReceived(name=name, data=data):
            return f"signal {name} from {record.actor}: {shown(data)}"
        case JobEdited(reason=reason, priority=priority, due_at=due_at, input=content):
            changed = [f"priority {priority}"] if priority is not None else []
            changed += [f"due {clock_time(due_at)}"] if due_at is not None else []
            changed += [f"input {shown(content)}"] if content is not None else []
            return f"by {record.actor}: {', '.join(changed) or 'nothing'} ({one_line(reason)})"
        case _:
            return ""


def noted_words(event: Fact, steps: Steps) -> str:
    """Events of recorded steps, tools, usage and compensation; `steps` are the job's after the record."""

    def named(number: int) -> str:
        name = f", {one_line(steps[number - 1].name)}" if number <= len(steps) else ""
        return f"step {number}{name}"

    match event:
        case StepIntended(attempt=attempt, step=step, params=params, again=again):
            more = "" if again is None else f", again by {again}"
            return f"attempt {attempt} begins {named(step)}{more}, parameters {params[:12]}"
        case StepDone(step=step, result=result, run_ms=run_ms, by=by):
            how = "" if by is StepBy.RAN else f" ({by})"
            return f"{named(step)}{_ran(run_ms)}{how}, result {shown(result)}"
        case StepFailed(step=step, error=error, run_ms=run_ms):
            return f"{named(step)}{_ran(run_ms)}: {error_words(error)}"
        case StepCompensated(step=step, run_ms=run_ms):
            return f"{named(step)}{_ran(run_ms)}: what it did is undone"
        case ToolCalled():
            return f"{call_words(event)}, parameters {shown(event.params)}"
        case UsageRecorded(model=model, input_tokens=given, output_tokens=got, cost_microusd=cost):
            price = "no price known" if cost is None else f"{cost} micro-dollars by prices {event.prices}"
            return f"{model}: {given} tokens in, {got} out, {price}"
        case AssetRead(attempt=attempt, asset=asset, version=version):
            kind = "secret" if event.secret else "asset"
            return f"attempt {attempt} is given {kind} {asset}, version {version}, digest {event.digest[:12]}"
        case AssetSet(version=version, secret=secret):
            kind = "secret" if secret else "asset"
            what = f"version {version}, {kind} of {event.size_bytes} bytes, digest {event.digest[:12]}"
            return f"{what}: {one_line(event.reason)}"
        case AssetRemoved(reason=reason):
            return f"removed, and its values erased: {one_line(reason)}"
        case CompensationDue(rule=rule, dead=dead):
            end = "cancelled" if dead is None else f"dead, {dead}"
            return f"what its steps did is to be undone, then it is {end}: {rule}"
        case CompensationEnded(attempt=attempt, run_ms=run_ms):
            return f"attempt {attempt}{_ran(run_ms)}: all is undone"
        case TenantDeclared(version=version, policy=policy, reason=reason):
            keeps = policy.archive_after_s
            kept = "history stays" if keeps is None else f"history moves {keeps:g} s after the end"
            sealed = "content is sealed" if policy.erasable else "content is plain"
            return (
                f"version {version}, where a queue says nothing else {kept} and {sealed}: {one_line(reason)}"
            )
        case QuotasSet(version=version, quotas=quotas, reason=reason):
            return f"version {version}: {quota_words(quotas)} ({one_line(reason)})"
        case BudgetReached(percent=percent, limit_microusd=limit, spent_microusd=spent):
            what = "nothing more starts" if percent >= STOP_PERCENT else f"more than {percent} % are spent"
            return f"{dollars(spent)} of the budget of {dollars(limit)} are spent: {what}"
        case PriceSet(version=version, model=model, from_at=from_at):
            price = f"{event.input_microusd} in, {event.output_microusd} out"
            since = f"from {clock_time(from_at)}"
            why = one_line(event.reason)
            return f"version {version}, {model} {price} micro-dollars a million {since}: {why}"
        case _:
            return ""


def call_words(call: ToolCalled) -> str:
    """A call of a tool: which, in what attempt, and what became of it."""
    if call.outcome is ToolOutcome.DENIED:
        denied = f"attempt {call.attempt}, tool {call.tool} denied"
        return f"{denied}: {call.rule}, version {call.policy} of the queue's policy"
    within = "" if call.step is None else f" in step {call.step}"
    answer = f"result {shown(call.result)}" if call.error is None else error_words(call.error)
    how = "" if call.by is StepBy.RAN else f" ({call.by})"
    tool = f"tool {call.tool} {call.schema[:12]}{within}"
    return f"attempt {call.attempt}, {tool}{_ran(call.run_ms)}{how}: {answer}"


def governing_words(event: Fact, actor: str) -> str:
    """Events of what is no job, as phrases; `actor` is their record's."""
    match event:
        case QueueDeclared(version=version, reason=reason):
            return f"version {version} by {actor}: {one_line(reason)}"
        case QueuePaused(reason=reason):
            return f"no more grants, by {actor}: {one_line(reason)}"
        case QueueDraining(reason=reason):
            return f"no more submits, by {actor}: {one_line(reason)}"
        case QueueResumed(reason=reason):
            return f"open again, by {actor}: {one_line(reason)}"
        case BatchSealed(size=size, reason=reason):
            return f"{size} jobs, by {actor}: {one_line(reason)}"
        case BatchEnded(completed=completed, dead=dead, cancelled=cancelled):
            return f"{completed} completed, {dead} dead, {cancelled} cancelled"
        case OperationPlanned(verb=verb, matched=matched, reason=reason):
            return f"{verb} {matched} jobs{_limits(event)}, by {actor}: {one_line(reason)}"
        case OperationEnded(reason=reason, done=done):
            return f"{done} jobs changed: {one_line(reason)}"
        case ContentErased(count=count, reason=reason):
            return f"the content of {count} jobs is erased, by {actor}: {one_line(reason)}"
        case HoldPlaced(reason=reason):
            return f"held, by {actor}: {one_line(reason)}"
        case HoldLifted(reason=reason):
            return f"held no more, by {actor}: {one_line(reason)}"
        case HistoryLong(records=records, limit=limit):
            return f"the job has {records} records; {limit} call for a warning"
        case WorkerSeen(host=host, version=version, slots=slots):
            labels = f", labels {label_words(event.labels)}" if event.labels else ""
            return f"a worker on {host} with {slots} slots, of version {version}{labels}"
        case WorkerDrained(reason=reason):
            return f"worker drained, by {actor}: {one_line(reason)}"
        case WorkerUndrained(reason=reason):
            return f"worker drained no more, by {actor}: {one_line(reason)}"
        case AlarmRaised(alarm=alarm, reason=reason):
            return f"alarm {alarm.value}: {one_line(reason)}"
        case Barrier():
            return "nothing changed: proof that its leader led"
        case LogRestored(last=last, taken_at=taken_at):
            return (
                f"restored up to record {last} from a backup of {clock_time(taken_at)}; no older lease lives"
            )
        case RecordsRaised(version=version, members=members, reason=reason):
            who = ", ".join(each.name for each in members)
            return f"records of version {version} from here on, by {actor}, read by {who}: {one_line(reason)}"
        case PartitionOpened(partitions=partitions):
            return f"the log is one of {partitions}"
        case MessageSent(content=content):
            return f"to the other partition: {_said(content)}"
        case MessageAccepted(message=message, content=content):
            return f"from the other partition, its record {message.seq}: {_said(content)}"
        case MessageSettled(message=message):
            return f"the other partition has accepted all up to record {message.seq}"
        case CommandRejected(verb=verb, refused=refused, count=count):
            first = one_line(refused[0].reason) if refused else "no reason"
            return f"{verb} of {actor}, {count} refused: {first}"
        case ReportRejected(verb=verb, worker=worker, refused=reports):
            first = one_line(reports[0].rejection.reason) if reports else "no reason"
            return f"{verb} of worker {worker}, {len(reports)} refused: {first}"
        case RejectionsFolded(count=count, last=last):
            return f"{count} more refusals, the last: {one_line(last.reason)}"
        case _:
            return _access_words(event, actor) or _schedule_words(event, actor) or release_words(event, actor)


def _access_words(event: Fact, actor: str) -> str:
    match event:
        case TenantCreated():
            return "the tenant is governed from here on: what no grant allows is denied"
        case PrincipalCreated(kind=kind, reason=reason):
            return f"a {kind.value} is known, by {actor}: {one_line(reason)}"
        case KeyAdded(key=key):
            return f"may log in with {key}, by {actor}"
        case KeyRemoved(key=key, reason=reason):
            return f"may not log in with {key} any more, by {actor}: {one_line(reason)}"
        case TokenIssued(name=name, until=until):
            return f"has an API token {name}{_until(until)}, by {actor}"
        case TokenRevoked(name=name, reason=reason):
            return f"has no API token {name} any more, by {actor}: {one_line(reason)}"
        case SessionStarted(name=name, until=until, by=by):
            return f"has logged in with {one_line(by)}: session {name}{_until(until)}"
        case SessionEnded(name=name, reason=reason):
            return f"session {name} has ended, by {actor}: {one_line(reason)}"
        case RoleGranted(role=role, scope=scope, reason=reason, until=until):
            by = actor if event.proposed_by is None else f"{event.proposed_by}, approved by {actor}"
            return f"is {role.value} in {scope}{_until(until)}, by {by} [{event.rule}]: {one_line(reason)}"
        case RoleUngranted(role=role, scope=scope, reason=reason):
            return f"is not {role.value} in {scope} any more, by {actor}: {one_line(reason)}"
        case AccessProposed(number=number, role=role, scope=scope, reason=reason):
            span = _until(event.until) if event.for_s is None else f" for {event.for_s} s"
            what = f"{role.value} in {scope}{span}"
            return f"number {number}, {what}, is proposed by {actor} and waits: {one_line(reason)}"
        case AccessDeclined(number=number, reason=reason):
            return f"number {number} is declined by {actor}: {one_line(reason)}"
        case PrincipalRevoked(reason=reason):
            return f"revoked by {actor}: {one_line(reason)}"
        case PrincipalRestored(reason=reason):
            return f"restored by {actor}: {one_line(reason)}"
        case AccessDenied(operation=operation, count=count, why=why):
            times = "" if count == 1 else f", {count} times"
            return f"{operation} was denied to {actor}{times}: {one_line(why.reason)}"
        case _:
            return ""


def _until(until: int | None) -> str:
    return "" if until is None else f" until {clock_time(until)}"


def _schedule_words(event: Fact, actor: str) -> str:
    match event:
        case ScheduleDeclared(version=version, spec=spec, reason=reason):
            when = f"cron {spec.cron} in {spec.tz}" if spec.cron is not None else f"every {spec.every_s:g} s"
            return f"version {version} by {actor}, task {spec.task}, {when}: {one_line(reason)}"
        case ScheduleFired(due_at=due_at, job=job, rule=rule):
            return f"{clock_time(due_at)} started job {job}{_before(event)}: {rule}"
        case ScheduleSkipped(due_at=due_at, rule=rule, count=count):
            most = "at least " if event.more else ""
            return f"{most}{count} due up to {clock_time(due_at)} not run: {rule}"
        case SchedulePaused(reason=reason):
            return f"not due until resumed, by {actor}: {one_line(reason)}"
        case ScheduleResumed(reason=reason):
            return f"due again, by {actor}: {one_line(reason)}"
        case ScheduleDeleted(reason=reason):
            return f"ended by {actor}: {one_line(reason)}"
        case ScheduleTriggered(job=job, reason=reason):
            return f"{actor} started job {job}{_before(event)}: {one_line(reason)}"
        case ScheduleBackfilled(from_at=from_at, to_at=to_at, jobs=jobs, reason=reason):
            span = f"{clock_time(from_at)} to {clock_time(to_at)}"
            started = f"{len(jobs)} jobs for {span}, {event.known} were there"
            return f"{actor} started {started}: {one_line(reason)}"
        case _:
            return ""


def _before(event: ScheduleFired | ScheduleTriggered) -> str:
    """What became of the jobs before one that was started."""
    after = f", after {', '.join(event.after)}" if event.after else ""
    return after + (f", cancelled {', '.join(event.cancelled)}" if event.cancelled else "")


def _ties(event: JobSubmitted) -> str:
    """What ties a job to others."""
    ties = [f"after {', '.join(event.after)}"] if event.after else []
    named = (
        ("child of", event.parent),
        ("in batch", event.batch),
        ("of schedule", event.schedule),
        ("release", event.process),
        ("reproduces", None if event.reproduces is None else event.reproduces.job),
        ("unique key", event.unique_key),
        ("concurrency key", event.concurrency_key),
        ("fairness key", event.fairness_key),
        ("demands", label_words(event.requires)),
    )
    return "".join([f", {tie}" for tie in (*ties, *[f"{words} {value}" for words, value in named if value])])


def _limits(event: OperationPlanned) -> str:
    """How far and how fast an operation goes, and what it means."""
    parts = [f"{name} {value}" for name, value in _filtered(event.filter)]
    parts += [f"at most {event.limit}"] if event.limit else []
    parts += [f"{event.rate_per_s:g} a second"] if event.rate_per_s else []
    parts += [f"first {event.canary} alone"] if event.canary else []
    parts += [f"until {event.stop_after} die again"] if event.stop_after else []
    return f" ({', '.join(parts)})" if parts else ""


def _filtered(filter_: Filter) -> Iterator[tuple[str, str]]:
    for field in filter_.__struct_fields__:
        value: str | tuple[str, ...] | None = getattr(filter_, field)
        if value:
            yield field, value if isinstance(value, str) else ", ".join(value)


def _ran(run_ms: int | None) -> str:
    return "" if run_ms is None else f" after {duration(run_ms * 1_000)}"


def quota_words(quotas: Quotas) -> str:
    """What a tenant may use, in a line."""
    counted = (
        (quotas.jobs, "jobs"),
        (quotas.input_bytes, "bytes of input"),
        (quotas.workers, "workers"),
        (quotas.submits_per_s, "submits a second"),
    )
    found = [f"{most:g} {what}" for most, what in counted if most is not None]
    if quotas.budget is not None:
        found.append(f"{dollars(quotas.budget.limit_microusd)} a {quotas.budget.period}")
    return ", ".join(found) or "without limit"


def _apart(isolation: Isolation) -> str:
    return "" if isolation is Isolation.NONE else f", isolated by {isolation}"


def _said(content: Content) -> str:
    """What one partition says to another."""
    if isinstance(content, JobAsked):
        return f"what becomes of {content.key}?"
    if isinstance(content, PolicyTold):
        return f"version {content.version} of the policy of tenant {content.tenant}"
    if isinstance(content, PricesTold):
        return f"{len(content.table)} prices of tenant {content.tenant}, version {content.version}"
    if isinstance(content, TenantHosted):
        return f"there is a tenant {content.tenant}, whose first owner is {content.owner.name}"
    if isinstance(content, QuotasTold):
        return f"version {content.version} of the quotas of tenant {content.tenant}"
    if isinstance(content, PrincipalTold):
        return (
            f"principal {content.principal.name} of tenant {content.tenant}, after {content.version} changes"
        )
    if isinstance(content, ProcessTold):
        return f"version {content.version} of process {content.process.name} of tenant {content.tenant}"
    if isinstance(content, FleetTold):
        return f"{len(content.drained)} workers of tenant {content.tenant} are drained"
    if isinstance(content, CanaryTold):
        found = content.found
        return f"canary of {found.process} in {found.scope}, tenant {content.tenant}: {in_words(found)}"
    if isinstance(content, ShardPlaced):
        return f"shard {content.shard} is in partition {content.partition}, by offer {content.version}"
    if isinstance(content, AllTold):
        return f"all that holds for tenants was told, in {content.version} partitions"
    if isinstance(content, OfShard):
        return _of_shard(content)
    if content.ended_by == GONE:
        return f"there is no {content.key}"
    return f"{content.key} is {content.state}"


def _of_shard(content: OfShard) -> str:
    """What holder and receiver of a shard say to each other."""
    of = f"shard {content.shard}, offer {content.term}"
    match content:
        case ShardOffered():
            return f"{of}: would you take it over?"
        case ShardAwaited():
            return f"{of}: awaited; no submit is taken until it is here"
        case ShardMoved():
            return f"{of}: it is yours, with all submits behind those that were dealt with"
        case ShardKept(used=used):
            why = f"in use since record {used}" if used else "as others wait for a job of it"
            return f"{of}: it stays, {why}"


def _lives_until(job: Job, at: int) -> str:
    if job.lease is None:
        return ""
    return f"; the lease lives for {duration(job.lease.expires_at - at)} from here"


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """The timeline: sequence, time since the first record, event, facts, and the state that it led to."""
    if not steps:
        return
    start = steps[0].record.at
    width = max(8, len(str(steps[-1].record.seq)) + 1)
    yield f"{clock_time(start)}  job {steps[0].job.id} in queue {steps[0].job.queue}"
    for step in steps:
        record = step.record
        for number, event in enumerate(record.events):
            last = number == len(record.events) - 1
            moved = step.before is None or step.before.state is not step.job.state
            state = f"  -> {step.job.state}" if last and moved else ""
            words = event_words(event, step)
            place = f"#{record.seq}" if number == 0 else ""
            since = f"+{duration(record.at - start)}" if number == 0 else ""
            yield f"{place:>{width}}  {since:>12}  {type_names[type(event)]:<18} {words}{state}".rstrip()
