"""Random commands to the shipped engine: what it remembers is what the log tells, after every step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from writ.orchestrator.snapshots import Snapshots, recover
from writ.orchestrator.state import Partition
from writ.schemas.codec import decode
from writ.schemas.events import JOB_EVENTS, OTHER_EVENTS
from writ.schemas.gates import GATE_EVENTS
from writ.schemas.lifecycle import State
from writ.schemas.links import LINK_EVENTS
from writ.schemas.principals import PRINCIPAL_EVENTS
from writ.schemas.processes import PROCESS_EVENTS
from writ.schemas.quotas import QUOTA_EVENTS

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any

Snapshot = Callable[[Partition], dict[str, Any]]
Step = tuple[str, str, dict[str, Any]]
"""What is done: `submit`, `ask`, `report`, `acquire` or `wait`; to what; and how."""

BEFORE: Final = "2025-12-31T23:59:50Z"
BEGIN: Final = "2026-01-01T00:00:00Z"
WHICH = st.integers(1, 4)
"""Jobs and leases are named from the newest back: a random name would mostly be nobody's."""


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Up to two of the fields: more of them mostly stand in each other's way."""
    named = [st.tuples(st.just(name), value) for name, value in fields.items()]
    return st.lists(st.one_of(named), max_size=2).map(dict)


def pick(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


RETRY = some(
    max_attempts=pick(1, 2),
    initial_interval_s=pick(0, 5),
    jitter=pick(0, 0.5),
    max_lease_losses=pick(1, 2),
    on_exhausted=pick("dead_letter", "suspend", "cancel"),
    non_retryable_types=pick(["Bad"]),
)
JOB = some(
    priority=pick(1, 5),
    delay_s=pick(1, 20),
    retry=RETRY,
    lease_s=pick(1, 5),
    attempt_timeout_s=pick(3),
    job_timeout_s=pick(15),
    expires_in_s=pick(10),
    fairness_key=pick("x", "y"),
    concurrency_key=pick("k"),
    unique_key=pick("u", "v"),
    approval=some(timeout_s=pick(10), on_timeout=pick("resume", "dead_letter")),
    after=st.lists(WHICH, min_size=1, max_size=2, unique=True),
    on_dead=pick("dead_letter", "cancel", "suspend", "run"),
    parent=WHICH,
    on_parent_end=pick("cancel", "abandon"),
    batch=pick("m", "n"),
    input=pick(1, {"n": 1}),
)
POLICY = some(
    concurrency=pick(1, 2),
    key_concurrency=pick(1),
    rate_per_s=pick(0.5),
    burst=pick(2),
    retries_per_min=pick(1),
    pending_max=pick(8),
    on_clash=pick("return", "reject", "replace"),
    priority=pick(1),
    retry=RETRY,
)
SPEC = some(
    overlap=pick("skip", "queue", "cancel_running", "allow"),
    catch_up_max=pick(0, 3),
    paused=pick(True, False),
    fairness_key=pick("x"),
).map(lambda more: {"task": "t", "every_s": 7, **more})
PLAN = some(
    filter=some(states=pick(["dead"], ["pending", "suspended"])),
    limit=pick(1),
    rate_per_s=pick(1),
    canary=pick(1),
    stop_after=pick(1),
)


STEP_1: Final = {"step": 1, "name": "pay", "params": "ab" * 32}
CALLED: Final[dict[str, Any]] = {
    "tool": "t",
    "schema": "1",
    "params": {},
    "digest": "ab" * 32,
    "outcome": "done",
}
USED: Final = {"note": "usage_recorded", "model": "small", "input_tokens": 7}
BEGUN: Final = {"note": "step_intended", **STEP_1, "on_unknown": "repeat", "compensable": True}
NOTES: Final = pick(
    [BEGUN],
    [{**BEGUN, "again": "repeat"}],
    [BEGUN, {"note": "step_done", "step": 1}],
    [BEGUN, {"note": "step_failed", "step": 1, "class": "application", "type": "Bad"}],
    [{"note": "step_compensated", "step": 1}],
    [{"note": "tool_called", **CALLED}, USED],
)


def ask(verb: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.tuples(st.just("ask"), st.just(verb), st.fixed_dictionaries(fields))


def told(verbs: tuple[str, ...], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    """Something said of one of the last leases, live or not."""
    more = st.fixed_dictionaries({"which": WHICH, **fields})
    return st.tuples(st.just("report"), st.sampled_from(verbs), more)


def on_a_job(*verbs: str) -> st.SearchStrategy[Step]:
    return st.tuples(st.just("ask"), st.sampled_from(verbs), st.fixed_dictionaries({"which": WHICH}))


def on_a_schedule(*verbs: str) -> st.SearchStrategy[Step]:
    return st.tuples(st.just("ask"), st.sampled_from(verbs), st.just({"name": "s"}))


NOTHING: Final[st.SearchStrategy[dict[str, Any]]] = st.just({})
SUBMIT: st.SearchStrategy[Step] = st.tuples(
    st.just("submit"), st.just(""), JOB.map(lambda job: {"task": "t", **job})
)
ACQUIRE: st.SearchStrategy[Step] = st.tuples(
    st.just("acquire"), st.just(""), st.fixed_dictionaries({"count": pick(1, 3), "wait_s": pick(0, 0, 5)})
)
WAIT: st.SearchStrategy[Step] = st.tuples(
    st.just("wait"), st.just(""), st.fixed_dictionaries({"seconds": pick(0.6, 2, 6, 25)})
)
FAILED = told(
    ("fail",),
    **{"class": pick("system", "application", "policy", "cancelled", "poison"), "type": pick("Bad", "B")},
)
REPORTED = told(("complete", "release", "start", "renew"))
OFTEN: Final[list[st.SearchStrategy[Step]]] = [
    *[SUBMIT] * 4,
    *[ACQUIRE] * 4,
    *[WAIT] * 3,
    *[REPORTED] * 3,
    *[FAILED] * 3,
]
SELDOM: Final[list[st.SearchStrategy[Step]]] = [
    told(("snooze",), delay_s=pick(0, 5)),
    told(("suspend",), reason=pick("signal", "approval"), on=pick("paid"), timeout_s=pick(5)),
    told(("progress",), progress=pick(1)),
    *[told(("note",), notes=NOTES)] * 2,
    ask("set_price", model=pick("small"), input_microusd=pick(5, 9), output_microusd=pick(7)),
    on_a_job("cancel", "terminate", "pause", "resume", "approve", "reject"),
    on_a_job("redrive", "rerun"),
    on_a_job("drop"),
    ask("signal", which=WHICH, name=pick("paid", "other"), data=pick(1)),
    ask("edit", which=WHICH, priority=pick(1, 4)),
    ask("declare", policy=POLICY),
    st.tuples(st.just("ask"), pick("pause_queue", "drain_queue", *["resume_queue"] * 6), NOTHING),
    ask("seal_batch", batch=pick("m", "n"), size=pick(1)),
    st.tuples(pick("redrive", "rerun", "cancel", "pause"), PLAN).map(
        lambda plan: ("ask", "plan", {"verb": plan[0], **plan[1]})
    ),
    ask("declare_schedule", name=pick("s"), spec=SPEC),
    on_a_schedule("pause_schedule", "resume_schedule"),
    on_a_schedule("delete_schedule", "trigger_schedule", "trigger_schedule"),
    ask("backfill_schedule", **{"name": pick("s"), "from": pick(BEFORE), "to": pick(BEGIN)}),
]
STEP: st.SearchStrategy[Step] = st.sampled_from([*OFTEN, *SELDOM]).flatmap(lambda kind: kind)
EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""The fixtures that an example is given hold nothing of another: each plays on a twin of its own."""


FOR: Final[dict[str, tuple[State, ...]]] = {
    **dict.fromkeys(("redrive", "drop"), (State.DEAD,)),
    **dict.fromkeys(("rerun",), (State.COMPLETED, State.CANCELLED)),
    **dict.fromkeys(("resume", "approve", "reject", "signal"), (State.SUSPENDED,)),
    **dict.fromkeys(("pause", "edit"), (State.PENDING, State.SCHEDULED)),
    **dict.fromkeys(("cancel", "terminate"), (State.RUNNING,)),
}
"""Jobs on which a verb is mostly tried."""


NEWEST: Final = {"which": 1}
RARE: Final[list[Step]] = [
    ("ask", "declare_schedule", {"name": "s", "spec": {"task": "t", "every_s": 7}}),
    *[("ask", f"{verb}_schedule", {"name": "s"}) for verb in ("pause", "resume")],
    ("submit", "", {"task": "t", "batch": "m", "priority": 1}),
    ("ask", "seal_batch", {"batch": "m", "size": 1}),
    ("acquire", "", {"count": 3}),
    ("report", "fail", {"which": 1, "class": "policy", "type": "Bad"}),
    ("ask", "redrive", NEWEST),
    ("acquire", "", {"count": 3}),
    ("report", "fail", {"which": 1, "class": "policy", "type": "Bad"}),
    ("ask", "drop", NEWEST),
    ("ask", "rerun", NEWEST),
    ("acquire", "", {"count": 3}),
    ("acquire", "", {"count": 3, "wait_s": 5}),
    ("submit", "", {"task": "t", "fairness_key": "x"}),
    ("ask", "backfill_schedule", {"name": "s", "from": BEFORE, "to": BEGIN}),
    ("submit", "", {"task": "t", "priority": 1}),
    ("acquire", "", {"count": 3}),
    ("report", "note", {"which": 1, "notes": [BEGUN, {"note": "step_done", "step": 1}]}),
    ("report", "note", {"which": 1, "notes": [{"note": "tool_called", **CALLED}, USED]}),
    ("report", "fail", {"which": 1, "class": "policy", "type": "Bad"}),
    ("acquire", "", {"count": 3}),
    ("report", "note", {"which": 1, "notes": [{"note": "step_compensated", "step": 1}]}),
    ("report", "complete", {"which": 1}),
]
"""What chance seldom leads to; one job is granted in the record that accepts it."""


class Player:
    """Plays steps on a twin, and knows the leases that were granted."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.leases: list[dict[str, Any]] = []
        self.jobs: list[str] = []
        self.waits: list[asyncio.Task[None]] = []

    async def play(self, step: Step) -> None:
        what, verb, fields = step[0], step[1], dict(step[2])
        if what == "ask" and "which" in fields:
            fields["id"] = self._job(fields.pop("which"), verb)
        twin = self.twin
        match what:
            case "submit":
                await self._submit(**fields)
            case "acquire":
                self.waits.append(asyncio.create_task(self._acquire(**fields)))
            case "wait":
                await asyncio.sleep(fields["seconds"])
            case "report":
                await self._report(verb, **fields)
            case _:
                await twin.ask(verb, **fields)
        await twin.settled()

    async def _acquire(self, **fields: Any) -> None:
        self.leases += (await self.twin.ask("acquire", worker="w1", **fields)).get("leases", [])

    async def end(self) -> None:
        """No engine, and nobody who waits for one."""
        await self.twin.crash()
        for wait in self.waits:
            wait.cancel()
        await asyncio.gather(*self.waits, return_exceptions=True)

    def _job(self, which: int, verb: str = "") -> str:
        """One of the newest jobs that the verb is for, or of all where there is none."""
        assert self.twin.engine is not None
        found = [self.twin.engine.state.job("default", "mail", one) for one in self.jobs]
        fit = [job.id for job in found if job is not None and job.state in FOR.get(verb, ())]
        fit = fit or self.jobs
        return fit[-which] if which <= len(fit) else "nobody"

    async def _submit(self, **fields: Any) -> None:
        if "parent" in fields:
            fields["parent"] = f"mail~{self._job(fields['parent'])}"
        if "after" in fields:
            fields["after"] = [f"mail~{self._job(which)}" for which in fields["after"]]
        self.jobs.append(f"j{len(self.jobs)}")
        await self.twin.submit({"id": self.jobs[-1], **fields})

    async def _report(self, verb: str, which: int, **fields: Any) -> None:
        live = [one for one in self.leases if self.twin.job(one["id"]).last_token == one["token"]]
        leases = [one for one in live if self.twin.job(one["id"]).lease is not None] or self.leases
        if which > len(leases):
            return
        lease = leases[-which]
        if verb in ("snooze", "suspend", "progress"):
            await self.twin.ask(verb, worker="w1", id=lease["id"], token=lease["token"], **fields)
        elif verb == "note":
            held = self.twin.job(lease["id"]).lease
            first = 1 if held is None else held.noted + 1
            report = {"id": lease["id"], "token": lease["token"], "first": first, **fields}
            await self.twin.ask(verb, worker="w1", reports=[report])
        else:
            await self.twin.report(verb, lease, **fields)


async def replay(twin: Twin, up_to: int) -> Partition:
    """The state that the first records of the log tell."""
    state = Partition(0, 1)
    async for part in twin.log.read():
        for message in part:
            if message.seq <= up_to:
                state.apply(decode(message.body), message.body)
    return state


KEEPING: Final = {"ContentErased", "HoldPlaced", "HoldLifted", "TenantDeclared"}
ASSETS: Final = {"AssetSet", "AssetRemoved", "AssetRead"}
ELSEWHERE: Final = {
    *("TimeResumed", "RejectionsFolded", "PartitionOpened", "HistoryLong", "WorkerSeen", "AlarmRaised"),
    *("LogRestored", "RecordsRaised"),
    *KEEPING,
    *ASSETS,
    *(e.__name__ for e in (*LINK_EVENTS, *PRINCIPAL_EVENTS, *QUOTA_EVENTS, *PROCESS_EVENTS, *GATE_EVENTS)),
    *("WorkerDrained", "WorkerUndrained"),
}
"""Standing still, floods of refusals, long histories, alarms, erasure, principals, releases, several
partitions, what workers say of themselves, and who is drained: tested elsewhere."""

seen: Counter[str] = Counter()
played: set[str] = set()


@EXAMPLES
@example(steps=RARE)
@given(steps=st.lists(STEP, min_size=30, max_size=60))
async def test_fold_live_equals_fold_from_the_log_at_each_prefix(
    steps: list[Step], twin: Twin, snapshot: Snapshot
) -> None:
    """Random commands, fold live equals fold from the log at each prefix: the indexes as well as the jobs."""
    twin = type(twin)(snapshot)
    engine = await twin.start()
    player = Player(twin)
    try:
        for step in steps:
            await player.play(step)
            assert snapshot(engine.state) == snapshot(await replay(twin, engine.state.seq))
            assert engine.state.seq == await twin.log.last_seq()
        seen.update(type(event).__name__ for event in await twin.events())
    finally:
        await player.end()
    played.add("fold")


@EXAMPLES
@example(steps=RARE)
@given(steps=st.lists(STEP, min_size=20, max_size=50))
async def test_kill_and_replay_after_every_step(
    steps: list[Step], twin: Twin, tools: Tools, snapshot: Snapshot
) -> None:
    """Kill and replay after every step, in the middle of whatever the engine is about: another engine
    recovers from the log, and the two states are equal but for the record by which it was elected. Now and
    then it begins from a snapshot, and jobs that have ended are not in its memory.
    """
    twin = type(twin)(snapshot)
    twin.snapshots = Snapshots(tools.objects(), 0)
    engine = await twin.start()
    player = Player(twin)
    try:
        for number, step in enumerate(steps):
            await player.play(step)
            live, seq = snapshot(engine.state), engine.state.seq
            await twin.crash()
            if number % 3 == 0:
                state, at = await recover(twin.log, twin.snapshots)
                await twin.snapshots.put(state, at.epoch)
            assert snapshot(await replay(twin, seq)) == live
            engine = await twin.start()
            assert snapshot(engine.state) == snapshot(await replay(twin, engine.state.seq))
            elected = (await twin.records())[seq]
            assert (elected.cause, elected.prev) == ("election", live["prev"])
            seen["rested"] += len(engine.state.jobs.resting)
        seen.update(type(event).__name__ for event in await twin.events())
    finally:
        await player.end()
    played.add("kill")


def test_the_random_commands_lead_to_every_event() -> None:
    """Else the two above would say little. Alone it has nothing to look at."""
    if set(played) == {"fold", "kill"}:
        assert {event.__name__ for event in (*JOB_EVENTS, *OTHER_EVENTS)} - set(seen) == ELSEWHERE
        assert seen["rested"], "no job was left to a snapshot"
