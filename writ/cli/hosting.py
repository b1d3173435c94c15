"""The grammar of what the people of a node ask of it: its tenants, the version of records, partitions."""

from __future__ import annotations

from .options import PARTITIONS_MAX, Parser, Subparsers, command, whole


def add(to: Subparsers) -> None:
    """All of it."""
    tenant = command(
        to, "tenant", "Tenants: who shares the node, and what each may use.",
        "  writ tenant create acme --creds-out acme-owner.nk\n"
        "  writ tenant set acme --jobs 10000 --rate 50 --burst 200 --workers 8\n"
        "  writ tenant set acme --budget 25 --period day --reserve 0.05\n"
        "  writ tenant show                      (your own)",
    )  # fmt: skip
    verbs = tenant.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    tenant.commands = verbs.choices
    create = command(verbs, "create", "Make a tenant, with its first owner.", prog="writ tenant")
    create.add_argument("name", metavar="NAME", help="of the tenant")
    create.add_argument("--owner", default="owner", metavar="NAME", help="the first principal in it [owner]")
    keys = create.add_mutually_exclusive_group(required=True)
    keys.add_argument("--key", metavar="U...", help="the owner's public NKey")
    keys.add_argument("--creds-out", metavar="FILE", help="make a new key, with its seed in FILE (mode 0600)")
    _reason(create)
    command(verbs, "list", "All tenants, and what they use of what they may.", prog="writ tenant")
    show = command(verbs, "show", "One tenant's quotas and budget, and what is used.", prog="writ tenant")
    show.add_argument("name", metavar="NAME", nargs="?", help="[your own]")
    _add_set(verbs)
    upgrade = command(
        to, "upgrade", "Have records written in a newer version, once every orchestrator reads it. For good.",
        "  writ status                           (who reads what)\n"
        "  writ upgrade --reason 'all nodes are of the new release'",
    )  # fmt: skip
    upgrade.add_argument("--to", type=whole(1), metavar="N", help="the version [the newest of this Writ]")
    _reason(upgrade)
    _add_partitions(to)


def _add_set(verbs: Subparsers) -> None:
    setting = command(
        verbs, "set", "What a tenant may use; what is not given stays, and `none` takes a limit away.",
        prog="writ tenant",
    )  # fmt: skip
    setting.add_argument("name", metavar="NAME", help="of the tenant")
    setting.add_argument("--jobs", metavar="N", help="jobs that have not ended")
    setting.add_argument("--bytes", metavar="N", help="bytes of their inputs")
    setting.add_argument("--workers", metavar="N", help="workers that hold leases at the same time")
    setting.add_argument("--rate", metavar="N", help="jobs taken in a second")
    setting.add_argument("--burst", type=whole(1), metavar="N", help="jobs taken in at once [1]")
    setting.add_argument(
        "--budget", metavar="USD", help="what usage of models that have a price may cost in a period"
    )
    setting.add_argument(
        "--period", choices=("day", "month", "never"), help="when the budget begins anew, in UTC [day]"
    )
    setting.add_argument(
        "--reserve", metavar="USD",
        help="set apart of the budget before an attempt starts, where neither its job nor its queue says",
    )  # fmt: skip
    _reason(setting)


def _add_partitions(to: Subparsers) -> None:
    partitions = command(
        to, "partitions", "Partitions: how many logs there are, and which shards are in each.",
        "  writ partitions\n"
        "  writ partitions grow 4\n"
        "  writ partitions move invoices --to 2   (before the first job of it is submitted)",
    )  # fmt: skip
    verbs = partitions.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser)
    partitions.commands = verbs.choices
    grow = command(
        verbs, "grow", "Have more logs, while all goes on. The node has them led; shards stay.",
        prog="writ partitions",
    )  # fmt: skip
    grow.add_argument("count", type=whole(2, PARTITIONS_MAX), metavar="N", help="how many there shall be")
    move = command(
        verbs, "move", "Hand the shard of a queue over to another partition, while it holds nothing.",
        prog="writ partitions",
    )  # fmt: skip
    move.add_argument("queue", metavar="QUEUE")
    move.add_argument("--of", metavar="TENANT", help="whose queue it is [your own]")
    move.add_argument("--to", type=whole(0), metavar="P", required=True, help="number of the partition")
    _reason(move)


def _reason(parser: Parser) -> None:
    parser.add_argument("--reason", default="requested", help="why; kept in the log")
