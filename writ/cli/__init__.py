"""The command line, one of the ways in.

Starting fast is part of its job: this file and `parser.py` import next to nothing, and each command imports
what it needs when it runs. Exit codes: 0 done, 1 the answer is no, 2 usage, 3 cannot reach the service.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the return value is the process's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what the terminal cannot show is no reason to end
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_is_gone()
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    from .commands import run
    from .parser import parse
    from .usage import CommandError

    try:
        parsed = parse(arguments)
        return 0 if parsed is None else run(parsed)
    except CommandError as error:
        error.show()
        return error.code
    except BrokenPipeError:
        raise
    except Exception as error:
        from .failures import show

        return show(error, debug="--debug" in arguments)


def _reader_is_gone() -> int:
    """`writ jobs | head`: the rest has no reader. Nothing is wrong; the interpreter shall not complain."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
