"""The command line's grammar. Imports nothing heavy: what a command needs is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from . import hosting, looking, operators, principals, releasing
from .options import (
    PARTITIONS_MAX,
    STATES,
    Parser,
    Subparsers,
    command,
    common,
    number,
    one_job,
    origin,
    port_or_off,
    watched,
    whole,
    with_parent,
)
from .usage import UsageError


def parse(arguments: Sequence[str]) -> argparse.Namespace | None:
    """The command and its options; None where all that was asked for has been printed.

    Raises UsageError.
    """
    if not arguments or list(arguments) in (["--help"], ["-h"], ["help"]):
        _print_front()
        return None
    if arguments[0] == "help":
        arguments = [*arguments[1:], "--help"]
    root = build(arguments)
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


# --- the grammar ----------------------------------------------------------------------------------------


def build(words: Sequence[str] | None = None) -> Parser:
    """The grammar, of the commands alone that are among the words where these are given."""
    root = Parser(prog="writ", add_help=True, parents=[common()])
    root.add_argument("--version", action=_Version, help="print the version and exit")
    root.set_defaults(
        command=None,
        partition=None,
        url=None,
        creds=None,
        tenant=None,
        principal=None,
        dir=None,
        context=None,
        json=False,
        debug=False,
    )
    commands: Subparsers = root.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    commands.words = words
    root.commands = commands.choices
    _add_node_commands(commands)
    _add_job_commands(commands)
    operators.add(commands)
    hosting.add(commands)
    looking.add(commands)
    principals.add(commands)
    releasing.add(commands)
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


def _add_node_commands(to: Subparsers) -> None:
    up = command(
        to, "up", "Start a node: broker, orchestrator and views, with its data in --dir.",
        "  writ up\n  writ up --detach --dir /var/lib/writ --port 4222",
    )  # fmt: skip
    up.add_argument(
        "--port", type=whole(1, 65_535), help="port of the broker [the last one, else a free one]"
    )
    up.add_argument(
        "--http-port", type=port_or_off, metavar="H",
        help="port of the HTTP API on 127.0.0.1, or off [9748, or a free one where that is taken]",
    )  # fmt: skip
    up.add_argument(
        "--http-origin", type=origin, metavar="URL",
        help="where a server in front of the HTTP API is, which speaks TLS: https://writ.example.com",
    )  # fmt: skip
    up.add_argument(
        "--oidc", metavar="FILE", help="let browsers log in with the OpenID provider of this file"
    )
    up.add_argument("--host", default="127.0.0.1", help="address of the broker [127.0.0.1]; others want TLS")
    up.add_argument(
        "--tls", action="store_true",
        help="speak TLS, with certificates made in --dir; a later start without it speaks TLS as well",
    )  # fmt: skip
    up.add_argument("--no-tls", action="store_true", help="speak no TLS any more")
    up.add_argument("--tls-cert", metavar="FILE", help="the broker's certificate, as PEM, instead")
    up.add_argument("--tls-key", metavar="FILE", help="its private key")
    up.add_argument("--tls-ca", metavar="FILE", help="the authority by which clients check it")
    up.add_argument("--detach", action="store_true", help="run in the background; stop with `writ down`")
    up.add_argument(
        "--metrics-port", type=whole(1, 65_535), metavar="P", help="serve http://127.0.0.1:P/metrics [no]"
    )
    up.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST",
        help="address of that page, which tells anyone who can reach it [127.0.0.1]",
    )  # fmt: skip
    up.add_argument("--search", action="store_true", help="index the words of inputs and errors [no]")
    up.add_argument(
        "--live-max", type=whole(1, 100_000_000), default=2_000_000, metavar="JOBS",
        help="refuse submits where so many jobs have not ended, each 3 KB of memory [2000000]",
    )  # fmt: skip
    up.add_argument(
        "--scrub-every", type=number(0.001), default=6.0, metavar="HOURS",
        help="read and check all of the log so often, and raise an alarm [6]; writ audit verify does it now",
    )  # fmt: skip
    up.add_argument(
        "--disk-reserve", type=number(0), default=256.0, metavar="MB",
        help="refuse submits while the disk of --dir has less left: it is for what was accepted [256]",
    )  # fmt: skip
    up.add_argument(
        "--checkpoints", action="append", default=[], metavar="PLACE",
        help="put copies of the signed checkpoints there, a folder or s3://BUCKET/PREFIX; repeat for more",
    )  # fmt: skip
    up.add_argument(
        "--audit-mirror",
        action="store_true",
        help="have the broker keep a copy of the log, and compare",
    )
    up.add_argument(
        "--broker-url", metavar="URL",
        help="join a broker that runs already, or the servers of one with commas, instead of starting one",
    )  # fmt: skip
    _add_joining(up)
    up.add_argument(
        "--partitions", type=whole(1, PARTITIONS_MAX), default=1, metavar="N",
        help="so many logs to begin with, each led by a process of its own [1]; see `writ partitions grow`",
    )  # fmt: skip
    up.add_argument("--quiet", action="store_true", help="print nothing when it is up")
    with_parent(up)
    beside = command(
        to, "orchestrator", "Run one more orchestrator over a log: it follows, and leads when nobody does.",
        "  writ orchestrator --dir .writ\n  writ orchestrator --broker-url nats://a:4222,nats://b:4222",
    )  # fmt: skip
    beside.add_argument(
        "--broker-url", metavar="URL", help="the broker, or several with commas [that of the node in --dir]"
    )
    _add_joining(beside)
    with_parent(beside)
    _add_broker(to)
    command(to, "down", "Stop the node of --dir and wait until it is gone.", "  writ down")
    status = command(
        to, "status", "Is the node up, who leads, how far behind is each view. Exits 1 if it is not well.",
        "  writ status\n  writ status --wait 30",
    )  # fmt: skip
    status.add_argument("--wait", type=number(0), metavar="SECONDS", help="wait that long for it to be up")
    _add_views(to)
    _add_archive(to)
    _add_backup(to)
    command(to, "env", "Where the node is, as shell variables.", '  eval "$(writ env)"')
    demo = command(
        to, "demo", "A short real run on a node of its own: success, retry, killed worker, dead letter.",
        "  writ demo\n  writ demo --seed 7 --keep",
    )  # fmt: skip
    demo.add_argument("--seed", type=whole(0), metavar="N", help="which jobs are slow, flaky and broken")
    demo.add_argument("--jobs", type=whole(4), metavar="N", help="at most so many jobs [all distributions]")
    demo.add_argument("--keep", action="store_true", help="keep the directory, to look around in afterwards")


def _add_joining(to: Parser) -> None:
    to.add_argument(
        "--login-life", type=whole(1, 3_600), default=3_600, metavar="SECONDS",
        help="how long a login at the broker counts, at most an hour [3600]; clients renew it themselves",
    )  # fmt: skip
    _add_spread(to)
    to.add_argument(
        "--records", type=whole(1, 2), default=2, metavar="N",
        help="hold back: read and write records up to version N, as an older Writ does; follow no log "
        "of a newer one [2]",
    )  # fmt: skip


def _add_spread(to: Parser) -> None:
    to.add_argument(
        "--replicas", type=whole(1, 5), metavar="R",
        help="servers that keep each stream [3 in a cluster of three or more, else 1]; with it, those that "
        "are there are changed to it as well",
    )  # fmt: skip
    to.add_argument(
        "--placement", action="append", default=[], metavar="TAG",
        help="keep streams on servers with this tag alone; repeat for more",
    )  # fmt: skip


def _add_broker(to: Subparsers) -> None:
    broker = command(
        to, "broker", "What a broker that Writ does not start needs of it.",
        "  writ broker trust /etc/nats/trust.conf --dir /var/lib/writ",
    )  # fmt: skip
    verbs = broker.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    broker.commands = verbs.choices
    trust = command(
        verbs,
        "trust",
        "Write whom it believes, for its configuration to include.",
        prog="writ broker",
    )
    trust.add_argument("file", metavar="FILE", help="where to write it; the same on every server")
    trust.add_argument(
        "--backup",
        metavar="DIR",
        help="by the keys in a backup to be restored there [those in --dir]",
    )


def _add_views(to: Subparsers) -> None:
    views = command(
        to, "views", "The views: what lists and pages are read from, folded from the log.",
        "  writ views list --watch\n  writ views rebuild jobs",
    )  # fmt: skip
    verbs = views.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    views.commands = verbs.choices
    watched(command(verbs, "list", "All views, and how far they are.", prog="writ views"))
    rebuild = command(
        verbs, "rebuild", "Build views of the node of --dir anew from the log; they answer meanwhile.",
        "  writ views rebuild jobs --wait 60\n  writ views rebuild --all", prog="writ views",
    )  # fmt: skip
    rebuild.add_argument("names", metavar="NAME", nargs="*")
    rebuild.rest = "names"
    rebuild.add_argument("--all", action="store_true", help="all of them")
    rebuild.add_argument("--wait", type=number(0), metavar="SECONDS", help="wait that long until it is done")


def _add_archive(to: Subparsers) -> None:
    archive = command(
        to, "archive", "Finished history outside the broker, on the machine of the node.",
        "  writ archive status\n  writ archive run",
    )  # fmt: skip
    verbs = archive.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    archive.commands = verbs.choices
    command(verbs, "status", "What was moved so far, and what holds back the rest.", prog="writ archive")
    run = command(
        verbs, "run", "Move what is due now. The node does this by itself, now and then.", prog="writ archive"
    )
    run.add_argument(
        "--segment-max", type=whole(1, 10_000), metavar="N", help="records of a segment at most [10000]"
    )
    run.add_argument("--segment-min", type=whole(1, 10_000), metavar="N", help="fewer wait for more [1000]")
    run.add_argument(
        "--snapshot-every", type=whole(1), metavar="N", help="records that a start may have to fold [20000]"
    )
    with_parent(run)


def _add_backup(to: Subparsers) -> None:
    url = "the broker, or several with commas [that of the node in --dir]"
    backup = command(
        to, "backup", "All that the node of --dir holds, taken while it runs; a later one adds what is new.",
        "  writ backup /backups/writ --keys\n  writ backup /backups/writ --check",
    )  # fmt: skip
    backup.add_argument("folder", metavar="DIR")
    backup.add_argument(
        "--keys",
        action="store_true",
        help="with all secrets of the node, as all later ones: keep it safe",
    )
    backup.add_argument(
        "--check", action="store_true", help="take none: read the one that is there, all of it"
    )
    backup.add_argument(
        "--wait", type=number(0), default=60.0, metavar="SECONDS",
        help="for the log to have what was submitted before [60]",
    )  # fmt: skip
    backup.add_argument("--broker-url", metavar="URL", help=url)
    restore = command(
        to, "restore", "Make a node of a backup, in a --dir and a broker that hold nothing.",
        "  writ restore /backups/writ --dir .writ && writ up --dir .writ",
    )  # fmt: skip
    restore.add_argument("folder", metavar="DIR")
    restore.add_argument(
        "--broker-url", metavar="URL", help="a broker or cluster without streams [one of its own in --dir]"
    )
    _add_spread(restore)
    restore.add_argument(
        "--epoch-above", type=whole(0), default=0, metavar="N",
        help="the greatest epoch restored from another copy of this backup [0]",
    )  # fmt: skip


def _add_job_commands(to: Subparsers) -> None:
    worker = command(
        to, "worker", "Run the tasks of a Python module: pkg.module, or a path to a .py file.",
        "  writ worker invoices --queue billing --concurrency 20\n"
        "  writ worker invoices --queue mail=3,reports=1          (three of mail for each of reports)\n"
        "  writ worker --process invoices@1.4.0 --queue billing",
    )  # fmt: skip
    worker.add_argument("module", metavar="MODULE", nargs="?", help="left out with --process")
    _add_process(worker)
    worker.add_argument(
        "--queue", action="append", metavar="Q", help="queue to serve, or mail=3,reports=1; repeat for more"
    )
    worker.add_argument("--concurrency", type=whole(1, 500), metavar="N", help="attempts at a time [10]")
    worker.add_argument(
        "--label", action="append", metavar="NAME=VALUE", help="what jobs may demand of it; repeat for more"
    )
    worker.add_argument("--name", help="name of this worker [host and process id]")
    worker.add_argument(
        "--metrics-port", type=whole(1, 65_535), metavar="P", help="serve http://127.0.0.1:P/metrics [no]"
    )
    worker.add_argument(
        "--metrics-host", default="127.0.0.1", metavar="HOST",
        help="address of that page, which tells anyone who can reach it [127.0.0.1]",
    )  # fmt: skip
    worker.add_argument(
        "--log-format", choices=("text", "json"), default="text",
        help="json: an object a line, with queue, id, attempt and trace [text]",
    )  # fmt: skip
    worker.add_argument("--traces", action="store_true", help="print each attempt, and what it raised")
    worker.add_argument(
        "--isolate", choices=("plain", "landlock", "bubblewrap"),
        help="run each attempt in a process of its own, kept apart so far [no]",
    )  # fmt: skip
    worker.add_argument(
        "--codec", metavar="MODULE:NAME", action="append", default=[],
        help="a payload codec; repeat for those that only decode",
    )  # fmt: skip
    limit = "of an isolated attempt"
    worker.add_argument("--memory-mib", type=whole(32), metavar="N", help=f"memory {limit} [1024]")
    worker.add_argument(
        "--cpu-s", type=whole(1), metavar="N", help=f"CPU time of a process {limit} [no limit]"
    )
    worker.add_argument("--file-mib", type=whole(1), metavar="N", help=f"size of a file {limit} [1024]")
    worker.add_argument("--open-files", type=whole(32), metavar="N", help=f"open files {limit} [256]")
    worker.add_argument("--processes", type=whole(1), metavar="N", help=f"processes, threads {limit} [64]")
    with_parent(worker)
    dev = command(
        to, "dev", "A worker that starts again when its code changes, and prints each attempt and its trace.",
        "  writ dev invoices --queue billing",
    )  # fmt: skip
    dev.add_argument("module", metavar="MODULE")
    dev.add_argument("--queue", action="append", metavar="Q", help="queue to serve; repeat for more")
    dev.add_argument("--concurrency", type=whole(1, 500), metavar="N", help="attempts at a time [10]")
    _add_submit(to)
    jobs = command(
        to, "jobs", "List jobs, newest first.", "  writ jobs --state dead,retrying --queue billing"
    )
    jobs.add_argument(
        "--state", action="append", default=[], help=f"{', '.join(STATES)}; several with commas"
    )
    jobs.add_argument("--queue", metavar="Q")
    jobs.add_argument("--task", metavar="TASK")
    jobs.add_argument("--batch", metavar="B", help="those that count in it")
    jobs.add_argument("--parent", metavar="JOB", help="those that this one has started")
    jobs.add_argument("--schedule", metavar="NAME", help="those that it has started")
    jobs.add_argument("--operation", metavar="ID", help="those that it has changed")
    jobs.add_argument("--release", metavar="NAME@REF", help="those that ran on it; or its digest")
    jobs.add_argument("--actor", metavar="A", help="those that this principal has submitted")
    jobs.add_argument("--error", choices=looking.ERROR_CLASSES, help="class of the last error")
    jobs.add_argument("--tag", action="append", metavar="NAME=VALUE", help="those with it; repeat for more")
    jobs.add_argument("--search", metavar="TEXT", help="these words in input or error (writ up --search)")
    jobs.add_argument("--since", metavar="TIME", help="submitted from this RFC 3339 time on")
    jobs.add_argument("--until", metavar="TIME", help="submitted before this RFC 3339 time")
    jobs.add_argument("--limit", type=whole(1), metavar="N", help="at most so many [all]")
    watched(jobs)
    job = command(
        to, "job", "One job: what it is, its parents and children, its whole timeline.",
        "  writ job 01JABC --json",
    )  # fmt: skip
    one_job(job)


def _add_process(worker: Parser) -> None:
    group = worker.add_argument_group("a release in an environment of its own, isolated")
    group.add_argument(
        "--process", metavar="NAME@REF", help="version, digest or alias of what to run, instead of MODULE"
    )
    group.add_argument("--package", metavar="PATH", help="its .writpkg, at hand [from the node's store]")
    group.add_argument("--cache", metavar="DIR", help="where environments are kept [~/.cache/writ]")


def _add_submit(to: Subparsers) -> None:
    submit = command(
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
    submit.add_argument("--priority", type=whole(1, 5), metavar="N", help="1 to 5, 1 first [3]")
    submit.add_argument("--delay", type=number(0), metavar="S", help="not before so many seconds from now")
    submit.add_argument("--not-before", metavar="TIME", help="not before this RFC 3339 time")
    submit.add_argument("--max-attempts", type=whole(0), metavar="N", help="failed attempts [5; 0 no limit]")
    submit.add_argument("--retry", metavar="JSON", help="the retry policy, such as '{\"backoff\": 3}'")
    submit.add_argument(
        "--lease", type=number(1), metavar="S", help="a dead worker is noticed within this [30]"
    )
    submit.add_argument("--attempt-timeout", type=number(0), metavar="S", help="of one attempt [900]")
    submit.add_argument("--job-timeout", type=number(0), metavar="S", help="of all attempts [86400]")
    submit.add_argument("--expires-in", type=number(0), metavar="S", help="dead if not begun by then [never]")
    _add_relations(submit)
    submit.add_argument(
        "--data-subject", metavar="S", help="whom the content is about: `writ erase --subject S` erases it"
    )
    submit.add_argument("--reserve", metavar="USD", help="what an attempt may cost, of the tenant's budget")
    submit.add_argument(
        "--process", metavar="NAME@REF", help="the release that runs it: an alias such as live, or a version"
    )
    submit.add_argument("--wait", action="store_true", help="wait for the result and print it")
    submit.add_argument("--timeout", type=number(0), metavar="S", help="wait at most so long [for ever]")


def _add_relations(submit: Parser) -> None:
    limits = submit.add_argument_group("turns and limits")
    limits.add_argument("--fairness-key", metavar="K", help="takes turns with others of its priority")
    limits.add_argument("--concurrency-key", metavar="K", help="shares the queue's slots for each key")
    limits.add_argument("--unique-key", metavar="K", help="at most one live job has it")
    limits.add_argument(
        "--requires", action="append", metavar="NAME=VALUE",
        help="only a worker with this label is given it (writ worker --label); repeat for more",
    )  # fmt: skip
    others = submit.add_argument_group("other jobs and people; a JOB is an id, or <queue>~<id>")
    others.add_argument(
        "--after", action="append", metavar="JOB", help="runs when that one has completed; repeat for more"
    )
    others.add_argument(
        "--on-dead", choices=("dead_letter", "cancel", "suspend", "run"), help="if one ends otherwise"
    )
    others.add_argument(
        "--input-from", action="append", metavar="FIELD=JOB", help="a field of INPUT is that one's output"
    )
    others.add_argument("--parent", metavar="JOB", help="the job that starts this one")
    others.add_argument("--on-parent-end", choices=("cancel", "abandon"), help="if it does not complete")
    others.add_argument("--batch", metavar="B", help="the group that it counts in")
    others.add_argument("--tag", action="append", metavar="NAME=VALUE", help="to find it by; repeat for more")
    others.add_argument("--approval", action="store_true", help="a person must say yes first")
    others.add_argument("--approval-timeout", type=number(0), metavar="S", help="wait for that so long")
    others.add_argument("--on-timeout", choices=("dead_letter", "resume"), help="and then [dead_letter]")


def _add_past_commands(to: Subparsers) -> None:
    explain = command(
        to, "explain", "Why a job, or a release, is where it is, from the log alone.",
        "  writ explain 01JABC\n  writ explain invoices@1.2.0",
    )  # fmt: skip
    one_job(explain)
    explain.add_argument("--bundle", metavar="FILE", help="read a bundle, not a node")
    replay = command(
        to, "replay", "Rebuild a job, a queue or all of a tenant from the log.",
        "  writ replay 01JABC                    the job after each record\n"
        "  writ replay 01JABC --at 120           at a log sequence, or at 2026-01-31T12:00:00Z\n"
        "  writ replay --queue billing --diff 120 180\n"
        "  writ replay --verify                  every record, transition and decision; exits 1 on a fault\n"
        "  writ replay --what-if policies.toml   a file as writ apply takes it, and [alerts.NAME]\n"
        "  writ replay 01JABC --as html > job.html\n"
        "  writ replay --state dead --export dead.bundle.gz\n"
        "  writ replay --bundle dead.bundle.gz --verify",
    )  # fmt: skip
    replay.add_argument(
        "id", metavar="ID", nargs="?", help="the job's id; all of the queue or tenant without"
    )
    replay.add_argument("--queue", metavar="Q", help="all of this queue; with ID, where several have the id")
    replay.add_argument("--at", metavar="SEQ|TIME", help="the state at a log sequence or an RFC 3339 time")
    replay.add_argument("--diff", metavar="SEQ|TIME", nargs=2, help="what changed from the one to the other")
    replay.add_argument("--verify", action="store_true", help="make every recorded decision again")
    replay.add_argument("--what-if", metavar="FILE", help="what other policies and prices would have led to")
    replay.add_argument(
        "--as", dest="shown_as", choices=("text", "json", "mermaid", "html"), help="how a timeline is shown"
    )
    replay.add_argument("--bundle", metavar="FILE", help="read a bundle, not a node")
    replay.add_argument("--export", metavar="FILE", help="write a bundle, which replays without a node")
    replay.add_argument("--state", action="append", default=[], help="with --export: jobs in these states")
    replay.add_argument("--task", metavar="TASK", help="with --export: jobs of this task")
    reproduce = command(
        to, "reproduce",
        "Run a finished job again with the recorded answers, and compare. Exits 1 where the two differ.",
        "  writ reproduce 01JABC",
    )  # fmt: skip
    one_job(reproduce)
    reproduce.add_argument("--timeout", type=number(0), metavar="S", help="wait at most so long [for ever]")
