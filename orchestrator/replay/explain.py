"""The questions that anyone asks of a job, answered from its history, each with the records it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from writ.schemas.assets import AssetRead
from writ.schemas.events import (
    AttemptFailed,
    CancelRequested,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    RetryScheduled,
    WaitReason,
)
from writ.schemas.fleet import label_words, meets
from writ.schemas.lifecycle import WAITING, Job, State, job_deadline, micros
from writ.schemas.lists import WorkerView
from writ.schemas.processes import Process
from writ.schemas.queues import Mode, Queue
from writ.schemas.records import Record
from writ.schemas.sealed import UNSEALED
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    StepCompensated,
    StepDone,
    StepFailed,
    ToolCalled,
    UsageRecorded,
)

from ..decide import quotas
from ..decide.release import choose
from .history import Step
from .releasing import short
from .text import call_words, clock_time, delay_words, duration, error_words, noted_words, one_line, shown

_LISTED_MAX = 20


class Answer(msgspec.Struct, frozen=True):
    """One question with its answer in sentences; `records` are the log sequences that it rests on."""

    question: str
    sentences: tuple[str, ...]
    records: tuple[int, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """The six questions, and why the job is not running now. `at` is the log time of the asking."""

    tenant: str
    queue: str
    id: str
    state: State
    at: int
    who: Answer
    code: Answer
    tools: Answer
    retries: Answer
    policies: Answer
    reproducible: Answer
    not_running: Answer

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All answers, in the order of the questions."""
        return (
            self.who,
            self.code,
            self.tools,
            self.retries,
            self.policies,
            self.reproducible,
            self.not_running,
        )

    def lines(self) -> list[str]:
        """The explanation as plain text."""
        found = [f"job {self.id} in queue {self.queue} of tenant {self.tenant}: {self.state}"]
        for number, answer in enumerate(self.answers, 1):
            found.append("")
            found.append(f"{number}. {answer.question}")
            found += [f"   {sentence}" for sentence in answer.sentences]
            if answer.records:
                found.append(f"   from {_cited(answer.records)}")
        return found


def _cited(seqs: Sequence[int]) -> str:
    shown = ", ".join(f"#{seq}" for seq in seqs[:_LISTED_MAX])
    more = len(seqs) - _LISTED_MAX
    noun = "record" if len(seqs) == 1 else "records"
    return f"{noun} {shown}" + (f" and {more} more" if more > 0 else "")


class QueueStanding(msgspec.Struct, frozen=True):
    """What is known of a job's queue now, where somebody could look it up: its state and its running jobs.

    `workers` are those of the queue that were heard of lately; None where that is not known.
    """

    queue: Queue
    running: int = 0
    pending: int = 0
    running_by_key: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    process: Process | None = None
    """The one that the job asks for a release of."""
    workers: tuple[WorkerView, ...] | None = None


def explain(
    steps: Sequence[Step],
    now: int,
    standing: QueueStanding | None = None,
    tenant: quotas.Standing | None = None,
) -> Explanation:
    """The explanation of a job with this history, at log time `now` in microseconds.

    With the queue's `standing` it says what in the queue holds the job back, and with that of the `tenant`
    what of its quotas does.
    Raises ValueError where the history is empty.
    """
    if not steps:
        raise ValueError("there is no history to explain: the log has no such job")
    job = steps[-1].job
    return Explanation(
        tenant=job.tenant,
        queue=job.queue,
        id=job.id,
        state=job.state,
        at=now,
        who=_who(steps),
        code=_code(steps),
        tools=_tools(steps),
        retries=_retries(steps),
        policies=_policies(steps),
        reproducible=_reproducible(steps),
        not_running=_not_running(steps, now, standing, tenant),
    )


def _events(steps: Iterable[Step]) -> Iterable[tuple[Step, Fact]]:
    """The job's own events, each with its step."""
    return ((step, event) for step in steps if not step.is_context for event in step.record.events)


def _answer(question: str, found: Sequence[tuple[str, int]], otherwise: str, first: int = 0) -> Answer:
    """Of many sentences the `first` ones and the newest."""
    if not found:
        return Answer(question, (otherwise,))
    sentences = [sentence for sentence, _ in found]
    left = len(sentences) - first - _LISTED_MAX
    if left > 0:
        sentences[first : first + left] = [f"({left} earlier ones are left out.)"]
    return Answer(question, tuple(sentences), tuple(dict.fromkeys(seq for _, seq in found)))


def _vouched(record: Record) -> str:
    if record.vouched is None:
        return ""
    return ", its name proved by a signature" if record.vouched else " (the broker's word; unvouched)"


def _who(steps: Sequence[Step]) -> Answer:
    found: list[tuple[str, int]] = []
    for step, event in _events(steps):
        record = step.record
        when = clock_time(record.at)
        match event:
            case JobSubmitted():
                source = record.source
                place = f", submit {source.seq} of the intake, element {source.index}" if source else ""
                trace = f", trace {record.trace}" if record.trace else ""
                words = f"{record.actor} submitted it at {when}{_vouched(record)}{place}{trace}."
                found.append((words, record.seq))
            case JobRedriven(answers=answers, reason=reason):
                words = f"{record.actor} redrove it at {when}{_vouched(record)}, answering record {answers}"
                found.append((f"{words}: {one_line(reason)}.", record.seq))
            case JobRerun(answers=answers, reason=reason):
                words = f"{record.actor} reran it at {when}{_vouched(record)}, answering record {answers}"
                found.append((f"{words}: {one_line(reason)}.", record.seq))
            case CancelRequested(reason=reason):
                words = f"{record.actor} asked to cancel it at {when}{_vouched(record)}: {one_line(reason)}."
                found.append((words, record.seq))
            case _:
                pass
    return _answer("Who triggered it?", found, "Nobody is named in what was read.")


def _code(steps: Sequence[Step]) -> Answer:
    job = steps[0].job
    release = "its release is not recorded" if job.process is None else f"it asks for {job.process}"
    found = [(f"Task {job.task}; {release}.", steps[0].record.seq)]
    for step, event in _events(steps):
        match event:
            case LeaseGranted(worker=worker, attempt=attempt):
                lease = step.job.lease
                by = f" of principal {lease.principal}" if lease is not None else ""
                round_ = f" of round {step.job.round}" if step.job.round > 1 else ""
                of = "" if event.release is None else f", for release {event.release}"
                found.append((f"Attempt {attempt}{round_} went to worker {worker}{by}{of}.", step.record.seq))
            case _:
                pass
    if len(found) == 1:
        found.append(("No worker has been given it.", steps[0].record.seq))
    return _answer("What code, at which version, ran?", found, "", first=1)


def _tools(steps: Sequence[Step]) -> Answer:
    """Calls of tools, the steps that ran, and the tokens used."""
    found: list[tuple[str, int]] = []
    for step, event in _events(steps):
        if isinstance(event, ToolCalled):
            called = f"{call_words(event)}, with {shown(event.params)} (digest {event.digest[:12]})"
            found.append((f"{called[0].upper()}{called[1:]}.", step.record.seq))
        elif isinstance(event, StepDone | StepFailed | StepCompensated | UsageRecorded | AssetRead):
            words = noted_words(event, step.job.steps)
            found.append((f"{words[0].upper()}{words[1:]}.", step.record.seq))
    question = "Which tools were called, with what?"
    return _answer(question, found, "None is recorded: it called no tool of @tool, and took no ctx.step.")


def _retries(steps: Sequence[Step]) -> Answer:
    found: list[tuple[str, int]] = []
    for step, event in _events(steps):
        words = _retry_words(event, step)
        if words:
            found.append((words, step.record.seq))
    return _answer("Why did it retry, or not retry?", found, "No attempt has failed and no lease was lost.")


def _retry_words(event: Fact, step: Step) -> str:
    match event:
        case AttemptFailed(attempt=attempt, error=error):
            return f"Attempt {attempt} failed with {error_words(error)}."
        case LeaseExpired(attempt=attempt, worker=worker, losses=losses, max_lease_losses=cap):
            return (
                f"Attempt {attempt} lost its lease, as worker {worker} did not renew it: "
                f"loss {losses} of {cap}, which uses up no attempt."
            )
        case LeaseReleased(attempt=attempt, reason=reason):
            return f"Attempt {attempt} was given back unfinished ({one_line(reason)}): no failure, no loss."
        case JobSnoozed(attempt=attempt, due_at=due_at):
            later = duration(due_at - step.record.at)
            return f"Attempt {attempt} asked to be run again in {later}: no failure, no attempt used up."
        case RetryScheduled(rule=rule):
            return f"Retried {delay_words(event, step.record.at)}, as {rule}."
        case JobDeadLettered(reason=reason, rule=rule):
            return f"Not retried, dead-lettered as {reason}: {rule}."
        case JobCancelled(reason=reason):
            return f"Not retried, cancelled: {one_line(reason)}."
        case JobCompleted(attempt=attempt):
            return f"Attempt {attempt} completed it." if step.job.failures or step.job.lease_losses else ""
        case _:
            return ""


def _policies(steps: Sequence[Step]) -> Answer:
    first = steps[0]
    policy, limits, version = first.job.retry, first.job.limits, first.job.policy
    origin = "given with the submit or built in" if version == 0 else f"version {version} of the queue's"
    most = policy.max_attempts or "no"
    expires = f"{limits.expires_in_s:g} s" if limits.expires_in_s is not None else "none"
    found = [
        (
            f"Retry policy ({origin}): at most {most} attempts, "
            f"{policy.initial_interval_s:g} s times {policy.backoff:g} each time "
            f"up to {policy.max_interval_s:g} s, jitter {policy.jitter:g}, "
            f"at most {policy.max_lease_losses} lost leases, "
            f"never for types: {one_line(', '.join(policy.non_retryable_types) or 'none listed')}.",
            first.record.seq,
        ),
        (
            f"Limits: lease {limits.lease_s:g} s, attempt {limits.attempt_timeout_s:g} s, "
            f"job {limits.job_timeout_s:g} s, to first start {expires}.",
            first.record.seq,
        ),
    ]
    for step, event in _events(steps):
        match event:
            case RetryScheduled(rule=rule):
                found.append((f"Verdict: retry; {rule}.", step.record.seq))
            case JobDeadLettered(reason=reason, rule=rule):
                found.append((f"Verdict: {reason}; {rule}.", step.record.seq))
            case JobSuspended(reason=WaitReason.APPROVAL, rule=rule):
                found.append((f"Gate: a person must say yes; {one_line(rule)}.", step.record.seq))
            case JobResumed(reason=WaitReason.APPROVAL, rule=rule):
                words = f"Gate passed, by {step.record.actor}{_vouched(step.record)}: {one_line(rule)}."
                found.append((words, step.record.seq))
            case _:
                pass
    if not any(isinstance(event, JobSuspended | JobResumed) for _, event in _events(steps)):
        found.append(("No gates or approvals were evaluated: none are recorded.", first.record.seq))
    return _answer("Which policies and gates were evaluated, with what verdict?", found, "", first=2)


def _reproducible(steps: Sequence[Step]) -> Answer:
    question = "Can we reproduce it on demand?"
    first = steps[0]
    sealed = first.job.input
    if sealed.key == UNSEALED:
        have = f"its input is in the log (digest {sealed.digest[:16]}...)"
    else:
        have = f"its input is sealed under key {sealed.key}, and can be read until that is erased"
    job = steps[-1].job
    calls = sum(isinstance(event, ToolCalled) for _, event in _events(steps))
    answers = f"{len(job.steps)} steps and {calls} calls of tools"
    sentences = (
        "Its decisions can be recomputed: times, limits and seeds are in the records.",
        f"It can be run again with the recorded answers of {answers}: {have} and its task is named; "
        f"{_release_words(job)}. writ reproduce {job.id} does it and compares.",
    )
    if job.reproduces is not None:
        told = f"It reproduces {job.reproduces.job} as that ended in record {job.reproduces.end}."
        return Answer(question, (told, *sentences), (first.record.seq,))
    return Answer(question, sentences, (first.record.seq,))


def _release_words(job: Job) -> str:
    if job.release is None:
        return "the release of its code is not recorded"
    return f"its code is release {job.release}, which writ release fetch gives"


def release_standing(job: Job, process: Process | None) -> tuple[str, bool]:
    """Which release the next lease is for, and why, or what holds it back; and whether something does."""
    chosen = choose(job, process)
    if chosen.digest is None:
        return f"It asks for {job.process}, and no lease is given for that: {chosen.why}.", True
    words = f"It asks for {job.process}: release {short(chosen.digest)}, {chosen.why}"
    return f"{words}. Only a worker that holds it is given the job.", False


def _last_with(steps: Sequence[Step], *kinds: type[Fact]) -> int:
    """Sequence of the newest record with such an event; the first record's where there is none."""
    seqs = [step.record.seq for step, event in _events(steps) if isinstance(event, kinds)]
    return seqs[-1] if seqs else steps[0].record.seq


def _not_running(
    steps: Sequence[Step], now: int, standing: QueueStanding | None, tenant: quotas.Standing | None
) -> Answer:
    job = steps[-1].job
    question = "Why is it not running now?"
    words, seq = _standing(steps, job, now)
    sentences, records = [words], [seq]
    last = _last_lease(steps, job, now) if job.state in WAITING else None
    if last is not None:
        sentences.append(last[0])
        records.append(last[1])
    held = [] if standing is None or job.state not in WAITING else _held_back(job, standing, now)
    held += [] if tenant is None or job.state is not State.PENDING else _by_quotas(job, tenant, now)
    if standing is not None and job.process is not None and job.state is State.PENDING:
        words, barred = release_standing(job, standing.process)
        (held if barred else sentences).append(words)
    if job.state is State.PENDING and not held:
        sentences.append(f"No worker that runs {job.task} has asked for it yet, or others are before it.")
    sentences += held
    if standing is not None and job.state is State.PENDING and standing.pending > 1:
        sentences.append(f"{standing.pending - 1} other jobs of queue {job.queue} are pending.")
    if job.state in WAITING:
        sentences.append(_limit_words(job, now))
    if job.cancel is not None and job.lease is not None:
        sentences.append(f"It is asked to end ({one_line(job.cancel)}): its worker is told at the next beat.")
    return Answer(question, tuple(sentences), tuple(dict.fromkeys(records)))


def _held_back(job: Job, standing: QueueStanding, now: int) -> list[str]:
    """What in the queue's policy and mode holds a job that waits."""
    queue, policy, found = standing.queue, standing.queue.policy, list[str]()
    if queue.mode is Mode.PAUSED:
        words = f"Queue {job.queue} is paused: {one_line(queue.reason)}; it grants nothing"
        found.append(f"{words} until writ queue resume {job.queue}.")
    if job.state is not State.PENDING:
        return found
    found += unmet(job.queue, job.requires, standing.workers)
    if policy.concurrency is not None and standing.running >= policy.concurrency:
        words = f"{standing.running} jobs of queue {job.queue} run; its concurrency is {policy.concurrency}"
        found.append(f"All slots are taken: {words}.")
    key, most = job.concurrency_key, policy.key_concurrency
    running = standing.running_by_key.get(key or "", 0)
    if key is not None and most is not None and running >= most:
        words = f"{running} jobs with concurrency_key {key} run; the queue's key_concurrency is {most}"
        found.append(f"The slots of its key are taken: {words}.")
    if policy.rate_per_s is not None and queue.next_grant_at(now) > now:
        found.append(_rate_words(job.queue, queue, policy.rate_per_s, now))
    return found


def _by_quotas(job: Job, tenant: quotas.Standing, now: int) -> list[str]:
    """What of the tenant's quotas holds a pending job."""
    found: list[str] = []
    spent = quotas.holds(tenant, job, now)
    if spent is not None:
        end = None if tenant.budget is None else tenant.budget.period.end(now)
        until = (
            "until it is raised" if end is None else f"until it is raised, or begins anew {_when(end, now)}"
        )
        found.append(f"The budget lets nothing start: {spent}. It waits {until}.")
    workers = quotas.too_many_workers(tenant, False)
    if workers is not None:
        found.append(f"Only who holds a lease already gets another: {workers}.")
    return found


def unmet(queue: str, requires: dict[str, str], workers: Sequence[WorkerView] | None) -> list[str]:
    """Why none of a queue's workers takes a job with these demands; nothing where one may.

    `workers` are those that were heard of lately; None where that is not known.
    """
    if workers is None:
        return [f"It demands {label_words(requires)} of its worker."] if requires else []
    able = [each for each in workers if meets(each.labels, requires)]
    if any(each.drained is None for each in able) or not (able or requires):
        return []
    if able:
        of = f" that have {label_words(requires)}" if requires else ""
        names = ", ".join([each.worker for each in able[:_LISTED_MAX]])
        again = f"writ workers undrain {able[0].worker}"
        return [f"The workers of queue {queue}{of} are drained and take no more leases: {names}; {again}."]
    has = [f"{each.worker} has {label_words(each.labels) or 'no labels'}" for each in workers[:_LISTED_MAX]]
    options = " ".join([f"--label {name}={value}" for name, value in sorted(requires.items())])
    return [
        f"It demands {label_words(requires)} of its worker, and none that works on queue {queue} has that: "
        f"{', '.join(has) or 'no worker was heard of lately'}. It waits for one: "
        f"writ worker MODULE --queue {queue} {options}."
    ]


def _rate_words(name: str, queue: Queue, per_s: float, now: int) -> str:
    """When the queue's rate lets the next lease through, with the tokens that it is computed from."""
    burst = queue.policy.burst
    level = 0.0 if queue.grants is None else queue.grants.level(now, per_s, burst)
    words = f"Queue {name} grants {per_s:g} a second with a burst of {burst}, and has {level:.3g} tokens"
    next_at = queue.next_grant_at(now)
    when = f"in {duration(next_at - now)}, at {clock_time(next_at)}"
    return f"{words}; a lease takes 1: the next may be granted {when}."


def _last_lease(steps: Sequence[Step], job: Job, now: int) -> tuple[str, int] | None:
    """How the last lease of this round ended, and the record that says so; None where it had none."""
    if not job.attempt:
        return None
    for step in reversed(steps):
        for event in () if step.is_context else step.record.events:
            words = _ending_words(event, step)
            if words:
                ago = duration(now - step.record.at)
                return f"Its last lease ended {ago} ago: {words[0].lower()}{words[1:]}", step.record.seq
    return None


def _ending_words(event: Fact, step: Step) -> str:
    match event:
        case LeaseExpired() | LeaseReleased() | AttemptFailed() | JobSnoozed():
            return _retry_words(event, step)
        case JobSuspended(reason=reason, attempt=attempt) if attempt is not None:
            return f"Attempt {attempt} gave it back to wait for {reason}."
        case _:
            return ""


def _limit_words(job: Job, now: int) -> str:
    limits = job.limits
    words = f"Its job_timeout_s ends {_when(job_deadline(job), now)}"
    if job.attempt == 0 and limits.expires_in_s is not None:
        words += f", and its expires_in_s {_when(job.round_at + micros(limits.expires_in_s), now)}"
    return f"{words}."


def _when(at: int, now: int) -> str:
    return f"in {duration(at - now)}" if at >= now else f"{duration(now - at)} ago"


def _standing(steps: Sequence[Step], job: Job, now: int) -> tuple[str, int]:
    """Why the job stands where it stands, and the record that says so."""
    match job.state:
        case State.RUNNING:
            lease = job.lease
            assert lease is not None
            held = (
                f"attempt {job.attempt} by worker {lease.worker}, lease until {clock_time(lease.expires_at)}"
            )
            late = f", which was {_when(lease.expires_at, now)}" if lease.expires_at < now else ""
            said = (
                "the worker said that user code runs"
                if lease.started_at
                else "the worker has not said so yet"
            )
            return f"It is running: {held}{late}; {said}.", _last_with(steps, LeaseGranted)
        case State.SCHEDULED:
            return f"It is not due: its time comes {_when(job.due_at, now)}.", steps[0].record.seq
        case State.RETRYING:
            words = (
                f"It waits out the backoff after failed attempt {job.attempt}: due {_when(job.due_at, now)}."
            )
            return words, _last_with(steps, RetryScheduled)
        case State.PENDING:
            kinds = (
                JobSubmitted,
                JobDue,
                LeaseExpired,
                LeaseReleased,
                JobRedriven,
                JobRerun,
                JobResumed,
                JobEdited,
                CompensationDue,
                CompensationEnded,
            )
            seq = _last_with(steps, *kinds)
            since = next(s.record.at for s in reversed(steps) if s.record.seq == seq)
            return f"It has been ready for {duration(now - since)} with priority {job.priority}.", seq
        case State.SUSPENDED:
            asked = [each for step in steps for each in step.record.events if isinstance(each, JobSuspended)]
            return _waits_for(job, now, asked[-1]), _last_with(steps, JobSuspended)
        case State.COMPLETED:
            return f"It completed {_ago(job, now)} ago.", job.ended_by
        case State.CANCELLED:
            return f"It was cancelled {_ago(job, now)} ago: {one_line(job.reason or '')}.", job.ended_by
        case State.DEAD:
            why = f"{job.dead}: {job.reason}"
            return (
                f"It became a dead letter {_ago(job, now)} ago, as {why}; redrive it to run again.",
                job.ended_by,
            )


def _waits_for(job: Job, now: int, asked: JobSuspended) -> str:
    """What a suspended job waits for, and what happens if nobody comes."""
    wait = job.wait
    assert wait is not None
    named = ", ".join(wait.on)
    yes = f"a person must say yes: writ approve {job.id}, or writ reject {job.id}"
    if asked.attempt is not None:
        yes += f". Attempt {asked.attempt} asks: {' '.join(asked.rule.split())}"
    words = {
        WaitReason.APPROVAL: yes,
        WaitReason.SIGNAL: f"the signal {named} has not come: writ signal {job.id} {named}",
        WaitReason.CHILD: f"its children {named} have not all ended",
        WaitReason.DEPENDENCY: f"it comes after {named}",
        WaitReason.FROZEN: "its release is frozen",
        WaitReason.PAUSED: f"an operator paused it: writ resume {job.id}",
        WaitReason.EXHAUSTED: f"its attempts are used up: writ resume {job.id}, or writ cancel {job.id}",
    }[wait.reason]
    until = "" if wait.until is None else f"; {_when(wait.until, now)} it ends in {wait.on_timeout}"
    return f"It is suspended since {duration(now - wait.since_at)}: {words}{until}."


def _ago(job: Job, now: int) -> str:
    assert job.finished_at is not None
    return duration(now - job.finished_at)
