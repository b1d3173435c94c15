"""`python -m writ.conformance COMMAND...`: runs a node, and a worker by its command, and tells what held."""

from __future__ import annotations

import asyncio
import sys

from .kit import check

_USAGE = """usage: python -m writ.conformance COMMAND [ARGUMENT ...]

Starts a node in a directory of its own and COMMAND beside it, which is to work on the queue that WRIT_QUEUE
names, as docs/worker-protocol.md says. Exits 1 where a case does not hold."""


def main() -> int:
    command = sys.argv[1:]
    if not command or command[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if command else 2
    failed = 0
    for verdict in asyncio.run(check(command)):
        failed += verdict.fault is not None
        print(f"ok    {verdict.case}" if verdict.fault is None else f"FAIL  {verdict.case}: {verdict.fault}")
    print("all cases hold" if not failed else f"{failed} cases do not hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
