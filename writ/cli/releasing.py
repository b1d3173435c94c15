"""The grammar of processes and their releases. Imports nothing heavy."""

from __future__ import annotations

from .options import Parser, Subparsers, command


def add(to: Subparsers) -> None:
    """Adds the commands."""
    _add_projects(to)


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
        to, "run", "Run an entry point once, on a whole system in this process, and tell what happens.",
        "  writ run --entry main --input '{\"words\": [\"a\"]}'\n  writ run --entry main --input @input.json",
    )  # fmt: skip
    run.add_argument("--entry", default="main", metavar="E", help="of process.toml [main]")
    run.add_argument("--input", metavar="JSON|@FILE", help="what the task gets")
    run.add_argument("--yes", action="store_true", help="say yes where it asks for approval")
    _folder(run)


def _folder(to: Parser) -> None:
    to.add_argument("--folder", default=".", metavar="F", help="of the process [.]")
