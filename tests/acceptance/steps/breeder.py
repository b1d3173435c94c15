"""Keeps so many workers alive: forks one for each that died, at a hundredth of the cost of a new interpreter.

python breeder.py TASKS COUNT QUEUE        ends, with all its workers, when its standard input ends
"""

from __future__ import annotations

import os
import select
import signal
import sys

from writ import Worker
from writ.workers import load


def main() -> None:
    tasks, count, queue = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    known = load(tasks)
    alive: set[int] = set()
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        while alive and (dead := os.waitpid(-1, os.WNOHANG)[0]):
            alive.discard(dead)
        while len(alive) < count:
            child = os.fork()
            if not child:
                Worker(queue, known, concurrency=3).run_sync()
                os._exit(0)
            alive.add(child)
    for child in alive:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
