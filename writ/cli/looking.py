"""The grammar of the further lists. Imports nothing heavy."""

from __future__ import annotations

from typing import Final

from .options import Parser, Subparsers, command, fresh, watched, whole

ERROR_CLASSES: Final = ("system", "application", "timeout", "lease_lost", "policy", "cancelled", "poison")
_OUTCOMES: Final = (
    "live", "completed", "failed", "expired", "released", "snoozed", "suspended", "compensated",
)  # fmt: skip


def add(to: Subparsers) -> None:
    """All of it."""
    audit = command(
        to, "audit", "Who did what, and what was refused, newest first.",
        "  writ audit --actor owner --verb cancel\n  writ audit --refused --since 2026-01-31T12:00:00Z",
    )  # fmt: skip
    audit.add_argument("--actor", metavar="A")
    audit.add_argument("--queue", metavar="Q")
    audit.add_argument("--job", metavar="ID")
    audit.add_argument("--verb", dest="verb_of", metavar="V", help="submit, cancel, redrive, declare, ...")
    ends = audit.add_mutually_exclusive_group()
    ends.add_argument("--refused", action="store_true", help="only what was refused")
    ends.add_argument("--done", action="store_true", help="only what was done")
    _newest(audit)
    attempts = command(
        to, "attempts", "Attempts with their leases, newest first.",
        "  writ attempts --job 01JABC\n  writ attempts --worker vm-7941-da6853 --outcome expired",
    )  # fmt: skip
    attempts.add_argument("--job", metavar="ID")
    attempts.add_argument("--queue", metavar="Q")
    attempts.add_argument("--worker", metavar="W")
    attempts.add_argument("--outcome", choices=_OUTCOMES)
    attempts.add_argument("--error", choices=ERROR_CLASSES, help="class of the error that ended it")
    _newest(attempts)
    workers = command(
        to, "workers", "Workers that hold leases, or were heard of lately: what they hold and have done.",
        "  writ workers --watch\n  writ workers --since 2026-01-31T12:00:00Z",
    )  # fmt: skip
    workers.add_argument(
        "--since", metavar="TIME", help="heard of from this RFC 3339 time on [5 minutes ago]"
    )
    workers.add_argument("--limit", type=whole(1), metavar="N", help="at most so many [all]")
    watched(workers)
    cost = command(
        to, "cost", "Tokens of models and what they cost, those that cost most first.",
        "  writ cost --by day,model\n  writ cost --by task --queue billing --since 2026-01-01T00:00:00Z",
    )  # fmt: skip
    cost.add_argument(
        "--by", default="queue,model", metavar="B", help="day, queue, task, model [queue,model]"
    )
    cost.add_argument("--queue", metavar="Q")
    cost.add_argument("--task", metavar="TASK")
    cost.add_argument("--model", metavar="M")
    _span(cost)
    fresh(cost)
    cost.add_argument("--limit", type=whole(1, 500), metavar="N", default=100, help="at most so many [100]")
    tools = command(
        to, "tools", "Tools that jobs called, with denials and times; `calls` lists the calls.",
        "  writ tools\n  writ tools calls --tool pay --outcome denied",
    )  # fmt: skip
    tools.add_argument("--since", metavar="TIME", help="from the day of this RFC 3339 time on")
    tools.add_argument("--limit", type=whole(1), metavar="N", help="at most so many [all]")
    watched(tools)
    verbs = tools.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser)
    tools.commands = verbs.choices
    calls = command(verbs, "calls", "Calls of tools, newest first.", prog="writ tools")
    calls.add_argument("--tool", metavar="T")
    calls.add_argument("--queue", metavar="Q")
    calls.add_argument("--job", metavar="ID")
    calls.add_argument("--outcome", choices=("done", "failed", "denied"))
    _newest(calls)


def _newest(parser: Parser) -> None:
    _span(parser)
    parser.add_argument("--limit", type=whole(1), metavar="N", default=100, help="at most so many [100]")
    watched(parser)


def _span(parser: Parser) -> None:
    parser.add_argument("--since", metavar="TIME", help="from this RFC 3339 time on")
    parser.add_argument("--until", metavar="TIME", help="before this RFC 3339 time")
