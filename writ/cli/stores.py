"""The grammar of what is kept beside the log: assets."""

from __future__ import annotations

from .options import Parser, Subparsers, command, whole


def add(to: Subparsers) -> None:
    """Adds the commands."""
    _add_asset(to)


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


def _reason(parser: Parser) -> None:
    parser.add_argument("--reason", default="requested", help="why; kept in the log [requested]")
