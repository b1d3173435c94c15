"""What the clients of a history do, drawn from its seed.

Every history has a few themes: with all of them at once, none would come far enough to go wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from .loop import SECOND_US
from .plan import Deed, Fault, JobPlan, Plan, draw_faults, draw_queues, draw_workers

THEMES: Final = {
    "limits": 0.3,
    "order": 0.2,
    "retries": 0.25,
    "people": 0.3,
    "relations": 0.3,
    "unique": 0.15,
    "gates": 0.2,
    "plans": 0.2,
    "schedules": 0.2,
}
"""How often each is drawn."""

_DOINGS: Final = (
    ("ok", 46),
    ("long", 10),
    ("flaky", 10),
    ("fail", 5),
    ("policy", 2),
    ("later", 3),
    ("listed", 3),
    ("hang", 3),
    ("stubborn", 2),
    ("crash", 4),
    ("give_up", 2),
    ("odd", 2),
    ("plain", 4),
    ("snooze", 3),
    ("progress", 3),
    ("signal", 2),
    ("approval", 2),
)
_STEADY: Final = ("ok", "long", "flaky", "crash")
"""What jobs would do that take steps in its place, half of them."""

_STEPPING: Final = 0.5
_STEPS_EVERY: Final = 4
_PINNED_EVERY: Final = 8
_LABELS: Final = (("gpu", "true"), ("zone", "a"))
_NAMES: Final = tuple(name for name, _ in _DOINGS)
_SHARES: Final = tuple(share for _, share in _DOINGS)

_DEEDS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "cancel": (16, ("", "", "suspended", "retrying", "running", "scheduled")),
    "terminate": (8, ("", "running", "running", "suspended", "retrying")),
    "redrive": (14, ("dead",)),
    "rerun": (10, ("completed", "cancelled", "dead")),
    "drop": (5, ("dead",)),
    "pause": (10, ("", "scheduled", "pending", "retrying")),
    "resume": (4, ("", "suspended")),
    "approve": (5, ("", "suspended")),
    "reject": (4, ("suspended",)),
    "signal": (12, ("", "scheduled", "pending", "running", "retrying", "retrying", "suspended")),
    "edit": (8, ("scheduled", "pending", "suspended")),
    "resubmit": (8, ("",)),
    "meddle": (12, ("",)),
}
"""What is done to a job: how often, and the states that are waited for."""


_APART: Final = 0.05
"""How often an orchestrator comes back that does not know that it was deposed."""


def related(queue: str, other: str) -> bool:
    """Whether jobs of one queue may come after, or be children of, jobs of the other."""
    return True


class Scene(NamedTuple):
    """What is drawn first, and all else from it."""

    rng: random.Random
    queues: tuple[str, ...]
    clients: int
    themes: frozenset[str]


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(seed)
    queues = draw_queues(rng)
    clients = 2 if rng.random() < 0.3 else 1
    themes = frozenset(theme for theme, share in THEMES.items() if rng.random() < share)
    scene = Scene(rng, queues, clients, themes)
    jobs: list[JobPlan] = []
    for number in range(rng.randint(4, 8)):
        jobs.append(_draw_job(scene, number, jobs))
    workers = draw_workers(rng)
    storm = rng.choice((0.3, 1.0, 1.0, 2.5))
    faults = draw_faults(rng)
    apart = random.Random(f"apart-{seed}")
    if apart.random() < _APART:
        faults = (_draw_parting(apart), *faults)
    orchestrators = 3 if rng.random() < 0.15 else 2
    deeds = [*_draw_deeds(scene, jobs), *_draw_looks(apart, jobs, faults)]
    deeds.sort(key=lambda deed: deed.at_us)
    return Plan(seed, queues, orchestrators, workers, clients, storm, tuple(jobs), tuple(deeds), faults)


# --- jobs ---------------------------------------------------------------------------------------------------


def plans(seed: int) -> list[Plan]:
    """The histories of a seed: every fourth one has a second, in which jobs take recorded steps, and every
    eighth one a second in which jobs demand labels and workers are drained.
    """
    plan = draw(seed)
    if seed % _PINNED_EVERY == 1:
        return [plan, pinning(plan)]
    return [plan] if seed % _STEPS_EVERY else [plan, stepping(plan)]


def pinning(plan: Plan) -> Plan:
    """The plan with labels: some jobs demand them, and workers but the first are drained for a while.

    The first worker has all labels, so that all jobs come to an end. Drawn apart, as `stepping`.
    """
    rng = random.Random(f"labels-{plan.seed}")
    labels = [dict(rng.sample(_LABELS, rng.randint(0, len(_LABELS)))) for _ in plan.workers]
    labels[0] = dict(_LABELS)
    workers = [replace(worker, labels=labels[number]) for number, worker in enumerate(plan.workers)]
    jobs: list[JobPlan] = []
    for job in plan.jobs:
        demands = dict(rng.sample(_LABELS, rng.choice((0, 1, 1, 2))))
        more = {"requires": demands} if demands else {}
        jobs.append(replace(job, options={**job.options, **more}))
    deeds = list(plan.deeds)
    for _ in range(rng.choice((1, 2, 3))):
        number, at_us = rng.randrange(1, len(workers)), rng.randrange(SECOND_US, 8 * SECOND_US)
        how = {"worker": f"w{number}-1"}
        deeds.append(Deed(at_us, 0, "drain_worker", plan.queues[0], how=how))
        back_us = at_us + rng.randrange(SECOND_US // 2, 5 * SECOND_US)
        deeds.append(Deed(back_us, 0, "undrain_worker", plan.queues[0], how=how))
    deeds.sort(key=lambda deed: deed.at_us)
    return replace(plan, workers=tuple(workers), jobs=tuple(jobs), deeds=tuple(deeds))


def stepping(plan: Plan) -> Plan:
    """The plan with recorded steps: some jobs take them, of which some die within one, and some undo them.

    Drawn apart, so that the plan without them stays what it was.
    """
    rng = random.Random(f"steps-{plan.seed}")
    jobs: list[JobPlan] = []
    for job in plan.jobs:
        if job.task == "work" and job.input.get("do") in _STEADY and rng.random() < _STEPPING:
            given = {**job.input, "do": rng.choice(("steps", "steps", "undo")), "n": rng.randrange(3)}
            jobs.append(replace(job, input=given))
        else:
            jobs.append(job)
    return replace(plan, jobs=tuple(jobs))


def _draw_job(scene: Scene, number: int, before: list[JobPlan]) -> JobPlan:
    rng = scene.rng
    do = _draw_doing(scene)
    how = rng.choices(("submit", "many", "raw", "malformed"), (60, 14, 20, 6))[0]
    given: dict[str, Any] = {"do": do, "ms": rng.choice((0, 0, 5, 50, 200, 800)), "n": 0}
    options = _draw_options(rng, do, given)
    if "retries" in scene.themes:
        _draw_retries(rng, options["retry"])
    named = rng.random() < 0.7
    at_us = rng.randrange(round(0.3 * SECOND_US), 11 * SECOND_US)
    queue = rng.choice(scene.queues)
    if "order" in scene.themes:
        queue = scene.queues[0] if rng.random() < 0.8 else queue
        at_us = 2 * SECOND_US + rng.randrange(SECOND_US)
        given["ms"] = max(given["ms"], rng.choice((100, 200, 400)))
        options["priority"] = rng.randint(1, 3)
        options["fairness_key"] = rng.choice(("a", "b", "c"))
        if rng.random() < 0.2:
            del options["fairness_key"]
    if "limits" in scene.themes and rng.random() < 0.7:
        options["concurrency_key"] = rng.choice(("k", "k", "l"))
        given["ms"] = max(given["ms"], rng.choice((50, 300, 900)))
        if number % 2:
            # Several at once: of those that a grant looks at together, each takes a slot.
            at_us = 2 * SECOND_US + rng.randrange(SECOND_US // 10)
    if "unique" in scene.themes and rng.random() < 0.7:
        options["unique_key"] = "u"
        queue = scene.queues[0]
    if do == "outage":
        queue = scene.queues[0]
        at_us = rng.randrange(round(0.3 * SECOND_US), 5 * SECOND_US)
    if "people" in scene.themes and rng.random() < 0.4:
        options["approval"] = _draw_wait(rng)
    task = "plain" if do == "plain" else "work"
    job = JobPlan(
        number,
        at_us,
        rng.randrange(scene.clients),
        queue,
        how,
        f"job-{number}" if named else None,
        task,
        given,
        options,
        rng.random() < 0.25,
    )
    return _draw_relations(scene, job, before) if "relations" in scene.themes else job


def _draw_doing(scene: Scene) -> str:
    rng = scene.rng
    if "plans" in scene.themes and rng.random() < 0.45:
        return "outage"
    if "retries" in scene.themes and rng.random() < 0.5:
        return rng.choice(("fail", "flaky", "flaky", "flaky", "hang"))
    if "people" in scene.themes and rng.random() < 0.4:
        return rng.choice(("signal", "approval", "snooze", "progress"))
    return rng.choices(_NAMES, _SHARES)[0]


def _draw_options(rng: random.Random, do: str, given: dict[str, Any]) -> dict[str, Any]:
    """Retries and limits that bring the job to an end in time; adds to its input."""
    lease_s = round(rng.uniform(1, 4), 2)
    retry: dict[str, Any] = {
        "max_attempts": rng.choice((1, 2, 3, 4, 0)),
        "initial_interval_s": round(rng.uniform(0.02, 0.8), 3),
        "backoff": rng.choice((1.0, 1.5, 2.0, 3.0)),
        "max_interval_s": rng.choice((0.5, 2.0, 100.0)),
        "jitter": rng.choice((0.0, 0.1, 1.0)),
        "max_lease_losses": rng.choice((1, 2, 3, 5)),
    }
    options: dict[str, Any] = {
        "lease_s": lease_s,
        "attempt_timeout_s": round(rng.uniform(6, 9), 2),
        "job_timeout_s": round(rng.uniform(25, 45), 2),
        "retry": retry,
    }
    if do == "long":
        given["ms"] = rng.randint(round(lease_s * 1_000), 5_500)
    elif do in ("hang", "stubborn"):
        options["attempt_timeout_s"] = round(rng.uniform(1.5, 3.5), 2)
        retry["max_attempts"] = rng.choice((1, 2))
    elif do in ("flaky", "later", "crash", "snooze", "signal", "approval"):
        given["n"] = rng.choice((1, 1, 2, 3))
    elif do == "listed":
        retry["non_retryable_types"] = ["KeyError"]
    elif do == "outage":
        given["n"] = rng.randint(3, 12)
        retry["max_attempts"] = rng.choice((1, 1, 2))
    if do in ("signal", "approval"):
        given["wait"] = _draw_wait(rng)
    if do in ("fail", "hang", "stubborn") and not retry["max_attempts"]:
        retry["max_attempts"] = 3
    if rng.random() < 0.18:
        options["delay_s"] = round(rng.uniform(0.1, 7), 2)
    if rng.random() < 0.08:
        options["expires_in_s"] = round(rng.uniform(0.3, 5), 2)
    if rng.random() < 0.06:
        options["job_timeout_s"] = round(rng.uniform(1, 6), 2)
    if rng.random() < 0.4:
        options["priority"] = rng.randint(1, 5)
    return options


def _draw_retries(rng: random.Random, retry: dict[str, Any]) -> None:
    """More of what a retry policy can say. A job that only ever fails must not go on for ever."""
    retry["on_exhausted"] = rng.choice(("dead_letter", "dead_letter", "suspend", "cancel"))
    if rng.random() < 0.4:
        over = {
            "max_attempts": rng.choice((1, 2, 4)),
            "initial_interval_s": round(rng.uniform(0.02, 0.5), 3),
            "backoff": rng.choice((1.0, 2.0)),
        }
        kept = [name for name in over if rng.random() < 0.7]
        retry["per_class"] = {rng.choice(("application", "timeout")): {name: over[name] for name in kept}}


def _draw_wait(rng: random.Random) -> dict[str, Any]:
    """How long somebody is waited for, and what then."""
    wait: dict[str, Any] = {}
    if rng.random() < 0.6:
        wait["timeout_s"] = round(rng.uniform(0.3, 6), 2)
        wait["on_timeout"] = rng.choice(("resume", "resume", "dead_letter"))
    return wait


def _draw_relations(scene: Scene, job: JobPlan, before: list[JobPlan]) -> JobPlan:
    """What a job has to do with those drawn before it: it comes after them, or is a child, or in a batch."""
    rng, options = scene.rng, dict(job.options)
    known = [other for other in before if other.id is not None and related(job.queue, other.queue)]
    at_us = job.at_us
    if known and rng.random() < 0.5:
        chosen = rng.sample(known, min(len(known), rng.choice((1, 1, 2))))
        options["after"] = [f"{other.queue}~{other.id}" for other in chosen]
        options["on_dead"] = rng.choice(("dead_letter", "cancel", "suspend", "run"))
        if rng.random() < 0.4:
            options["input_from"] = {"got": rng.choice(options["after"])}
        at_us = max(other.at_us for other in chosen) + rng.randrange(SECOND_US // 20, SECOND_US)
    elif known and rng.random() < 0.5:
        parent = rng.choice(known)
        options["parent"] = f"{parent.queue}~{parent.id}"
        options["on_parent_end"] = rng.choice(("cancel", "cancel", "abandon"))
        options["delay_s"] = round(rng.uniform(0.5, 6), 2)
        at_us = parent.at_us + rng.randrange(SECOND_US // 20, SECOND_US // 2)
    if rng.random() < 0.4:
        options["batch"] = "b"
    number = job.number
    return JobPlan(
        number,
        at_us,
        job.client,
        job.queue,
        job.how,
        f"job-{number}" if rng.random() < 0.9 else None,
        job.task,
        job.input,
        options,
        job.awaits,
    )


# --- deeds --------------------------------------------------------------------------------------------------


def _draw_deeds(scene: Scene, jobs: list[JobPlan]) -> list[Deed]:
    rng, themes = scene.rng, scene.themes
    deeds: list[Deed] = []
    if themes & {"limits", "order", "retries", "unique"}:
        deeds += [_draw_policy(scene, queue, 0) for queue in scene.queues]
        if rng.random() < 0.15:
            deeds.append(_draw_policy(scene, rng.choice(scene.queues), rng.randrange(2, 12) * SECOND_US))
    if "gates" in themes:
        deeds += _draw_gates(scene)
    if "plans" in themes:
        if rng.random() < 0.25:
            how = {"verb": "drop", "limit": 1}
            at_us = rng.randrange(3 * SECOND_US, 6 * SECOND_US)
            deeds.append(_of_queue(scene, at_us, "plan", scene.queues[0], how))
        deeds += [_draw_plan(scene) for _ in range(rng.choice((1, 1, 2)))]
    if "schedules" in themes:
        deeds += _draw_schedule(scene)
    if rng.random() < 0.01:
        deeds.append(_of_queue(scene, rng.randrange(SECOND_US, 9 * SECOND_US), "flood", scene.queues[0], {}))
    for queue in scene.queues:
        size = sum(job.queue == queue and "batch" in job.options for job in jobs)
        if size:
            size = max(1, size + rng.choice((0, 0, 0, 0, -1)))
            at_us = rng.randrange(SECOND_US, 13 * SECOND_US)
            deeds.append(_of_queue(scene, at_us, "seal_batch", queue, {"batch": "b", "size": size}))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 4))):
        deeds.append(_draw_deed(scene, rng.choice(jobs)))
    return sorted(deeds, key=lambda deed: deed.at_us)


def _of_queue(scene: Scene, at_us: int, what: str, queue: str, how: dict[str, Any]) -> Deed:
    return Deed(at_us, scene.rng.randrange(scene.clients), what, queue, how=how)


def _draw_deed(scene: Scene, job: JobPlan) -> Deed:
    """Something done to one job."""
    rng = scene.rng
    what = rng.choices(tuple(_DEEDS), [weight for weight, _ in _DEEDS.values()])[0]
    at_us = rng.randrange(SECOND_US // 2, 14 * SECOND_US)
    how: dict[str, Any] = {}
    if what == "signal":
        how = {"name": rng.choice(("go", "go", "other")), "data": rng.randrange(100)}
    elif what == "edit":
        how = {"priority": rng.randint(1, 5)}
        if rng.random() < 0.5:
            how["in_s"] = round(rng.uniform(0, 4), 2)
    when = rng.choice(_DEEDS[what][1])
    if when:
        at_us = min(at_us, job.at_us + rng.randrange(SECOND_US))
    return Deed(at_us, rng.randrange(scene.clients), what, job.queue, job.number, when, how)


def _draw_parting(rng: random.Random) -> Fault:
    """An orchestrator is cut off for long enough to be deposed, and soon enough to have nothing to do."""
    at_us = rng.randrange(SECOND_US, 2 * SECOND_US)
    return Fault(at_us, "cut_orchestrator", rng.randrange(6), round(rng.uniform(4, 8) * SECOND_US), 1, 0)


def _draw_looks(rng: random.Random, jobs: list[JobPlan], faults: tuple[Fault, ...]) -> Iterator[Deed]:
    """Somebody asks as an orchestrator comes back, about a job that came while it was away.

    It may believe that it leads: what it says before it finds out is what fencing of verdicts is for.
    """
    for fault in faults:
        if fault.kind not in ("pause_orchestrator", "cut_orchestrator"):
            continue
        back_us = fault.at_us + fault.for_us
        missed = [job for job in jobs if job.id is not None and fault.at_us < job.at_us < back_us]
        if missed:
            job = rng.choice(missed)
            how = {"priority": rng.randint(1, 5)}
            at_us = back_us + rng.randrange(SECOND_US // 50)
            yield Deed(at_us, job.client, "edit", job.queue, job.number, how=how)


def _draw_policy(scene: Scene, queue: str, at_us: int) -> Deed:
    rng, themes = scene.rng, scene.themes
    policy: dict[str, Any] = {}
    if "limits" in themes:
        if rng.random() < 0.4:
            policy["concurrency"] = rng.randint(1, 2)
        if rng.random() < 0.6:
            policy["key_concurrency"] = rng.randint(1, 2)
        if rng.random() < 0.4:
            policy["rate_per_s"] = rng.choice((0.3, 0.7, 2.0, 5.0))
            policy["burst"] = rng.randint(1, 3)
        if rng.random() < 0.15:
            policy["pending_max"] = rng.randint(1, 4)
    if "order" in themes:
        policy["concurrency"] = 1
        policy["priority"] = rng.randint(1, 5)
    if "retries" in themes and rng.random() < 0.6:
        policy["retries_per_min"] = rng.choice((1, 3, 10, 60))
    if "unique" in themes:
        policy["on_clash"] = rng.choice(("return", "reject", "replace", "replace"))
    return _of_queue(scene, at_us or rng.randrange(SECOND_US // 10, SECOND_US), "declare", queue, policy)


def _draw_gates(scene: Scene) -> list[Deed]:
    """A queue is closed for a while, in one way or the other; sometimes it is forgotten."""
    rng = scene.rng
    queue, what = rng.choice(scene.queues), rng.choice(("pause_queue", "pause_queue", "drain_queue"))
    at_us = rng.randrange(SECOND_US, 9 * SECOND_US)
    deeds = [_of_queue(scene, at_us, what, queue, {})]
    if rng.random() < 0.8:
        until_us = at_us + rng.randrange(SECOND_US // 2, 5 * SECOND_US)
        deeds.append(_of_queue(scene, until_us, "resume_queue", queue, {}))
    return deeds


def _draw_plan(scene: Scene) -> Deed:
    """One operation on many jobs."""
    rng = scene.rng
    verb = rng.choices(
        ("redrive", "rerun", "cancel", "terminate", "drop", "pause", "resume"), (50, 10, 12, 8, 8, 6, 6)
    )[0]
    how: dict[str, Any] = {
        "verb": verb,
        "limit": rng.choice((0, 0, 1, 2)),
        "canary": rng.choice((0, 1, 1)),
        "stop_after": rng.choice((0, 0, 1)),
    }
    if rng.random() < 0.5:
        how["rate_per_s"] = rng.choice((0.5, 2.0))
    if rng.random() < 0.3:
        how["filter"] = {"task": "work"}
    if rng.random() < 0.15:
        how["dry_run"] = True
    return _of_queue(scene, rng.randrange(5 * SECOND_US, 13 * SECOND_US), "plan", scene.queues[0], how)


def _draw_schedule(scene: Scene) -> list[Deed]:
    """A schedule, and what operators do with it. It ends by itself, or operators delete it."""
    rng = scene.rng
    queue = rng.choice(scene.queues)
    spec: dict[str, Any] = {
        "task": "plain",
        "overlap": rng.choice(("skip", "queue", "cancel_running", "allow")),
        "catch_up_max": rng.choice((0, 1, 2, 4)),
        "attempt_timeout_s": 5.0,
        "job_timeout_s": 20.0,
    }
    if rng.random() < 0.3:
        spec["cron"] = "* * * * *"
    else:
        spec["every_s"] = rng.choice((1, 1.5, 2, 3))
    if rng.random() < 0.3:
        spec["catch_up_within_s"] = rng.choice((1.0, 3.0))
    given = {"do": "ok", "ms": rng.choice((0, 0, 600, 1_800)), "n": 0}
    if given["ms"]:
        spec["task"] = "work"
    start_us = rng.randrange(SECOND_US // 5, 6 * SECOND_US)
    how = {"name": "s", "spec": spec, "input": given, "ends_in_s": rng.choice((3, 5, 8))}
    deeds = [_of_queue(scene, start_us, "declare_schedule", queue, how)]
    for _ in range(rng.choice((0, 1, 1, 2))):
        what = rng.choice(("pause_schedule", "trigger_schedule", "backfill_schedule", "delete_schedule"))
        at_us = start_us + rng.randrange(SECOND_US // 2, 6 * SECOND_US)
        more: dict[str, Any] = {"name": "s"}
        if what == "trigger_schedule" and rng.random() < 0.5:
            more["overlap"] = rng.choice(("allow", "queue", "skip", "cancel_running"))
        deeds.append(_of_queue(scene, at_us, what, queue, more))
        if what == "pause_schedule" and rng.random() < 0.7:
            back_us = at_us + rng.randrange(SECOND_US // 2, 3 * SECOND_US)
            deeds.append(_of_queue(scene, back_us, "resume_schedule", queue, {"name": "s"}))
    return deeds
