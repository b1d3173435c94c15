"""The grammar of what operators do. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import Final

from . import stores
from .options import STATES, Parser, Subparsers, command, fresh, number, watched, whole

_JOB_VERBS: Final = {
    "terminate": ("End jobs at once; a running one loses its lease.", "  writ terminate 01JABC"),
    "rerun": ("Run finished jobs again, in a new round.", "  writ rerun 01JABC --reason 'input mended'"),
    "drop": (
        "Settle dead letters for good: as `writ dlq drop ID`.",
        "  writ drop 01JABC --reason 'customer left'",
    ),
    "pause": ("Hold jobs that do not run.", "  writ pause 01JABC 01JDEF --reason 'until Monday'"),
    "resume": ("Let paused jobs, or those whose attempts are used up, go on.", "  writ resume 01JABC"),
    "approve": (
        "Say yes to jobs that wait for approval; --data reaches the task.",
        "  writ approve 01JABC --reason 'within budget' --data '{\"limit\": 500}'",
    ),
    "reject": ("Say no to jobs that wait for approval.", "  writ reject 01JABC --reason 'too much'"),
}


def add(to: Subparsers) -> None:
    """All of it."""
    _add_cancel(to)
    for name, (about, examples) in _JOB_VERBS.items():
        parser = command(to, name, about, examples)
        _ids(parser)
        _reason(parser, required=name == "drop")
        if name == "approve":
            parser.add_argument("--data", metavar="JSON", help="reaches the task")
        if name == "rerun":
            parser.add_argument("--from-step", metavar="S", help="from this recorded step on")
    signal = command(
        to, "signal", "Send data to a job under a name; one that waits for it goes on.",
        "  writ signal 01JABC paid --data '{\"amount\": 12}'",
    )  # fmt: skip
    signal.add_argument("id", metavar="ID")
    signal.add_argument("name", metavar="NAME")
    signal.add_argument("--data", metavar="JSON", help="reaches the task [null]")
    _queue(signal)
    _reason(signal)
    edit = command(
        to, "edit", "Change a job that has not started.",
        "  writ edit 01JABC --priority 1 --input '{\"n\": 2}'",
    )  # fmt: skip
    _ids(edit)
    edit.add_argument("--priority", type=whole(1, 5), metavar="N", help="1 to 5, 1 first")
    edit.add_argument("--not-before", metavar="TIME", help="not before this RFC 3339 time")
    edit.add_argument("--input", metavar="JSON")
    _reason(edit)
    _add_keeping(to)
    _add_dlq(to)
    _add_queue(to)
    _add_schedule(to)
    apply = command(
        to, "apply", "Declare what a TOML file says of queues, schedules and prices: what differs is shown.",
        "  writ apply writ.toml --dry-run\n\n"
        "  [queues.billing]\n  concurrency = 10\n  retry = {max_attempts = 3}\n\n"
        "  [schedules.nightly]\n  queue = \"billing\"\n  task = \"invoices.close\"\n  cron = \"0 3 * * *\""
        "\n\n  [prices.small]\n  input = 0.25\n  output = 1.25",
    )  # fmt: skip
    apply.add_argument("file", metavar="FILE", help="`-` reads standard input")
    apply.add_argument("--dry-run", action="store_true", help="only show what would change")
    apply.add_argument("--reason", help="kept in the log [applied FILE]")
    apply.add_argument(
        "--prune", action="store_true",
        help="what is declared but not in the file: queues get the built-in policy, schedules are deleted",
    )  # fmt: skip
    _add_operation(to)
    _add_batch(to)
    _add_price(to)
    stores.add(to)


def _add_operation(to: Subparsers) -> None:
    operation = command(
        to, "operation", "Operations on many jobs: plan, progress, end.",
        "  writ operation list --watch\n  writ operation show op1207",
    )  # fmt: skip
    verbs = operation.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    operation.commands = verbs.choices
    listing = command(verbs, "list", "All operations, newest first.", prog="writ operation")
    listing.add_argument("--queue", metavar="Q")
    watched(listing)
    show = command(verbs, "show", "One operation: its plan, and how far it is.", prog="writ operation")
    fresh(show)
    show.add_argument("id", metavar="ID")
    show.add_argument("--queue", metavar="Q")


def _add_price(to: Subparsers) -> None:
    price = command(
        to, "price", "What the tokens of models cost, and since when.",
        "  writ price set small --input 0.25 --output 1.25 --from 2026-01-01T00:00:00Z\n  writ price list",
    )  # fmt: skip
    verbs = price.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    price.commands = verbs.choices
    listing = command(verbs, "list", "The price table, by model and time.", prog="writ price")
    listing.add_argument("--model", metavar="M")
    setting = command(
        verbs, "set", "Give a model its price from a time on; what was recorded before keeps its cost.",
        prog="writ price",
    )  # fmt: skip
    setting.add_argument("model", metavar="MODEL")
    setting.add_argument("--input", required=True, metavar="USD", help="a million tokens in, in US dollars")
    setting.add_argument("--output", required=True, metavar="USD", help="a million tokens out")
    setting.add_argument("--from", dest="since", metavar="TIME", help="an RFC 3339 time [now]")
    _reason(setting)


def _add_batch(to: Subparsers) -> None:
    batch = command(
        to, "batch", "Batches: groups of jobs whose end is told.",
        "  writ submit billing invoices.send --file june.ndjson --batch june\n  writ batch seal june",
    )  # fmt: skip
    verbs = batch.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    batch.commands = verbs.choices
    listing = command(verbs, "list", "All batches, and how far they are.", prog="writ batch")
    listing.add_argument("--queue", metavar="Q")
    watched(listing)
    show = command(verbs, "show", "One batch: its jobs by state, and its history.", prog="writ batch")
    fresh(show)
    seal = command(
        verbs, "seal", "Say how many jobs a batch has, so that its end can be told.",
        "  writ batch seal june\n  writ batch seal june --size 500 --queue billing", prog="writ batch",
    )  # fmt: skip
    seal.add_argument(
        "--size", type=whole(1), metavar="N", help="so many jobs in all [as many as it has now]"
    )
    _reason(seal)
    for parser in (show, seal):
        parser.add_argument("batch", metavar="B")
        parser.add_argument("--queue", metavar="Q", help="needed where several queues have the name")


def _add_keeping(to: Subparsers) -> None:
    erase = command(
        to, "erase", "Destroy the key to the content of a job, or of all jobs of a data subject. For good.",
        "  writ erase --subject customer-7 --reason 'asked for by mail'\n"
        "  writ erase 01JABC --reason 'leaked'",
    )  # fmt: skip
    erase.add_argument("id", metavar="ID", nargs="?", help="the job's id")
    erase.add_argument("--subject", metavar="S", help="as named by --data-subject of `writ submit`")
    _queue(erase)
    erase.add_argument("--reason", help="why; kept in the log, and needed")
    hold = command(to, "hold", "Holds: jobs that must not be erased.")
    verbs = hold.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    hold.commands = verbs.choices
    add = command(
        verbs, "add", "Place a hold on jobs of a queue: those that match all that is given, now or later.",
        "  writ hold add billing case-7 --id 01JABC --reason 'court order'", prog="writ hold",
    )  # fmt: skip
    add.add_argument("queue", metavar="QUEUE")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--id", dest="ids", action="append", default=[], metavar="ID", help="repeat for more")
    add.add_argument("--task", metavar="TASK")
    add.add_argument("--state", action="append", default=[], help=f"{', '.join(STATES)}; several with commas")
    _reason(add)
    listing = command(verbs, "list", "All holds.", prog="writ hold")
    listing.add_argument("--queue", metavar="Q")
    listing.add_argument("--lifted", action="store_true", help="also those that ended")
    remove = command(verbs, "remove", "Lift a hold.", prog="writ hold")
    remove.add_argument("queue", metavar="QUEUE")
    remove.add_argument("name", metavar="NAME")
    _reason(remove)


def _ids(parser: Parser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="+")
    parser.rest = "ids"
    _queue(parser)


def _queue(parser: Parser) -> None:
    parser.add_argument("--queue", metavar="Q", help="needed where several queues have the id")


def _reason(parser: Parser, *, required: bool = False) -> None:
    if required:
        parser.add_argument("--reason", help="why; kept in the log, and needed except with --dry-run")
    else:
        parser.add_argument("--reason", default="requested", help="why; kept in the log [requested]")


def _history(parser: Parser) -> None:
    parser.add_argument("--history", type=whole(0), metavar="N", default=20, help="newest events [20]")


def _pace(parser: Parser) -> None:
    """How fast, and how far, a plan goes."""
    plan = parser.add_argument_group("as a plan, without ID")
    plan.add_argument("--dry-run", action="store_true", help="only say which jobs are meant")
    plan.add_argument("--limit", type=whole(1), metavar="N", default=0, help="at most so many [all]")
    plan.add_argument("--rate", type=number(0.001), metavar="R", help="so many a second [no limit]")


def _add_cancel(to: Subparsers) -> None:
    cancel = command(
        to, "cancel", "End a job: at once while it waits, else by asking its worker. With --all, many.",
        "  writ cancel 01JABC --reason 'wrong customer'\n"
        "  writ cancel --all --queue billing --state pending --dry-run",
    )  # fmt: skip
    cancel.add_argument("id", metavar="ID", nargs="?", help="the job's id")
    cancel.add_argument("--queue", metavar="Q", help="needed with --all, or where several have the id")
    _reason(cancel)
    _pace(cancel)
    cancel.add_argument("--all", action="store_true", help="all jobs of --queue that match")
    cancel.add_argument(
        "--state", action="append", default=[], help=f"with --all: {', '.join(STATES)}; several with commas"
    )
    cancel.add_argument("--task", metavar="TASK", help="with --all")


def _add_dlq(to: Subparsers) -> None:
    dlq = command(
        to, "dlq", "Dead letters, grouped by cause; `redrive` tries them again, `drop` settles them.",
        "  writ dlq\n  writ dlq --list --queue billing\n  writ dlq redrive 01JABC --reason 'mended in 1.2'\n"
        "  writ dlq redrive --cause 4f1d09aa21bc --canary 1 --rate 10 --stop-after 3 --reason mended",
    )  # fmt: skip
    dlq.add_argument("--list", action="store_true", help="the jobs one by one")
    dlq.add_argument("--queue", metavar="Q")
    dlq.add_argument("--task", metavar="TASK")
    dlq.add_argument("--cause", metavar="C", help="those of one cause")
    dlq.add_argument("--limit", type=whole(1), metavar="N", help="at most so many jobs [all]")
    watched(dlq)
    verbs = dlq.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser)
    dlq.commands = verbs.choices
    redrive = command(
        verbs, "redrive", "Put dead letters back to pending: those named, or by a plan those that match.",
        "  writ dlq redrive 01JABC --reason mended\n"
        "  writ dlq redrive --cause 4f1d09aa21bc --dry-run\n"
        "  writ dlq redrive --cause 4f1d09aa21bc --canary 1 --rate 10 --reason mended",
        prog="writ dlq",
    )  # fmt: skip
    drop = command(
        verbs, "drop", "Settle dead letters for good: those named, or by a plan those that match.",
        "  writ dlq drop --task invoices.old --reason 'no longer needed'", prog="writ dlq",
    )  # fmt: skip
    for parser in (redrive, drop):
        parser.add_argument("ids", metavar="ID", nargs="*")
        parser.rest = "ids"
        _reason(parser, required=True)
        _pace(parser)
        for name, what in (("queue", "Q"), ("task", "TASK"), ("cause", "C")):
            parser.add_argument(f"--{name}", metavar=what, default=argparse.SUPPRESS)
        parser.add_argument("--all", action="store_true", help="every dead letter")
    redrive.add_argument(
        "--canary", type=whole(0), metavar="N", default=0, help="first so many; the rest if they complete"
    )
    redrive.add_argument(
        "--stop-after", type=whole(0), metavar="N", default=0, help="stop when so many have died again"
    )


def _add_queue(to: Subparsers) -> None:
    queue = command(to, "queue", "Queues: their policies, whether they are open, what is in them.")
    verbs = queue.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    queue.commands = verbs.choices
    watched(command(verbs, "list", "All queues.", prog="writ queue"))
    show = command(verbs, "show", "One queue: policy, mode, counts, history.", prog="writ queue")
    show.add_argument("queue", metavar="Q")
    fresh(show)
    _history(show)
    for name, about in (
        ("pause", "Grant nothing; submits are taken."),
        ("drain", "Take no submits; what is there is worked off."),
        ("resume", "Open a queue again."),
    ):
        parser = command(verbs, name, about, prog="writ queue")
        parser.add_argument("queue", metavar="Q")
        _reason(parser)


def _add_schedule(to: Subparsers) -> None:
    schedule = command(
        to, "schedule", "Schedules: when they are due next, and what they have done.",
        "  writ schedule list\n"
        "  writ schedule backfill nightly --from 2026-01-01T00:00Z --to 2026-01-07T00:00Z",
    )  # fmt: skip
    verbs = schedule.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    schedule.commands = verbs.choices
    listing = command(verbs, "list", "All schedules, with the next time of each.", prog="writ schedule")
    listing.add_argument("--queue", metavar="Q")
    watched(listing)
    show = command(
        verbs, "show", "One schedule: spec, next times, and what happened: fired, skipped and why, paused.",
        prog="writ schedule",
    )  # fmt: skip
    fresh(show)
    show.add_argument("--times", type=whole(0, 100), metavar="N", default=10, help="next times [10]")
    _history(show)
    named = [show]
    for name, about in (
        ("pause", "No time is due until it is resumed."),
        ("resume", "Due again from now on."),
        ("delete", "End a schedule; the jobs that it started go on."),
        ("trigger", "Start its job now, beside the due times."),
        ("backfill", "Run the due times between two moments."),
    ):
        parser = command(verbs, name, about, prog="writ schedule")
        _reason(parser)
        if name in ("trigger", "backfill"):
            parser.add_argument("--overlap", choices=("skip", "queue", "cancel_running", "allow"))
        if name == "backfill":
            parser.add_argument("--from", dest="start", required=True, metavar="TIME", help="RFC 3339")
            parser.add_argument("--to", required=True, metavar="TIME", help="RFC 3339")
            parser.add_argument("--limit", type=whole(1, 400), metavar="N", default=400)
        named.append(parser)
    for parser in named:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--queue", metavar="Q", help="needed where several queues have the name")
