"""What else is done to the system of `chaos` than to kill or stop a part of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.acceptance import clocks
from tests.acceptance.apart import Apart
from tests.acceptance.blocks import harm, sizes
from tests.acceptance.cluster import free_ports
from tests.acceptance.kills import checker, harness

if TYPE_CHECKING:
    from tests.acceptance.chaos import Chaos

ARRAY: Final = 250
"""Jobs in one submit, at most."""

CUT_S: Final = 8.0
"""Longer than it takes a cluster to elect another leader."""

DELAY_S: Final = 0.15
SHIFTED_S: Final = 4.0
SHIFTS_S: Final = (-86_400, -3_600, -60, -3, 3, 60, 3_600, 86_400)
FULL_S: Final = 4.0
_LONG_MS: Final = 6_000
_LONG: Final = 50
_SOME_BYTES: Final = 2_000_000
_CHUNK_BYTES: Final = 1 << 16
_LOOK_S: Final = 0.2
_AGAIN_S: Final = 60.0
"""Within which submits are refused, and done again."""

_NOTICED_S: Final = 60.0


class Lost(AssertionError):
    """What was acknowledged is not on the disk."""


async def lose_power(chaos: Chaos, _: str) -> None:
    """The disk is as it was on its plates; whatever used it is gone, and starts again. Raises Lost."""
    disk, cluster, log, intake = chaos.disk, chaos.cluster, harness.STREAM, "WRIT_SUBMIT"
    assert disk is not None
    assert cluster is not None
    disk.cut()
    await chaos.end_leaders()
    cluster.end(0)
    await asyncio.to_thread(disk.unmount)
    disk.mount()
    cluster.start(0)
    await cluster.whole(log)
    key = chaos.stage.directory / "keys" / "log.creds"
    stored = checker.fold(await checker.read_log(chaos.stage.url, key, log))
    waiting = (await cluster.stream(intake))["state"]["messages"]
    acknowledged = {e["id"] for e in checker.read_ledger(chaos.stage.ledger) if e["what"] == "ack"}
    missing = acknowledged - {name.partition("~")[2] for name in stored.jobs}
    if len(missing) > waiting * ARRAY:
        raise Lost(f"{len(missing)} of {len(acknowledged)} acknowledged jobs are gone")
    await chaos.start_node()


# --- cables -----------------------------------------------------------------------------------------------


async def pull_cable(chaos: Chaos, _: str) -> None:
    """Of the server that leads the log: nothing comes and goes, and nobody is told."""
    cluster, leads = await _leading(chaos)
    cluster.pull(leads)
    await asyncio.sleep(CUT_S)
    cluster.plug(leads)


async def slow_cable(chaos: Chaos, _: str) -> None:
    """Of the server that leads the log: all comes late, in both directions."""
    cluster, leads = await _leading(chaos)
    with cluster.slow(leads, DELAY_S):
        await asyncio.sleep(CUT_S)


async def _leading(chaos: Chaos) -> tuple[Apart, int]:
    assert isinstance(chaos.cluster, Apart)
    await chaos.whole()
    leads = await chaos.cluster.leader(harness.STREAM)
    assert leads is not None
    return chaos.cluster, leads


# --- clocks -----------------------------------------------------------------------------------------------


async def shift_clock(chaos: Chaos, part: str) -> None:
    """The wall clock of a part, or of the whole machine, jumps, and some seconds later jumps back."""
    pids = chaos.everything() if part == "machine" else [await chaos.pid(part)]
    by_s = chaos.rng.choice(SHIFTS_S)
    for pid in pids:
        with suppress(OSError):  # an attempt may have ended
            clocks.jump(pid, by_s)
    await asyncio.sleep(SHIFTED_S)
    for pid in pids:
        with suppress(OSError):
            clocks.jump(pid, 0)
    assert chaos.node.poll() is None, f"the node ended when a clock jumped by {by_s} s\n{chaos.stage.said()}"
    chaos.note({"what": "clock"})


# --- a disk without room ----------------------------------------------------------------------------------


async def fill_disk(chaos: Chaos, _: str) -> None:
    """Little room: submits are refused, with a reason. None at all: what runs ends or waits. Then room again,
    and submits are done.
    """
    assert chaos.disk is not None
    ballast, more = chaos.disk.path / "ballast", chaos.disk.path / "more"
    await chaos.submit([{"task": "on_the_loop", "input": {"ms": _LONG_MS}}] * _LONG)
    chaos.holds = True
    await chaos.until(lambda log: len(log.jobs) == chaos.jobs, "all submits are taken")
    await asyncio.to_thread(_take_room, ballast, _SOME_BYTES)
    await _until_submits(chaos, refused=True)
    await asyncio.to_thread(_take_room, more, 0)
    await asyncio.sleep(FULL_S)
    more.unlink()
    ballast.unlink()
    await _until_submits(chaos, refused=False)
    chaos.holds = False
    assert chaos.node.poll() is None, f"the node ended when its disk was full\n{chaos.stage.said()}"


def _take_room(path: Path, left: int) -> None:
    """Takes all room of a disk but so many bytes."""
    with path.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(_CHUNK_BYTES))
        file.truncate(max(0, file.tell() - left))


async def _until_submits(chaos: Chaos, *, refused: bool) -> None:
    """Submits one job after the other, until one of them is refused for want of room, or done."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _AGAIN_S
    while True:
        said = await chaos.probe()
        assert not said or "the disk of the node has" in said, f"refused for another reason: {said}"
        if bool(said) == refused:
            return
        assert loop.time() < until, f"a submit is {'done' if refused else 'refused'} still"
        await asyncio.sleep(_LOOK_S)


# --- damaged files ----------------------------------------------------------------------------------------


async def flip_block(chaos: Chaos, _: str) -> None:
    """Of one of the log's files, a bit."""
    await _damage(chaos, cut=False)


async def cut_block(chaos: Chaos, _: str) -> None:
    """Of one of the log's files, the end."""
    await _damage(chaos, cut=True)


async def _damage(chaos: Chaos, *, cut: bool) -> None:
    """Everything dies, and a node starts on a damaged copy of what was left: that is noticed, at its start or
    by one scrub, and the record or the file is named. Then all goes on with what was left itself.
    """
    stage, copy = chaos.stage, chaos.root / "damaged"
    known, newest = sizes(stage.directory), await chaos.newest()
    await chaos.until(lambda log: log.seq > newest, "the leader knows all that is to be damaged")
    await chaos.end_leaders()
    derived = shutil.ignore_patterns("views*", "metrics", "*.tmp")  # whose files come and go meanwhile
    await asyncio.to_thread(shutil.copytree, stage.directory, copy, ignore=derived)
    within = {copy / path.relative_to(stage.directory): size for path, size in known.items()}
    where = harm(within, chaos.rng, cut=cut)
    words = ("up", "--dir", str(copy), "--port", str(free_ports(1)[0]), "--http-port", "off")
    node, said = stage.run("damaged", *stage.writ(*words)), chaos.root / "damaged.log"
    try:
        loop = asyncio.get_running_loop()
        until = loop.time() + _NOTICED_S
        while not (found := _said(said) or await _scrubbed(copy)):
            assert loop.time() < until, f"{where} was not noticed within {_NOTICED_S:g} s\n{stage.said()}"
            await asyncio.sleep(_LOOK_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        await stage.broker_gone(copy)
    print(f"        {where}: {found}", flush=True)
    shutil.rmtree(copy, ignore_errors=True)
    said.unlink()
    await chaos.start_node()


def _said(path: Path) -> str:
    """The first error of a node that names a record or a file; empty while there is none."""
    lines = path.read_text(errors="replace").splitlines()
    wrong = [line for line in lines if " ERROR " in line or line.startswith("writ: ")]
    return next((line.strip() for line in wrong if "record " in line or ".blk" in line), "")


async def _scrubbed(directory: Path) -> str:
    """What one reading of the whole log finds; empty where that is nothing, or nobody answers."""
    scrub = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "writ", "audit", "verify", "--json", "--dir", str(directory)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    told = (await scrub.communicate())[0]
    if scrub.returncode != 1:
        return ""
    fault: dict[str, Any] = json.loads(told)["faults"][0]
    return f"a scrub: record {fault['seq']}: {fault['reason']}"


ACTS: Final[dict[str, Callable[[Chaos, str], Awaitable[None]]]] = {
    "lose": lose_power,
    "pull": pull_cable,
    "slow": slow_cable,
    "shift the clock of": shift_clock,
    "fill": fill_disk,
    "flip": flip_block,
    "cut": cut_block,
}
"""By what is done; each is called when enough leases are live, with the part."""
