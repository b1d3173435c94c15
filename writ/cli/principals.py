"""The grammar of who there is and who may do what. Imports nothing heavy."""

from __future__ import annotations

from typing import Final

from .options import Parser, Subparsers, command, number, whole

ROLES: Final = (
    *("viewer", "submitter", "worker", "operator", "approver", "releaser", "auditor", "privacy_officer"),
    *("admin", "owner"),
)
COMMANDS: Final = frozenset(
    {
        "whoami",
        "can",
        "grant",
        "ungrant",
        "elevate",
        "approve-access",
        "decline-access",
        "principal",
        "token",
        "session",
    }
)


def add(to: Subparsers) -> None:
    """All of it."""
    _add_contexts(to)
    command(to, "whoami", "Who I am here, and what I was granted.", "  writ whoami")
    can = command(
        to, "can", "May I do this? Says which line of the policy decides; exits 1 where the answer is no.",
        "  writ can redrive billing\n  writ can erase\n  writ can submit billing --for robot",
    )  # fmt: skip
    can.add_argument("operation", metavar="VERB", help="an operation, as in `writ policy show`")
    can.add_argument("resource", metavar="RESOURCE", nargs="?", default="*", help="a queue, or a scope [*]")
    can.add_argument("--for", dest="name", metavar="NAME", help="another principal")
    _add_principal(to)
    _add_grants(to)
    _add_token(to)
    _add_session(to)
    policy = command(to, "policy", "The policy: which role allows what.", "  writ policy show")
    verbs = policy.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    policy.commands = verbs.choices
    command(verbs, "show", "Print it.", prog="writ policy")


def _add_contexts(to: Subparsers) -> None:
    login = command(
        to, "login", "Log in as a principal, and save that as the context to use.",
        "  writ login --url nats://writ.example:4222 --creds bob.nk --principal bob --save work",
    )  # fmt: skip
    login.add_argument("--save", metavar="NAME", help="what to call it [PRINCIPAL@TENANT]")
    context = command(
        to, "context", "Saved places and principals.", "  writ context list\n  writ context use work"
    )
    verbs = context.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    context.commands = verbs.choices
    command(verbs, "list", "All of them; * is in use.", prog="writ context")
    for verb, about in (("use", "Use one from now on; - for none."), ("remove", "Forget one.")):
        command(verbs, verb, about, prog="writ context").add_argument("name", metavar="NAME")


def _add_principal(to: Subparsers) -> None:
    principal = command(
        to, "principal", "Who there is: people, services and workers.",
        "  writ principal create bob --creds-out bob.nk\n"
        "  writ principal create robot --kind worker --key UABC...\n"
        "  writ principal revoke bob --reason left",
    )  # fmt: skip
    verbs = principal.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    principal.commands = verbs.choices
    listing = command(verbs, "list", "All of them, and what they hold.", prog="writ principal")
    listing.add_argument("--waiting", action="store_true", help="those for whom something is proposed")
    _named(command(verbs, "show", "One, with keys, tokens, grants and proposals.", prog="writ principal"))
    create = command(verbs, "create", "Make one known; it may do nothing yet.", prog="writ principal")
    _named(create)
    create.add_argument("--kind", choices=("person", "service", "worker"), default="person")
    keys = create.add_mutually_exclusive_group()
    keys.add_argument("--key", metavar="U...", help="its public NKey")
    keys.add_argument("--creds-out", metavar="FILE", help="make a new key, with its seed in FILE (mode 0600)")
    _reason(create)
    for verb, about in (("add-key", "It may log in with a further key."), ("remove-key", "A key is void.")):
        parser = command(verbs, verb, about, prog="writ principal")
        _named(parser)
        parser.add_argument("key", metavar="U...", help="the public NKey")
        _reason(parser)
    for verb, about in (
        ("revoke", "Nothing is answered to it any more, whatever it holds."),
        ("restore", "It is again what it was."),
    ):
        parser = command(verbs, verb, about, prog="writ principal")
        _named(parser)
        _reason(parser)


def _add_grants(to: Subparsers) -> None:
    for name, about in (
        ("grant", "Give a principal a role; one that takes two persons is proposed."),
        ("ungrant", "Take a role away, in the scope in which it was granted."),
        ("elevate", "Ask for a role for a time, for yourself; another person approves it."),
    ):
        who = "" if name == "elevate" else "bob "
        grant = command(
            to, name, about, f"  writ {name} {who}operator --in billing --reason 'on call'\n"
            f"  writ {name} {who}viewer --in 'billing/*' --reason 'new in the team'",
        )  # fmt: skip
        if who:
            _named(grant)
        grant.add_argument("role", metavar="ROLE", choices=ROLES, help=", ".join(ROLES))
        grant.add_argument(
            "--in", dest="scope", default="*", metavar="SCOPE",
            help="a queue, a beginning of queues' names as billing/*, or * for all [*]",
        )  # fmt: skip
        if name == "grant":
            grant.add_argument("--until", metavar="TIME", help="an RFC 3339 time [for good]")
        if name == "elevate":
            grant.add_argument(
                "--for", dest="for_minutes", type=number(1), default=60.0, metavar="MINUTES",
                help="at most 480 [60]",
            )  # fmt: skip
        _reason(grant, required=name == "elevate")
    for name, about in (
        ("approve-access", "Say yes to what was proposed for a principal."),
        ("decline-access", "Say no to what was proposed for a principal."),
    ):
        parser = command(to, name, about, f"  writ {name} bob 1")
        _named(parser)
        parser.add_argument("number", metavar="NUMBER", type=whole(1), help="of the proposal")
        _reason(parser)


def _add_token(to: Subparsers) -> None:
    token = command(
        to, "token", "API tokens, for HTTP. Only a digest of them is kept.",
        "  writ token create laptop\n  writ token create ci --for robot --until 2027-01-01T00:00:00Z\n"
        "  writ token revoke laptop",
    )  # fmt: skip
    verbs = token.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    token.commands = verbs.choices
    for verb, about in (
        ("create", "Make one, and print it this once."),
        ("list", "Those that there are."),
        ("revoke", "One counts no more."),
    ):
        parser = command(verbs, verb, about, prog="writ token")
        if verb != "list":
            parser.add_argument("token", metavar="TOKEN", help="what it is called")
            _reason(parser)
        if verb == "create":
            parser.add_argument("--until", metavar="TIME", help="an RFC 3339 time [for good]")
        parser.add_argument("--for", dest="name", metavar="NAME", help="of another principal")


def _add_session(to: Subparsers) -> None:
    session = command(
        to, "session", "Sessions of browsers, which have logged in to the HTTP API.",
        "  writ session list --for bob\n  writ session end http-12ab34cd56ef7890 --for bob --reason lost",
    )  # fmt: skip
    verbs = session.add_subparsers(dest="verb", metavar="COMMAND", parser_class=Parser, required=True)
    session.commands = verbs.choices
    listing = command(verbs, "list", "Those that are not over.", prog="writ session")
    end = command(verbs, "end", "One counts no more.", prog="writ session")
    end.add_argument("session", metavar="SESSION", help="what it is called")
    _reason(end)
    for parser in (listing, end):
        parser.add_argument("--for", dest="name", metavar="NAME", help="of another principal")


def _named(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="the principal")


def _reason(parser: Parser, *, required: bool = False) -> None:
    default = None if required else "requested"
    parser.add_argument("--reason", required=required, default=default, help="why; kept in the log")
