"""Random histories of releases, with leaders that crash: aliases moved, rolled back, frozen and tried as
canaries while jobs run. A judge that knows only the documented rules reads the log of each.

Must hold: no lease for a frozen or revoked release; what has recorded a step keeps its release unless a
rollback moves it; what names a digest gets that digest.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from writ.orchestrator.decide import release
from writ.orchestrator.state import Partition
from writ.schemas.events import JobSubmitted, LeaseGranted
from writ.schemas.jobs import Job
from writ.schemas.processes import (
    CanaryEnded,
    CanaryStarted,
    Pinned,
    Process,
    Release,
    ReleaseFrozen,
    ReleasePromoted,
    ReleasePublished,
    ReleaseRevoked,
    ReleaseRolledBack,
    ReleaseUnfrozen,
)
from writ.schemas.records import Record
from writ.schemas.steps import StepIntended

if TYPE_CHECKING:
    from .conftest import Twin

DIGESTS = ["a" * 64, "b" * 64, "c" * 64, "d" * 64]
QUEUE, KEY = "mail", "acme"
MOVES = 120
FAILED = {"class": "application", "type": "Wrong", "text": "no"}


class Broken(AssertionError):
    """A record that breaks a rule."""


class Judge:
    """What the log says of process `inv`, folded by the rules of docs/releases.md and by nothing of Writ."""

    def __init__(self) -> None:
        self.barred: set[str | None] = set()
        self.revoked: set[str] = set()
        self.points: dict[tuple[str, str], str] = {}
        self.left: dict[tuple[str, str], set[str]] = {}
        self.canaries: dict[str, CanaryStarted] = {}
        self.jobs: dict[str, JobSubmitted] = {}
        self.ran: dict[str, str] = {}
        self.begun: set[str] = set()
        self.granted = 0

    def read(self, record: Record) -> None:
        for event in record.events:
            match event:
                case JobSubmitted():
                    self.jobs[record.key] = event
                case StepIntended():
                    self.begun.add(record.key)
                case LeaseGranted():
                    self._grant(record, event)
                case _ if record.kind == "process":
                    self._change(event)
                case _:
                    pass

    def _change(self, event: Any) -> None:
        match event:
            case ReleasePublished():
                self._point("candidate", "*", event.digest)
            case ReleasePromoted():
                self._point(event.alias.value, event.scope, event.digest)
                if event.alias.value == "live":
                    self.canaries.pop(event.scope, None)
            case ReleaseRolledBack():
                self._point("live", event.scope, event.digest)
                self.canaries.pop(event.scope, None)
                if event.pinned is Pinned.MOVE:
                    self.left.setdefault(("live", event.scope), set()).add(event.was)
            case ReleaseFrozen():
                self.barred.add(event.digest)
            case ReleaseUnfrozen():
                self.barred.discard(event.digest)
            case ReleaseRevoked():
                self.revoked.add(event.digest)
            case CanaryStarted():
                self.canaries[event.scope] = event
            case CanaryEnded():
                self.canaries.pop(event.scope, None)
            case _:
                pass  # what was found out and said changes nothing that runs

    def _point(self, alias: str, scope: str, digest: str) -> None:
        self.points[alias, scope] = digest
        self.left.get((alias, scope), set()).discard(digest)

    def _may_run(self, digest: str) -> bool:
        return None not in self.barred and digest not in self.barred and digest not in self.revoked

    def _grant(self, record: Record, grant: LeaseGranted) -> None:
        job = self.jobs[record.key]
        assert job.process is not None
        got, ref = grant.release, job.process.partition("@")[2]
        self.granted += 1
        self._need(got is not None and self._may_run(got), record, "gives a lease that is barred")
        assert got is not None
        where = (ref, QUEUE) if (ref, QUEUE) in self.points else (ref, "*")
        before = self.ran.get(record.key)
        if len(ref) == 64:
            self._need(got == ref, record, f"gives {got[:2]} to a job that names {ref[:2]}")
        elif record.key in self.begun and before not in self.left.get(where, set()):
            self._need(got == before, record, "moves a job that has begun")
        else:
            self._need(got in self._meant(job, ref, where), record, f"gives {got[:2]} to one of {ref}")
        self.ran[record.key] = got

    def _meant(self, job: JobSubmitted, ref: str, where: tuple[str, str]) -> set[str]:
        canary = self.canaries.get(QUEUE) or self.canaries.get("*")
        if ref != "live" or canary is None or not self._may_run(canary.digest):
            return {self.points[where]}
        if job.fairness_key in canary.keys:
            return {canary.digest}
        return {self.points[where], canary.digest} if canary.percent else {self.points[where]}

    @staticmethod
    def _need(held: bool, record: Record, what: str) -> None:
        if not held:
            raise Broken(f"record {record.seq} of {record.key} {what}")


class World:
    """What happens to one process, as a seed draws it."""

    def __init__(self, twin: Twin, seed: int) -> None:
        self.twin = twin
        self.rng = random.Random(seed)
        self.held: list[dict[str, Any]] = []
        self.jobs = 0

    async def ask(self, verb: str, **fields: Any) -> None:
        """A verb that may be refused."""
        await self.twin.ask(verb, "-", "owner", process="inv", **fields)

    async def begin(self) -> None:
        for number, digest in enumerate(DIGESTS, 1):
            version, key = f"{number}.0.0", f"U{'A' * 55}"
            await self.ask("publish_release", version=version, digest=digest, size_bytes=9, key=key)
        await self.ask("promote_release", release=DIGESTS[0])

    async def move(self) -> None:
        deeds: list[tuple[int, Callable[[], Any]]] = [
            (8, self.submit), (8, self.acquire), (8, self.report), (2, self.promote), (2, self.rollback),
            (2, self.freeze), (5, self.unfreeze), (2, self.canary), (1, self.revoke), (1, self.crash),
        ]  # fmt: skip
        (deed,) = self.rng.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])
        await deed()

    def _scope(self) -> str:
        return self.rng.choice(("*", "*", QUEUE))

    async def submit(self) -> None:
        self.jobs += 1
        ref = self.rng.choice(("live", "live", "live", "candidate", self.rng.choice(DIGESTS)))
        side = {"fairness_key": KEY} if self.rng.random() < 0.4 else {}
        retry = {"max_attempts": 3, "initial_interval_s": 0.001, "jitter": 0}
        job = {"task": "t", "id": f"j{self.jobs}", "process": f"inv@{ref}", "retry": retry, **side}
        await self.twin.submit(job)
        await self.twin.settled()

    async def acquire(self) -> None:
        self.held += await self.twin.acquire(self.rng.randint(1, 4), releases=DIGESTS)

    async def report(self) -> None:
        if not self.held:
            return
        lease = self.held.pop(self.rng.randrange(len(self.held)))
        if self.rng.random() < 0.5:
            step = {"note": "step_intended", "step": 1, "name": "pay", "params": "ab" * 32}
            notes = {"id": lease["id"], "token": lease["token"], "first": 1, "notes": [step]}
            await self.twin.ask("note", worker="w1", reports=[notes])
        verb = self.rng.choice(("complete", "fail", "release", "release"))
        await self.twin.report(verb, lease, **(FAILED if verb == "fail" else {}))

    async def promote(self) -> None:
        alias = self.rng.choice(("live", "live", "candidate"))
        release_ = self.rng.choice(DIGESTS)
        await self.ask("promote_release", release=release_, alias=alias, scope=self._scope())

    async def rollback(self) -> None:
        await self.ask("rollback_release", scope=self._scope(), pinned=self.rng.choice(("stay", "move")))

    async def freeze(self) -> None:
        which = {} if self.rng.random() < 0.2 else {"release": self.rng.choice(DIGESTS)}
        await self.ask("freeze_release", reason="looked at", **which)

    async def unfreeze(self) -> None:
        for which in ({}, {"release": self.rng.choice(DIGESTS)}):
            await self.ask("unfreeze_release", **which)

    async def revoke(self) -> None:
        await self.ask("revoke_release", release=DIGESTS[3])

    async def canary(self) -> None:
        scope = self._scope()
        if self.rng.random() < 0.3:
            await self.ask("end_canary", scope=scope)
            return
        policy = {"detect": 0.9, "minimum": 1, "level": 0.4, "on_worse": "freeze", "on_fine": "promote"}
        some = self.rng.choice(({"percent": 40.0}, {"keys": [KEY]}))
        judged = {"policy": policy} if self.rng.random() < 0.7 else {}
        await self.ask("start_canary", release=self.rng.choice(DIGESTS), scope=scope, **some, **judged)

    async def crash(self) -> None:
        await self.twin.crash()
        await self.twin.start(f"engine-{self.rng.random()}")


async def judged(twin: Twin, seed: int) -> Judge:
    """One history, read by the judge."""
    world = World(twin, seed)
    await world.begin()
    for _ in range(MOVES):
        await world.move()
    judge = Judge()
    for record in await twin.records():
        judge.read(record)
    return judge


@pytest.mark.parametrize("seed", range(25))
async def test_a_history_of_releases_keeps_the_rules(twin: Twin, seed: int) -> None:
    judge = await judged(twin, seed)
    assert judge.granted
    await twin.check()


Meant = Callable[[Job, Process, str], Any]
MEANT = "writ.orchestrator.decide.release._meant"


def _never_barred(patch: pytest.MonkeyPatch) -> None:
    def runs(process: Process, release_: Release) -> None:
        return None

    patch.setattr(release, "bar", runs)


def _with_meant(patch: pytest.MonkeyPatch, changed: Callable[[Meant], Meant]) -> None:
    """The release that a job means, as something else."""
    patch.setattr(MEANT, changed(vars(release)["_meant"]))


def _never_pinned(patch: pytest.MonkeyPatch) -> None:
    def changed(meant: Meant) -> Meant:
        return lambda job, process, ref: meant(replace(job, release=None), process, ref)

    _with_meant(patch, changed)


def _never_moved(patch: pytest.MonkeyPatch) -> None:
    def changed(meant: Meant) -> Meant:
        def stays(job: Job, process: Process, ref: str) -> Any:
            pointers = tuple([replace(each, left=()) for each in process.pointers])
            return meant(job, replace(process, pointers=pointers), ref)

        return stays

    _with_meant(patch, changed)


def _wide_scope(patch: pytest.MonkeyPatch) -> None:
    def changed(meant: Meant) -> Meant:
        return lambda job, process, ref: meant(replace(job, key=f"other~{job.id}"), process, ref)

    _with_meant(patch, changed)


@pytest.mark.parametrize("plant", [_never_barred, _never_pinned, _never_moved, _wide_scope])
async def test_the_judge_finds_what_is_planted(
    twin: Twin,
    plant: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    snapshot: Callable[[Partition], dict[str, Any]],
) -> None:
    """A judge that never says no proves nothing."""
    plant(monkeypatch)
    for seed in range(25):
        own = type(twin)(snapshot)
        await own.start()
        try:
            await judged(own, seed)
        except Broken:
            return
        finally:
            await own.crash()
    pytest.fail("nobody has noticed it")
