"""Mistakes on the command line, told so that the next try is right."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

USAGE = 2
UNREACHABLE = 3

_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*?)' \(choose from")


class CommandError(Exception):
    """A command cannot do what was asked: why, what to type next, and the exit code."""

    def __init__(self, message: str, next_: Sequence[str] = (), code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.next = tuple(next_)
        self.code = code

    def show(self) -> None:
        """Says it on standard error."""
        tell(self.message, self.next)


class UsageError(CommandError):
    """The command line itself is wrong."""

    def __init__(self, message: str, next_: Sequence[str] = ()) -> None:
        super().__init__(message, next_, USAGE)


def tell(message: str, next_: Sequence[str] = ()) -> None:
    """A mistake or failure, and what to type next, on standard error."""
    red, dim, plain = ("\033[31m", "\033[2m", "\033[0m") if _coloured() else ("", "", "")
    print(f"{red}writ:{plain} {message}", file=sys.stderr)
    for index, line in enumerate(next_):
        print(f"{dim}{'next: ' if index == 0 else '      '}{plain}{line}", file=sys.stderr)


def _coloured() -> bool:
    import os

    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    from difflib import get_close_matches

    candidates = list(known)
    found = get_close_matches(word, candidates, n=1, cutoff=0.5)
    if found:
        return found[0]
    return next((each for each in candidates if len(word) > 1 and each.startswith(word)), None)


def explain_usage(message: str, prog: str, options: Iterable[str], commands: Iterable[str]) -> UsageError:
    """What the argument parser found wrong, as a mistake with a way out."""
    choice = _CHOICE.match(message)
    if choice and choice[1] == "COMMAND":
        meant = nearest(choice[2], commands)
        if meant:
            return UsageError(f"there is no command {choice[2]!r}", [f"{prog} {meant}"])
        return UsageError(f"there is no command {choice[2]!r}", [f"{prog}            (lists what there is)"])
    if message.startswith("unrecognized arguments: "):
        word = message.removeprefix("unrecognized arguments: ").split()[0]
        meant = nearest(word.split("=")[0], options) if word.startswith("-") else None
        if meant:
            return UsageError(f"`{prog}` takes no {word}", [f"{prog} {meant} ..."])
        return UsageError(f"`{prog}` takes no {word!r}", [f"{prog} --help"])
    return UsageError(message, [f"{prog} --help"])
