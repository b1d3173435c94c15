"""`writ evaluate`: what a release is worth beside another, and what that proves."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .output import Table, count, next_steps, paint, print_json
from .reach import connected
from .releases import found_release, named_release
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from writ.evaluation.plan import Prepared
    from writ.evaluation.releases import Asked
    from writ.evaluation.run import Evaluation
    from writ.schemas.evaluations import Outcome, Verdict

_STYLES: Final = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_WORST: Final = 10
"""Items that the terminal lists; the HTML report has more."""


def evaluate(args: Namespace) -> int:
    """An evaluation, or what is recorded of some."""
    return asyncio.run({"run": _run, "show": _show}[args.verb](args))


async def _run(args: Namespace) -> int:
    from writ.evaluation.plan import PlanError, prepare
    from writ.evaluation.releases import EvaluationError, record
    from writ.evaluation.releases import evaluate as tried
    from writ.evaluation.run import exit_code

    candidate, baseline = _sides(args)
    try:
        prepared = prepare(args.plan, args.repeats)
    except PlanError as error:
        raise CommandError(str(error), code=2) from error
    position = None
    async with connected(args) as client:
        try:
            found = await tried(client, prepared, candidate, baseline, _tell, fresh=args.fresh)
        except EvaluationError as error:
            raise CommandError(str(error), ["writ release list"], code=2) from error
        if candidate.release is not None:
            position = await record(client, prepared, found)
    _write_reports(args, found)
    _print(args, prepared, found, position)
    return exit_code(found.verdict.outcome) if args.gate else 0


def _sides(args: Namespace) -> tuple[Asked, Asked | None]:
    """What is tried, and what it is held against. Raises UsageError."""
    from writ.evaluation.releases import Asked

    for release in (args.process, args.baseline):
        if release is not None:
            named_release(release)
    if args.process is None and args.baseline is not None:
        raise UsageError("--baseline names a release to hold another against", ["writ evaluate run --help"])
    candidate = Asked(args.process, args.task)
    if args.baseline is None and args.baseline_task is None:
        return candidate, None
    return candidate, Asked(args.baseline, args.baseline_task or args.task)


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _write_reports(args: Namespace, found: Evaluation) -> None:
    from writ.evaluation.report import html, junit, markdown

    forms: dict[str, Callable[[Evaluation], Iterable[str]]] = {
        "junit": junit, "markdown": markdown, "html": html,
    }  # fmt: skip
    for form, written in forms.items():
        path = getattr(args, form)
        if path is None:
            continue
        try:
            Path(path).write_text("".join(written(found)), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}; give a file that can be written") from error


def _print(args: Namespace, prepared: Prepared, found: Evaluation, position: int | None) -> None:
    if args.json:
        print_json({"evaluation": found, "position": position})
        return
    from writ.evaluation.report import mean, regressions

    verdict = found.verdict
    against = f" against {found.baseline.name}" if found.baseline is not None else ""
    print(f"{_outcome(verdict.outcome)}: {paint(found.candidate.name, 'bold')}{against} on {found.plan}")
    size = f"{count(verdict.items, 'item')}, {count(found.repeats, 'repeat')}"
    print(paint(f"{size}, data {found.data} {found.data_digest[:12]}", "dim"))
    _dimensions(verdict)
    worse = [each for each in regressions(found) if each.change < 0]
    if worse:
        print(f"{count(len(worse), 'item is', 'items are')} worse in a dimension; the first:")
    for each in worse[:_WORST]:
        was, now = _number(mean(each.baseline)), _number(mean(each.candidate))
        print(f"  {each.item}  {each.dimension}: {was} to {now}")
    for name, stable in found.stability.items():
        if stable.flaky:
            flaky = count(len(stable.flaky), "item is", "items are")
            print(f"{flaky} flaky in {name}: {', '.join(stable.flaky[:_WORST])}")
    for fault in found.faults:
        print(f"{paint('missing', 'yellow')}: {fault}")
    if position is not None:
        release = f"{found.candidate.name.partition('@')[0]}@{found.candidate.release}"
        print(paint(f"recorded as evaluation {prepared.name} of {found.candidate.release[:12]}", "dim"))
        next_steps(f"writ release promote {release} --reason R", f"writ explain {release}")


def _dimensions(verdict: Verdict) -> None:
    """One row a dimension."""
    rows = Table(
        ["dimension", "verdict", "candidate", "baseline", "change (95 %)", "why"],
        elastic=["why"],
        right=["candidate", "baseline"],
    )
    for each in verdict.dimensions:
        change = "" if each.change is None else f"{each.change:+.3g} ({each.low:+.3g} to {each.high:+.3g})"
        rows.add(
            each.dimension,
            (each.outcome.value, _STYLES[each.outcome]),
            _number(each.candidate),
            _number(each.baseline),
            change,
            each.reason,
        )
    rows.print()


def _outcome(outcome: Outcome) -> str:
    return paint(outcome.value, f"bold {_STYLES[outcome]}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


async def _show(args: Namespace) -> int:
    """What is recorded of a release, the newest of each name."""
    name, ref = named_release(args.release)
    async with connected(args) as client:
        found = await found_release(client, name, ref)
    if args.json:
        told: dict[str, Any] = {"process": name, "release": found.digest}
        print_json(told | {"evaluations": found.evaluations, "checks": found.checks})
        return 0
    print(f"{paint(f'{name}@{found.version}', 'bold')}  {found.digest}")
    if not found.evaluations and not found.checks:
        print("nothing is recorded of it")
        next_steps(f"writ evaluate run PLAN --process {name}@{ref}")
        return 0
    for each in found.evaluations:
        against = f" against {each.baseline[:12]}" if each.baseline is not None else ""
        size = f"{count(each.verdict.items, 'item')}, {count(each.verdict.repeats, 'repeat')}"
        data = f"{each.data}, data {each.data_version[:12]}"
        print(f"\n{_outcome(each.verdict.outcome)}: {data}{against}, {size}")
        _dimensions(each.verdict)
    for check in found.checks:
        print(f"\n{_outcome(check.outcome)}: policy {check.check}")
        for line in check.found:
            print(f"  {line}")
    return 0
