"""The grammar of the further lists. Imports nothing heavy."""

from __future__ import annotations

from typing import Final

from .options import Parser, Subparsers, command, fresh, one_job, watched, whole, with_parent

ERROR_CLASSES: Final = ("system", "application", "timeout", "lease_lost", "policy", "cancelled", "poison")
_OUTCOMES: Final = (
    "live", "completed", "failed", "expired", "released", "snoozed", "suspended", "compensated",
)  # fmt: skip


def add(to: Subparsers) -> None:
    """All of it."""
    audit = command(
        to, "audit", "Who did what, and what was refused, newest first.",
        "  writ audit --actor owner --verb cancel\n  writ audit --refused --since 2026-01-31T12:00:00Z\n"
        "  writ audit verify                     the log against all that was signed; exits 1 on a fault\n"
        "  writ audit prove 01JABC               a job's records for whoever has only the public key\n"
        "  writ audit export --format cef",
    )  # fmt: skip
    _acts(audit)
    _newest(audit)
    _add_audit(audit)
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
        to, "workers", "Workers that hold leases, or were heard of lately; or drain some, and undrain them.",
        "  writ workers --watch\n  writ workers --since 2026-01-31T12:00:00Z\n"
        "  writ workers drain vm-7941-da6853 --reason 'kernel update'",
    )  # fmt: skip
    workers.add_argument(
        "verb", nargs="?", choices=("drain", "undrain"), metavar="drain|undrain",
        help="have the named workers take no more leases and finish what they hold; or take some again",
    )  # fmt: skip
    workers.add_argument("names", nargs="*", metavar="NAME")
    workers.rest = "names"
    workers.add_argument("--reason", help="why; kept in the log [requested]")
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
        "--by", default="queue,model", metavar="B", help="day, queue, task, model, release [queue,model]"
    )
    cost.add_argument("--queue", metavar="Q")
    cost.add_argument("--task", metavar="TASK")
    cost.add_argument("--model", metavar="M")
    cost.add_argument("--release", metavar="NAME@REF", help="what ran on it; or its digest")
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


def _acts(parser: Parser) -> None:
    parser.add_argument("--actor", metavar="A")
    parser.add_argument("--queue", metavar="Q")
    parser.add_argument("--job", metavar="ID")
    parser.add_argument("--verb", dest="verb_of", metavar="V", help="submit, cancel, redrive, declare, ...")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--refused", action="store_true", help="only what was refused")
    ends.add_argument("--done", action="store_true", help="only what was done")


def _add_audit(audit: Parser) -> None:
    verbs = audit.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser)
    audit.commands = verbs.choices
    prog = "writ audit"
    verify = command(
        verbs, "verify", "Check the log of the node of --dir, archive and all, against what was signed.",
        "  writ audit verify --checkpoints /mnt/witness/checkpoints\n"
        "  writ audit verify --checkpoints s3://witness/writ", prog=prog,
    )  # fmt: skip
    with_parent(verify)
    verify.add_argument(
        "--checkpoints", action="append", default=[], metavar="PLACE",
        help="a copy of the checkpoints to check too, a folder or s3://BUCKET/PREFIX; repeat for more",
    )  # fmt: skip
    verify.add_argument("--key", metavar="KEY", help="believe only what this public key vouches for")
    prove = command(
        verbs, "prove", "Write a job's records with proofs that hold without the node.",
        "  writ audit prove 01JABC --out 01JABC.proof.json", prog=prog,
    )  # fmt: skip
    one_job(prove)
    prove.add_argument("--out", metavar="FILE", help="where to [ID.proof.json]")
    export = command(
        verbs, "export", "The audit trail in full, newest first, one act a line.",
        "  writ audit export --since 2026-01-31T00:00:00Z > acts.ndjson\n"
        "  writ audit export --format cef --refused", prog=prog,
    )  # fmt: skip
    _acts(export)
    _span(export)
    export.add_argument("--format", choices=("json", "cef"), default="json", help="JSON lines or CEF [json]")
    command(verbs, "checkpoint", "Sign what there is now, and print it for a witness.", prog=prog)
    command(verbs, "verifier", "Print the program that checks proofs; it needs Python alone.", prog=prog)
    command(verbs, "key", "Print the public key of the checkpoints of the node of --dir.", prog=prog)
    command(verbs, "rotate", "Replace that key by a new one, which the old one vouches for.", prog=prog)


def _newest(parser: Parser) -> None:
    _span(parser)
    parser.add_argument("--limit", type=whole(1), metavar="N", default=100, help="at most so many [100]")
    watched(parser)


def _span(parser: Parser) -> None:
    parser.add_argument("--since", metavar="TIME", help="from this RFC 3339 time on")
    parser.add_argument("--until", metavar="TIME", help="before this RFC 3339 time")
