"""The grammar of processes and their releases. Imports nothing heavy."""

from __future__ import annotations

from .options import Parser, Subparsers, command, number, whole


def add(to: Subparsers) -> None:
    """Adds the commands."""
    _add_projects(to)
    _add_publish(to)
    _add_release(to)
    _add_gate(to)
    _add_evaluate(to)


def _add_projects(to: Subparsers) -> None:
    init = command(
        to, "init", "Write a new process into a folder: it runs, and has tests.",
        "  writ init invoices --type agent\n  cd invoices && writ run --entry main --input @input.json",
    )  # fmt: skip
    init.add_argument("name", metavar="NAME", help="the process: letters, digits, - and _")
    init.add_argument("--type", choices=("agent", "rpa", "job"), default="job", help="what it is [job]")
    init.add_argument("--folder", metavar="F", help="where to [NAME]")
    lock = command(to, "lock", "Pin the dependencies of a process, with digests.", "  writ lock")
    _folder(lock)
    run = command(
        to, "run", "Run an entry point in one attempt, on a whole system in this process, and tell of it.",
        "  writ run --entry main --input '{\"words\": [\"a\"]}'\n  writ run --entry main --input @input.json",
    )  # fmt: skip
    run.add_argument("--entry", default="main", metavar="E", help="of process.toml [main]")
    run.add_argument("--input", metavar="JSON|@FILE", help="what the task gets")
    run.add_argument("--yes", action="store_true", help="say yes where it asks for approval")
    _folder(run)


def _folder(to: Parser) -> None:
    to.add_argument("--folder", default=".", metavar="F", help="of the process [.]")


def _add_publish(to: Subparsers) -> None:
    publish = command(
        to, "publish", "Package a process, signed with your key, and make it a release.",
        "  writ publish\n  writ publish --patch",
    )  # fmt: skip
    parts = publish.add_mutually_exclusive_group()
    for part in ("major", "minor", "patch"):
        parts.add_argument(
            f"--{part}", dest="part", action="store_const", const=part, help="raise the version first"
        )
    publish.add_argument("--out", metavar="FILE", help="write the package there as well, as NAME.writpkg")
    _folder(publish)


def _add_release(to: Subparsers) -> None:
    release = command(
        to, "release", "Releases: what may run under which alias. REF is a version, a digest or an alias.",
        "  writ release promote invoices@1.2.0 --reason 'evaluated'\n"
        "  writ release canary invoices@1.3.0 --percent 10 --reason 'first look'\n"
        "  writ release rollback invoices --reason 'wrong totals'",
    )  # fmt: skip
    verbs = release.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    release.commands = verbs.choices

    def verb(name: str, about: str, examples: str = "") -> Parser:
        return command(verbs, name, about, examples, prog="writ release")

    verb("list", "All releases, newest first.").add_argument("process", metavar="NAME", nargs="?")
    _one(verb("show", "One release, what its gates said, and all that became of it, from the log."))
    status = verb("status", "What the gates say of a release now. Exits 0: pass, 1: fail, 4: neither.")
    _one(status, scope=True)
    status.add_argument("--alias", choices=("live", "candidate"), default="live", help="as this [live]")
    status.add_argument("--badge", metavar="FILE", help="draw it there as SVG")
    fetch = verb("fetch", "Unpack a release; a package that was changed is refused.")
    _one(fetch)
    fetch.add_argument("--to", required=True, metavar="FOLDER", help="which does not exist yet")
    promote = verb("promote", "Point an alias at a release, through its gates. Exits 1 where they say no.")
    _one(promote, reason=True, scope=True)
    promote.add_argument("--alias", choices=("live", "candidate"), default="live", help="which [live]")
    promote.add_argument(
        "--override", action="store_true", help="propose it against the gates: another person approves"
    )
    _one(verb("approve-promotion", "The second yes to a promotion: NAME@NUMBER."), reason=True, scope=True)
    rollback = verb("rollback", "Point live back; @REF for another than the one before.")
    _one(rollback, reason=True, scope=True)
    rollback.add_argument(
        "--pinned", choices=("stay", "move"), default="stay", help="jobs with recorded steps [stay]"
    )
    _one(verb("freeze", "No lease for a release, or, without @REF, for any of the process."), reason=True)
    _one(verb("unfreeze", "End a freeze."), reason=True)
    _one(verb("revoke", "No lease for a release, ever again."), reason=True)
    canary = verb("canary", "Give a release to some of the jobs that name live; --end ends that.")
    _one(canary, reason=True, scope=True)
    canary.add_argument("--percent", type=number(0), default=0.0, metavar="P", help="so many of a hundred")
    canary.add_argument(
        "--key", action="append", metavar="K", help="jobs of this fairness key; repeat for more"
    )
    canary.add_argument("--end", action="store_true", help="end it")
    canary.add_argument(
        "--judge", choices=("attempts", "jobs"), help="by first attempts, or by jobs: act on what they prove"
    )
    canary.add_argument("--level", type=number(0), default=0.05, metavar="L", help="of error [0.05]")
    canary.add_argument("--detect", type=number(0), default=0.1, metavar="D", help="drop not missed [0.1]")
    canary.add_argument("--tolerate", type=number(0), default=0.0, metavar="D", help="drop accepted [0]")
    canary.add_argument("--minimum", type=whole(1), default=20, metavar="N", help="results of each side [20]")
    canary.add_argument("--on-worse", choices=("end", "freeze", "hold"), default="end", help="then [end]")
    canary.add_argument("--on-fine", choices=("hold", "end", "promote"), default="hold", help="then [hold]")
    _one(verb("approve", "Say yes to a release, where a gate asks for persons."), reason=True, scope=True)
    drill = verb("drill", "Tell how a drill with a release went.")
    _one(drill, reason=True)
    drill.add_argument("--drill", required=True, metavar="NAME", help="which drill")
    drill.add_argument("--outcome", choices=("pass", "fail"), required=True, help="how it went")


def _one(to: Parser, *, reason: bool = False, scope: bool = False) -> None:
    to.add_argument("release", metavar="NAME@REF")
    if reason:
        to.add_argument("--reason", required=True, metavar="R", help="why; it stands in the log")
    if scope:
        to.add_argument("--scope", default="*", metavar="S", help="a queue, or a folder as billing/* [*]")


def _add_gate(to: Subparsers) -> None:
    gate = command(
        to, "gate", "Gates: what a release takes to be promoted.",
        "  writ gate apply gates.toml --reason 'as agreed'",
    )  # fmt: skip
    verbs = gate.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    gate.commands = verbs.choices
    command(verbs, "list", "All gates.", prog="writ gate")
    apply = command(verbs, "apply", "Declare the gates of a TOML file: [gates.NAME].", prog="writ gate")
    apply.add_argument("file", metavar="FILE")
    apply.add_argument("--reason", default="declared", metavar="R", help="why [declared]")
    remove = command(verbs, "remove", "End a gate.", prog="writ gate")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--reason", required=True, metavar="R", help="why")


def _add_evaluate(to: Subparsers) -> None:
    evaluate = command(
        to, "evaluate", "Try a release on a data set, hold it against another, and record what that proves.",
        "  writ worker writ.evaluation.scoring --queue scoring        (scores; needed once)\n"
        "  writ evaluate run golden --process invoices@candidate --baseline invoices@live --gate\n"
        "  writ evaluate run golden --task extract_new --baseline-task extract",
    )  # fmt: skip
    verbs = evaluate.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    evaluate.commands = verbs.choices
    run = command(
        verbs, "run", "A job for each item and repeat of a plan, and the verdict on what they came to.",
        "  writ evaluate run golden --process invoices@candidate --html out.html",
        prog="writ evaluate",
    )  # fmt: skip
    run.add_argument("plan", metavar="PLAN", help="a .toml file, or a name: evaluations/PLAN.toml")
    run.add_argument("--process", metavar="NAME@REF", help="the release to try; without, just a task")
    run.add_argument("--baseline", metavar="NAME@REF", help="the release to hold it against")
    run.add_argument("--task", metavar="T", help="what is tried [the plan's]")
    run.add_argument("--baseline-task", metavar="T", help="what it is held against [--task, with --baseline]")
    run.add_argument("--repeats", type=whole(1), metavar="N", help="tries of each item [the plan's]")
    run.add_argument(
        "--fresh", action="store_true", help="try all anew, also what was tried of this release before"
    )
    run.add_argument("--gate", action="store_true", help="exit 0 for pass, 1 for fail, 4 for inconclusive")
    for form, what in (("junit", "JUnit XML"), ("markdown", "Markdown"), ("html", "a page with plots")):
        run.add_argument(f"--{form}", metavar="FILE", help=f"write {what} there")
    show = command(verbs, "show", "What evaluations and checks proved of a release.", prog="writ evaluate")
    _one(show)
