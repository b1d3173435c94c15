"""`writ replay --what-if`: what other policies and prices would have led to, and which alerts had fired."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from .output import Table, count, dollars, paint, print_json, when
from .stretches import key_in, read_log
from .usage import UsageError

if TYPE_CHECKING:
    from writ.orchestrator.replay.alerts import Alerted
    from writ.orchestrator.replay.otherwise import Otherwise, WhatIf
    from writ.orchestrator.replay.spending import Spent
    from writ.orchestrator.replay.threads import Came
    from writ.schemas.supposed import Supposed

_LISTED_MAX: Final = 20


def what_if(args: Namespace) -> int:
    """What would have come out under the policies of a file, job by job and in total."""
    from writ.orchestrator.replay.stretch import Coverage
    from writ.orchestrator.replay.whatif import supposing

    supposed = _supposed(args.what_if)
    stretch = read_log(args)
    if stretch.coverage is Coverage.JOBS:
        raise UsageError(
            "a bundle of some jobs does not hold what the others did: what if needs all",
            ["writ replay --export FILE    (everything)"],
        )
    found = supposing(stretch, supposed)
    wanted = None if args.id is None else key_in(stretch, args.id, args.queue)
    listed = [
        each
        for each in found.otherwise
        if wanted in (None, each.key) and args.queue in (None, each.key.partition("~")[0])
    ]
    if args.json:
        import msgspec

        print_json(msgspec.structs.replace(found, otherwise=tuple(listed)))
        return 0
    if found.queues or found.prices:
        _show_what_if(found, listed)
    if found.prices:
        _show_spending(found)
    for each in found.alerts:
        _show_alert(each)
    return 0


def _supposed(name: str) -> Supposed:
    from writ.schemas.supposed import Supposed

    from .declared import read

    declared = read(name)
    if not (declared.queues or declared.prices or declared.alerts):
        reason = (
            f"{name} holds no [queues.NAME], [prices.MODEL] or [alerts.NAME]: there is nothing to suppose"
        )
        raise UsageError(reason)
    return Supposed(declared.queues, declared.prices, declared.alerts)


def _came(came: Came, other: Came) -> str:
    """How a job came out, in a few words; with what it cost, where the other came at another cost."""
    cost = "" if _cost(came) == _cost(other) else f", {_cost(came)}"
    return f"{came.state}, {count(came.attempts, 'attempt')}{cost}"


def _state(came: Came) -> tuple[str, int]:
    return came.state, came.attempts


def _cost(spent: Came | Spent) -> str:
    """An amount; what is not known of it is said."""
    left = f" and {count(spent.unpriced, 'usage')} of no known price" if spent.unpriced else ""
    return f"{dollars(spent.cost_microusd)}{left}"


def _show_what_if(found: WhatIf, listed: Sequence[Otherwise]) -> None:
    from writ.schemas.bounds import SECOND_US

    others = [f"other policies for {', '.join(found.queues)}"] if found.queues else []
    others += [f"other prices for {', '.join(found.prices)}"] if found.prices else []
    parted = count(len(found.otherwise), "job")
    print(f"{parted} of {found.jobs:,} would have come out otherwise, with {' and '.join(others)}")
    for name, left in found.not_weighed.items():
        print(f"{paint('not weighed', 'yellow')}: {', '.join(left)} of queue {name} differ, and are left out")
    was, would = found.was, found.would_be
    table = Table(("", "as it was", "as it would be"), right=("as it was", "as it would be"))
    for name in sorted({*was.states, *would.states}):
        table.add(name, f"{was.states.get(name, 0):,}", f"{would.states.get(name, 0):,}")
    for name, one, other in (
        ("attempts", was.attempts, would.attempts),
        ("failures", was.failures, would.failures),
        ("lost leases", was.lost, would.lost),
    ):
        table.add(name, f"{one:,}", f"{other:,}")
    if was.cost_microusd or would.cost_microusd:
        table.add("cost", dollars(was.cost_microusd), dollars(would.cost_microusd))
    if was.unpriced or would.unpriced:
        table.add("usages without a price", f"{was.unpriced:,}", f"{would.unpriced:,}")
    table.print()
    if not listed:
        return
    print()
    if found.moved:
        print(f"{count(found.moved, 'job')} of these would have come out the same at another time")
    jobs = Table(
        ("job", "record", "was", "would be", "later", "why"), elastic=("why",), right=("record", "later")
    )
    for each in sorted(listed, key=lambda one: (_state(one.was) == _state(one.would_be), one.key))[
        :_LISTED_MAX
    ]:
        later = f"{each.later_us / SECOND_US:+.3g} s"
        jobs.add(
            each.key,
            f"{each.seq}",
            _came(each.was, each.would_be),
            _came(each.would_be, each.was),
            later,
            each.why,
        )
    jobs.print()
    if len(listed) > _LISTED_MAX:
        print(f"and {len(listed) - _LISTED_MAX:,} more; --json has all")
    print("\nAn attempt that ran is taken to end as it did; what rests on one that never ran is unknown.")


def _show_spending(found: WhatIf) -> None:
    changed = [each for each in found.spending if each.was != each.would_be]
    if not changed:
        return
    print()
    table = Table(
        ("queue", "task", "model", "tokens in", "tokens out", "was", "would be"),
        right=("tokens in", "tokens out", "was", "would be"),
    )
    for each in changed:
        tokens = (f"{each.was.input_tokens:,}", f"{each.was.output_tokens:,}")
        table.add(each.queue, each.task, each.model, *tokens, _cost(each.was), _cost(each.would_be))
    table.print()


def _show_alert(found: Alerted) -> None:
    from writ.orchestrator.replay.text import duration
    from writ.projections.shown import timestamp

    policy = found.policy
    rule = f"{policy.measure.value} above {policy.above:g}"
    print(
        f"\nalert {paint(found.name, 'bold')} ({rule}) would have fired {count(len(found.firings), 'time')}"
    )
    if found.unknown:
        print(f"{paint('unknown', 'yellow')}: {count(found.unknown, 'usage')} had no price, and are left out")
    if not found.firings:
        return
    table = Table(("fired", "queue", "for", "peak", "records"), elastic=("records",), right=("peak",))
    for each in found.firings[:_LISTED_MAX]:
        lasted = "still at the end" if each.until is None else duration(each.until - each.at)
        records = ", ".join(f"#{seq}" for seq in each.records)
        table.add(when(timestamp(each.at)), each.queue, lasted, f"{each.peak:,.6g}", records)
    table.print()
    if len(found.firings) > _LISTED_MAX:
        print(f"and {len(found.firings) - _LISTED_MAX:,} more; --json has all")
