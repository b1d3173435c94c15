"""What the gates say of a promotion: each check with its verdict, and what it was decided from."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from zoneinfo import ZoneInfo

from writ.schemas.bounds import SECOND_US
from writ.schemas.evaluations import Outcome
from writ.schemas.gates import DAYS, Approvals, Gate, GateSpec, Window
from writ.schemas.principals import Principal, PrincipalKind, Role, covers
from writ.schemas.processes import (
    Approved,
    Check,
    DrillRecorded,
    EvaluationRecorded,
    Process,
    Release,
)

from .release import bar

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_OWN: Final = "release"
"""Stands for a gate where a release may not run at all."""


def matching(gates: Mapping[str, Gate], process: str, scope: str, alias: str) -> dict[str, Gate]:
    """The gates that hold for a promotion: those whose scope it touches, so that no wider one goes around."""
    return {
        name: gate
        for name, gate in sorted(gates.items())
        if gate.spec is not None
        and gate.spec.process in ("*", process)
        and alias in gate.spec.aliases
        and (covers(gate.spec.scope, scope) or covers(scope, gate.spec.scope))
    }


def evaluate(
    process: Process,
    release: Release,
    scope: str,
    gates: Mapping[str, Gate],
    known: Sequence[Principal],
    now: int,
) -> tuple[Check, ...]:
    """All checks of the gates that match, and first of all whether the release may run.

    `known` are the tenant's principals.
    """
    barred = bar(process, release)
    outcome = Outcome.PASS if barred is None else Outcome.FAIL
    first = Check(_OWN, 0, "may run", outcome, barred or "neither frozen nor revoked", hard=True)
    checks = [first]
    for name, gate in gates.items():
        assert gate.spec is not None
        checks += [
            Check(name, gate.version, check, outcome, reason, inputs, hard)
            for check, outcome, reason, inputs, hard in _checks(gate.spec, release, scope, known, now)
        ]
    return tuple(checks)


def failed(checks: Iterable[Check]) -> list[Check]:
    """Those that did not pass."""
    return [check for check in checks if check.outcome is not Outcome.PASS]


def worst(checks: Iterable[Check]) -> Outcome:
    """What they come to together."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Outcome.FAIL
    return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE


def in_words(checks: Iterable[Check]) -> str:
    """What did not pass, in one sentence each."""
    return "; ".join(f"{c.gate}, {c.check}: {c.outcome.value}, {c.reason}" for c in failed(checks))


def holds(principal: Principal, role: Role, scope: str, now: int) -> bool:
    """Whether a principal has a role in all of a scope."""
    return principal.revoked is None and any(
        grant.role is role and covers(grant.scope, scope) and grant.live(now) for grant in principal.grants
    )


_Told = tuple[str, Outcome, str, tuple[str, ...], bool]


def _checks(
    spec: GateSpec, release: Release, scope: str, known: Sequence[Principal], now: int
) -> Iterator[_Told]:
    for data in spec.evaluations:
        found = next((each for each in release.evaluations if each.data == data), None)
        check = f"evaluation {data}"
        yield (check, *_evaluated(data, found, _too_old(spec, release.found_at.get(check), now)), False)
    for policy in spec.policies:
        told = next((each for each in release.checks if each.check == policy), None)
        if told is None:
            yield (f"policy {policy}", Outcome.INCONCLUSIVE, "it was never checked", (), True)
        else:
            reason = f"found {len(told.found)}" if told.found else "found nothing"
            yield (f"policy {policy}", told.outcome, reason, told.found, True)
    if spec.approvals is not None:
        yield ("approvals", *_approved(spec.approvals, release, scope, known, now), False)
    for window in spec.freeze_windows:
        where = f"{','.join(window.days)} {window.start} to {window.end or '24:00'} {window.tz}"
        inside = _inside(window, now)
        outcome = Outcome.FAIL if inside else Outcome.PASS
        reason = f"now is within it: {window.reason or 'nothing is promoted'}" if inside else "now is outside"
        yield ("freeze window", outcome, reason, (where,), False)
    for drill in spec.drills:
        went = next((each for each in release.drills if each.drill == drill), None)
        check = f"drill {drill}"
        yield (check, *_drilled(went, _too_old(spec, release.found_at.get(check), now)), False)


def _too_old(spec: GateSpec, at: int | None, now: int) -> str | None:
    if at is None or spec.max_age_s is None or now - at <= spec.max_age_s * SECOND_US:
        return None
    return f"it is {(now - at) // SECOND_US} s old; at most {spec.max_age_s} s count"


def _evaluated(
    data: str, found: EvaluationRecorded | None, old: str | None
) -> tuple[Outcome, str, tuple[str, ...]]:
    if found is None:
        return Outcome.INCONCLUSIVE, f"no evaluation on {data} is recorded; no data is not success", ()
    baseline = "no baseline" if found.baseline is None else f"baseline {found.baseline}"
    verdict = found.verdict
    inputs = (
        f"data {data} {found.data_version}",
        baseline,
        f"{verdict.items} items x {verdict.repeats}",
        *[f"{each.dimension}: {each.outcome.value}: {each.reason}" for each in verdict.dimensions],
    )
    if old is not None:
        return Outcome.INCONCLUSIVE, old, inputs
    worst = [each.dimension for each in verdict.dimensions if each.outcome is not Outcome.PASS]
    passed = f"{len(verdict.dimensions)} dimensions passed"
    return verdict.outcome, f"not passed: {', '.join(worst)}" if worst else passed, inputs


def _drilled(went: DrillRecorded | None, old: str | None) -> tuple[Outcome, str, tuple[str, ...]]:
    if went is None:
        return Outcome.INCONCLUSIVE, "it was never run with this release", ()
    return (Outcome.INCONCLUSIVE, old, ()) if old is not None else (went.outcome, went.reason, ())


def _approved(
    wanted: Approvals, release: Release, scope: str, known: Sequence[Principal], now: int
) -> tuple[Outcome, str, tuple[str, ...]]:
    people = {each.name: each for each in known}

    def counts(yes: Approved) -> bool:
        person = people.get(yes.by)
        return (
            yes.by != release.published_by
            and covers(yes.scope, scope)
            and person is not None
            and person.kind is PrincipalKind.PERSON
            and holds(person, wanted.role, scope, now)
        )

    counted = sorted(yes.by for yes in release.approvals if counts(yes))
    enough = len(counted) >= wanted.count
    reason = f"{len(counted)} of {wanted.count} who hold {wanted.role.value} in {scope} said yes"
    return Outcome.PASS if enough else Outcome.INCONCLUSIVE, reason, tuple(counted)


def _inside(window: Window, now: int) -> bool:
    local = (_EPOCH + datetime.timedelta(microseconds=now)).astimezone(ZoneInfo(window.tz))
    clock = f"{local.hour:02}:{local.minute:02}"
    on_day = DAYS[local.weekday()] in window.days
    return on_day and window.start <= clock and (window.end is None or clock < window.end)
