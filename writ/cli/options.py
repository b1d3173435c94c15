"""What the commands' grammars are made of. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final, NoReturn, cast

from .usage import explain_usage

DEFAULT_DIRECTORY: Final = ".writ"
STATES: Final = (
    "scheduled",
    "pending",
    "suspended",
    "running",
    "retrying",
    "completed",
    "cancelled",
    "dead",
)

PARTITIONS_MAX: Final = 64
"""Each is a log with a leader and views of its own."""

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


def common() -> Parser:
    """Options that every command takes, before or after its name."""
    options = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    where = options.add_argument_group(
        "where to connect (else NATS_URL, NATS_NKEY, WRIT_TENANT, WRIT_PRINCIPAL, else the context in use, "
        "else the node of --dir)"
    )
    where.add_argument("--url", help="the broker, such as nats://127.0.0.1:4222")
    where.add_argument("--creds", metavar="FILE", help="file with the NKey seed of the principal")
    where.add_argument("--tenant", help="tenant [default]")
    where.add_argument("--principal", help="principal [owner]")
    where.add_argument("--context", metavar="NAME", help="a saved one, as in `writ context list`")
    where.add_argument("--dir", help=f"directory of a node on this machine [{DEFAULT_DIRECTORY}]")
    general = options.add_argument_group("general")
    general.add_argument(
        "--partition", type=whole(0), metavar="P", help="only this one of `writ partitions` [all, or 0]"
    )
    general.add_argument(
        "--json", action="store_true", help="one JSON document on stdout, nothing else there"
    )
    general.add_argument("--debug", action="store_true", help="show where an unexpected error came from")
    return options


class _Unasked:
    """In the place of a command that the words do not name: it takes all that a grammar is made of.

    Of 130 commands one is asked for, and making all of them takes longer than many a command.
    """

    def __getattr__(self, name: str) -> Any:
        return self._take

    def _take(self, *_: object, **__: object) -> _Unasked:
        return self


def command(to: Subparsers, name: str, about: str, examples: str = "", prog: str = "writ") -> Parser:
    """A command whose help ends with examples. Where `to.words` are there, one of them must be its name."""
    if isinstance(to, _Unasked):
        return cast(Parser, to)
    words = getattr(to, "words", None)
    if words is not None and name not in words:
        to.choices[name] = unasked = cast(Parser, _Unasked())  # mistakes name all that there are
        return unasked
    parser: Parser = to.add_parser(
        name,
        prog=f"{prog} {name}",
        description=about,
        epilog=f"examples:\n{examples}" if examples else None,
        parents=[common()],
        usage=None,
    )
    return parser


def fresh(parser: Parser) -> None:
    """How new the views must be that a read is answered from."""
    parser.add_argument(
        "--after", dest="min_position", type=whole(0), metavar="N",
        help="wait until the views tell of log record N [the newest]",
    )  # fmt: skip


def one_job(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="the job's id")
    parser.add_argument("--queue", metavar="Q", help="needed where several queues have the id")
    fresh(parser)


def watched(parser: Parser) -> None:
    """A listing."""
    parser.add_argument("--watch", action="store_true", help="keep showing; Ctrl-C ends it")
    fresh(parser)


def with_parent(parser: Parser) -> None:
    # For programs that start this one and must not leave it behind: it stops when its standard input ends.
    parser.add_argument("--until-stdin-ends", action="store_true", help=argparse.SUPPRESS)


def whole(least: int, most: int | None = None) -> Any:
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


OFF = "off"


def port_or_off(text: str) -> Any:
    """A port, or `off`."""
    return text if text == OFF else whole(1, 65_535)(text)


def origin(text: str) -> str:
    """Scheme and host of a server, and its port where it has an odd one."""
    if re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no origin; give it as https://writ.example.com")
    return text.lower()


def number(least: float) -> Any:
    """Numbers, of whatever unit an option names."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} is out of bounds; give {least:g} or more")
        return value

    return convert
