"""The command line's grammar. Imports nothing heavy: what a command needs is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from .usage import UsageError, explain_usage

DEFAULT_DIRECTORY: Final = ".writ"
STATES: Final = ("scheduled", "pending", "running", "retrying", "completed", "cancelled", "dead")

Subparsers = Any
"""argparse keeps this type to itself."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes end in a next step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.commands: dict[str, Parser] = {}
        self.rest: str | None = None
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        options = [name for action in self._actions for name in action.option_strings]
        raise explain_usage(message, self.prog, options, self.commands)


def parse(arguments: Sequence[str]) -> argparse.Namespace | None:
    """The command and its options; None where all that was asked for has been printed.

    Raises UsageError.
    """
    if not arguments or list(arguments) in (["--help"], ["-h"], ["help"]):
        _print_front()
        return None
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    root = build()
    try:
        parsed, unknown = root.parse_known_args(arguments)
    except SystemExit:
        return None  # --help and --version have printed what was asked for
    if parsed.command is None:
        raise UsageError("no command is given", ["writ            (lists what there is)"])
    parser = _parser_of(root, parsed)
    if unknown and parser.rest is not None and not any(word.startswith("--") for word in unknown):
        # argparse takes positionals from one place only: here are those behind the options.
        getattr(parsed, parser.rest).extend(unknown)
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return parsed


def _parser_of(root: Parser, parsed: argparse.Namespace) -> Parser:
    parser = root.commands[parsed.command]
    return parser.commands.get(getattr(parsed, "verb", None) or "", parser)


def _print_front() -> None:
    import os
    import sys

    from .front import front

    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    print(front(sys.stdout.isatty() and not plain), end="")


def dispatch(parsed: argparse.Namespace) -> int:
    """Runs the command; its exit code."""
    match parsed.command:
        case "up" | "down" | "status":
            from . import nodes

            return {"up": nodes.up, "down": nodes.down, "status": nodes.status}[parsed.command](parsed)
        case "env":
            from .variables import env

            return env(parsed)
        case "demo":
            from .demo import demo

            return demo(parsed)
        case "worker":
            from .work import worker

            return worker(parsed)
        case "submit":
            from .submit import submit

            return submit(parsed)
        case "jobs" | "job" | "cancel":
            from . import jobs

            return {"jobs": jobs.jobs, "job": jobs.job, "cancel": jobs.cancel}[parsed.command](parsed)
        case "dlq":
            from . import dead

            return dead.redrive(parsed) if parsed.verb == "redrive" else dead.dlq(parsed)
        case _:
            from . import past

            return past.explain(parsed) if parsed.command == "explain" else past.replay(parsed)


# --- the grammar ----------------------------------------------------------------------------------------


def build() -> Parser:
    """The whole grammar."""
    root = Parser(prog="writ", add_help=True, parents=[_common()])
    root.add_argument("--version", action=_Version, help="print the version and exit")
    root.set_defaults(
        command=None, url=None, creds=None, tenant=None, principal=None, dir=None, json=False, debug=False
    )
    commands = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    root.commands = commands.choices
    _add_node_commands(commands)
    _add_job_commands(commands)
    _add_dlq(commands)
    _add_past_commands(commands)
    return root


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, *_: object, **__: object) -> None:
        from writ import __version__

        print(f"writ {__version__}")
        raise SystemExit(0)


def _common() -> Parser:
    """Options that every command takes, before or after its name."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    where = common.add_argument_group(
        "where to connect (else NATS_URL, NATS_NKEY, WRIT_TENANT, WRIT_PRINCIPAL, else the node of --dir)"
    )
    where.add_argument("--url", help="the broker, such as nats://127.0.0.1:4222")
    where.add_argument("--creds", metavar="FILE", help="file with the NKey seed of the principal")
    where.add_argument("--tenant", help="tenant [default]")
    where.add_argument("--principal", help="principal [owner]")
    where.add_argument("--dir", help=f"directory of a node on this machine [{DEFAULT_DIRECTORY}]")
    general = common.add_argument_group("general")
    general.add_argument(
        "--json", action="store_true", help="one JSON document on stdout, nothing else there"
    )
    general.add_argument("--debug", action="store_true", help="show where an unexpected error came from")
    return common


def _command(to: Subparsers, name: str, about: str, examples: str = "", prog: str = "writ") -> Parser:
    """A command whose help ends with examples."""
    parser: Parser = to.add_parser(
        name,
        prog=f"{prog} {name}",
        description=about,
        epilog=f"examples:\n{examples}" if examples else None,
        parents=[_common()],
        usage=None,
    )
    return parser


def _add_node_commands(to: Subparsers) -> None:
    up = _command(
        to, "up", "Start a node: broker, orchestrator and views, with its data in --dir.",
        "  writ up\n  writ up --detach --dir /var/lib/writ --port 4222",
    )  # fmt: skip
    up.add_argument(
        "--port", type=_whole(1, 65_535), help="port of the broker [the last one, else a free one]"
    )
    up.add_argument("--detach", action="store_true", help="run in the background; stop with `writ down`")
    up.add_argument("--quiet", action="store_true", help="print nothing when it is up")
    _with_parent(up)
    _command(to, "down", "Stop the node of --dir and wait until it is gone.", "  writ down")
    status = _command(
        to, "status", "Is the node up, who leads, how far behind is each view. Exits 1 if it is not well.",
        "  writ status\n  writ status --wait 30",
    )  # fmt: skip
    status.add_argument("--wait", type=_number(0), metavar="SECONDS", help="wait that long for it to be up")
    _command(to, "env", "Where the node is, as shell variables.", '  eval "$(writ env)"')
    demo = _command(
        to, "demo", "A short real run on a node of its own: success, retry, killed worker, dead letter.",
        "  writ demo\n  writ demo --seed 7 --keep",
    )  # fmt: skip
    demo.add_argument("--seed", type=_whole(0), metavar="N", help="which jobs are slow, flaky and broken")
    demo.add_argument("--jobs", type=_whole(4), metavar="N", help="at most so many jobs [all distributions]")
    demo.add_argument("--keep", action="store_true", help="keep the directory, to look around in afterwards")


def _add_job_commands(to: Subparsers) -> None:
    worker = _command(
        to, "worker", "Run the tasks of a Python module: pkg.module, or a path to a .py file.",
        "  writ worker invoices --queue billing --concurrency 20",
    )  # fmt: skip
    worker.add_argument("module", metavar="MODULE")
    worker.add_argument(
        "--queue", action="append", metavar="Q", help="queue to serve; repeat for more [default]"
    )
    worker.add_argument("--concurrency", type=_whole(1, 500), metavar="N", help="attempts at a time [10]")
    worker.add_argument("--name", help="name of this worker [host and process id]")
    _with_parent(worker)
    _add_submit(to)
    jobs = _command(
        to, "jobs", "List jobs, newest first.", "  writ jobs --state dead,retrying --queue billing"
    )
    jobs.add_argument(
        "--state", action="append", default=[], help=f"{', '.join(STATES)}; several with commas"
    )
    jobs.add_argument("--queue", metavar="Q")
    jobs.add_argument("--task", metavar="TASK")
    jobs.add_argument("--limit", type=_whole(1), metavar="N", help="at most so many [all]")
    jobs.add_argument("--watch", action="store_true", help="keep showing; Ctrl-C ends it")
    job = _command(to, "job", "One job with its whole timeline.", "  writ job 01JABC --json")
    _id(job)
    cancel = _command(
        to, "cancel", "End a job: at once while it waits, else by asking its worker.",
        "  writ cancel 01JABC --reason 'wrong customer'",
    )  # fmt: skip
    _id(cancel)
    cancel.add_argument("--reason", default="requested", help="kept in the log [requested]")


def _add_submit(to: Subparsers) -> None:
    submit = _command(
        to, "submit", "Submit a job; INPUT is JSON, `-` reads it from standard input.",
        "  writ submit billing invoices.extract '{\"invoice\": 7}' --wait\n"
        "  writ submit billing --file jobs.ndjson     one {\"task\": ..., \"input\": ...} a line; `-`: stdin",
    )  # fmt: skip
    submit.usage = (
        "writ submit QUEUE TASK [INPUT] [options]\n       writ submit QUEUE [TASK] --file FILE [options]"
    )
    submit.add_argument(
        "words", metavar="QUEUE TASK [INPUT]", nargs="+", help="with --file, TASK is for lines without"
    )
    submit.rest = "words"
    submit.add_argument("--file", metavar="FILE", help="many jobs, one JSON object a line")
    submit.add_argument("--id", help="the job's id: submitting it again is the same job")
    submit.add_argument("--priority", type=_whole(1, 5), metavar="N", help="1 to 5, 1 first [3]")
    submit.add_argument("--delay", type=_number(0), metavar="S", help="not before so many seconds from now")
    submit.add_argument("--not-before", metavar="TIME", help="not before this RFC 3339 time")
    submit.add_argument("--max-attempts", type=_whole(0), metavar="N", help="failed attempts [5; 0 no limit]")
    submit.add_argument("--retry", metavar="JSON", help="the retry policy, such as '{\"backoff\": 3}'")
    submit.add_argument(
        "--lease", type=_number(1), metavar="S", help="a dead worker is noticed within this [30]"
    )
    submit.add_argument("--attempt-timeout", type=_number(0), metavar="S", help="of one attempt [900]")
    submit.add_argument("--job-timeout", type=_number(0), metavar="S", help="of all attempts [86400]")
    submit.add_argument(
        "--expires-in", type=_number(0), metavar="S", help="dead if not begun by then [never]"
    )
    submit.add_argument("--wait", action="store_true", help="wait for the result and print it")
    submit.add_argument("--timeout", type=_number(0), metavar="S", help="wait at most so long [for ever]")


def _add_dlq(to: Subparsers) -> None:
    dlq = _command(
        to, "dlq", "Dead letters, grouped by cause. `writ dlq redrive ID` tries one again.",
        "  writ dlq\n  writ dlq --list --queue billing\n  writ dlq redrive 01JABC --reason 'mended in 1.2'",
    )  # fmt: skip
    dlq.add_argument("--list", action="store_true", help="the jobs one by one")
    dlq.add_argument("--queue", metavar="Q")
    dlq.add_argument("--task", metavar="TASK")
    dlq.add_argument("--limit", type=_whole(1), metavar="N", help="at most so many jobs [all]")
    verbs = dlq.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser)
    dlq.commands = verbs.choices
    redrive = _command(verbs, "redrive", "Put dead letters back to pending, in a new round.", prog="writ dlq")
    redrive.add_argument("ids", metavar="ID", nargs="+")
    redrive.rest = "ids"
    redrive.add_argument(
        "--queue", metavar="Q", default=argparse.SUPPRESS, help="needed where several queues have the id"
    )
    redrive.add_argument("--reason", required=True, help="why; kept in the log")


def _add_past_commands(to: Subparsers) -> None:
    explain = _command(
        to, "explain", "Why a job is where it is, from the log alone.", "  writ explain 01JABC"
    )
    _id(explain)
    replay = _command(
        to, "replay", "Rebuild a job from the log: its state after each record.",
        "  writ replay 01JABC --at 120\n"
        "  writ replay 01JABC --at 2026-01-31T12:00:00Z\n"
        "  writ replay 01JABC --verify           exits 1 on a mismatch",
    )  # fmt: skip
    _id(replay)
    replay.add_argument("--at", metavar="SEQ|TIME", help="the state at a log sequence or an RFC 3339 time")
    replay.add_argument("--verify", action="store_true", help="check the records against what is known")


def _id(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="the job's id")
    parser.add_argument("--queue", metavar="Q", help="needed where several queues have the id")


def _with_parent(parser: Parser) -> None:
    # For programs that start this one and must not leave it behind: it stops when its standard input ends.
    parser.add_argument("--until-stdin-ends", action="store_true", help=argparse.SUPPRESS)


def _whole(least: int, most: int | None = None) -> Any:
    """Whole numbers within bounds."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least or (most is not None and value > most):
            bounds = f"{least} or more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{value} is out of bounds; give {bounds}")
        return value

    return convert


def _number(least: float) -> Any:
    """Numbers of seconds."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
        if not least <= value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} is out of bounds; give {least:g} or more")
        return value

    return convert
