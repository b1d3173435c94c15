"""The grammar of what is kept beside the log: assets, files, memory."""

from __future__ import annotations

from .options import Parser, Subparsers, command, whole


def add(to: Subparsers) -> None:
    """Adds the commands."""
    _add_asset(to)
    _add_file(to)
    _add_memory(to)


def _add_asset(to: Subparsers) -> None:
    asset = command(
        to, "asset", "Named values and secrets that jobs may read, as the policies of their queues grant.",
        "  writ asset set stripe-key --secret < key.txt\n  writ asset rotate stripe-key --file new-key.txt\n"
        "  writ asset list\n\n  [queues.billing.assets]\n  \"stripe-key\" = [\"invoices.*\"]",
    )  # fmt: skip
    verbs = asset.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    asset.commands = verbs.choices
    for name, about in (
        ("set", "Put a value away as the next version; it is read from standard input, or a file."),
        ("rotate", "The same for an asset that is there already."),
    ):
        parser = command(verbs, name, about, prog="writ asset")
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--file", metavar="FILE", help="read from here, byte by byte [standard input]")
        if name == "set":
            parser.add_argument("--secret", action="store_true", help="shown to nobody but jobs")
        else:
            parser.add_argument(
                "--forget", action="store_true", help="erase the values of all versions before, for good"
            )
        _reason(parser)
    get = command(verbs, "get", "The value of an asset; that of a secret is not shown.", prog="writ asset")
    get.add_argument("name", metavar="NAME")
    get.add_argument("--version", dest="number", type=whole(1), metavar="N", help="an older one [newest]")
    command(verbs, "list", "All assets, each with its newest version.", prog="writ asset")
    history = command(verbs, "history", "All versions of one, by whom and why.", prog="writ asset")
    history.add_argument("name", metavar="NAME")
    remove = command(verbs, "remove", "Remove one, and erase its values for good.", prog="writ asset")
    remove.add_argument("name", metavar="NAME")
    _reason(remove)


def _add_file(to: Subparsers) -> None:
    file = command(
        to, "file", "Files, known by what they hold: jobs take and return references to them.",
        "  writ file put scan.pdf\n  writ file get 9f86d081... --out scan.pdf\n  writ file list",
    )  # fmt: skip
    verbs = file.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    file.commands = verbs.choices
    put = command(verbs, "put", "Keep a file, and print the reference to it.", prog="writ file")
    put.add_argument("path", metavar="FILE", help="`-` reads standard input")
    put.add_argument("--name", help="what it is called [the name of FILE]")
    put.add_argument("--media", metavar="TYPE", help="its media type")
    put.add_argument(
        "--keep-days", type=whole(1), metavar="N", default=30, help="from the last time that it is put [30]"
    )
    get = command(verbs, "get", "Write a file to standard output, or to --out.", prog="writ file")
    get.add_argument("sha256", metavar="SHA256")
    get.add_argument("--out", metavar="FILE")
    command(verbs, "list", "All files.", prog="writ file")
    remove = command(verbs, "remove", "Delete a file.", prog="writ file")
    remove.add_argument("sha256", metavar="SHA256")


def _add_memory(to: Subparsers) -> None:
    memory = command(
        to, "memory", "What runs and agents remember.",
        "  writ memory list --queue support --agent triage\n"
        "  writ memory forget --queue support --run 01JABC",
    )  # fmt: skip
    verbs = memory.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    memory.commands = verbs.choices
    for name, about in (
        ("list", "The keys that there are."),
        ("get", "A value, as JSON."),
        ("forget", "Delete a value, or all without KEY."),
    ):
        parser = command(verbs, name, about, prog="writ memory")
        if name != "list":
            parser.add_argument("key", metavar="KEY", nargs="?" if name == "forget" else None)
        parser.add_argument("--queue", metavar="Q", required=True)
        parser.add_argument("--run", metavar="ID", help="that of a job")
        parser.add_argument("--agent", metavar="NAME", help="that of an agent of the queue")


def _reason(parser: Parser) -> None:
    parser.add_argument("--reason", default="requested", help="why; kept in the log [requested]")
