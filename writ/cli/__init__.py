"""The command line, one of the ways in.

Starting fast is part of its job: this file and `parser.py` import next to nothing, and each command imports
what it needs when it runs. Exit codes: 0 done, 1 the answer is no, 2 usage, 3 cannot reach the service.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the return value is the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_is_gone()
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    from .parser import UsageError, dispatch, parse

    try:
        parsed = parse(arguments)
        return 0 if parsed is None else dispatch(parsed)
    except UsageError as error:
        error.show()
        return error.code
    except Exception as error:
        from .failures import show

        return show(error, debug="--debug" in arguments)


def _reader_is_gone() -> int:
    """`writ jobs | head`: the rest has no reader. Nothing is wrong, and the interpreter shall not complain."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
