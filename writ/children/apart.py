"""Commands of Writ that a node runs beside itself, each in a process that yields and ends when it is done."""

from __future__ import annotations

import asyncio
from contextlib import closing
from subprocess import PIPE, Popen

from writ.cli.processes import writ_command

from .share import give_way


async def run_apart(*words: str) -> tuple[int, bytes]:
    """The exit code of a command, and what it printed as JSON. It is killed where this is cancelled.

    Raises OSError where no process is to be had.
    """
    command = writ_command(*words, "--json", "--until-stdin-ends")
    # Not as the loop would start it: uvloop forks, which holds up the loop for as long as the tables of this
    # process's memory take to copy, 10 to 15 ms for 140 MB. This takes less than 2, whatever there is.
    process = Popen(command, stdin=PIPE, stdout=PIPE, start_new_session=True)  # noqa: ASYNC220
    give_way(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    loop = asyncio.get_running_loop()
    try:
        output = asyncio.StreamReader()
        reading, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), process.stdout
        )
        with closing(reading):
            said = await output.read()
        return await asyncio.to_thread(process.wait), said
    finally:
        process.stdin.close()
        if process.poll() is None:
            process.kill()
            process.wait()
