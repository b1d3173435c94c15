"""Attempts in processes of their own, at every level that this machine has, in real workers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ import Client, JobCancelled, JobFailed, Limits, QueuePolicy, Retry, Target, Worker
from writ.orchestrator.replay.verify import verify
from writ.schemas.codec import decode
from writ.schemas.events import (
    Fact,
    JobSnoozed,
    JobSuspended,
    ProgressReported,
    WorkerSeen,
)
from writ.schemas.policy import Isolation
from writ.schemas.steps import StepCompensated, StepDone, StepIntended, ToolCalled, UsageRecorded
from writ.workers.errors import WorkerError
from writ.workers.load import load
from writ.workers.runner.levels import lacking
from writ.workers.tasks import schemas_of

from .isolation import ends
from .isolation.escapes import ESCAPES

if TYPE_CHECKING:
    from .conftest import Live, Place
else:
    Live = Any

HERE = Path(__file__).parent / "isolation"
LEVELS = ("plain", "landlock", "bubblewrap")


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    """A level that this machine has."""
    wanted: str = request.param
    lacks = lacking(Isolation(wanted))
    if lacks is not None:
        pytest.skip(f"not run: {lacks}")
    return wanted


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with things in it that nobody else shall read."""
    home = tmp_path_factory.mktemp("home")
    (home / "diary.txt").write_text("dear diary")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text("a key")
    return home


@contextmanager
def working(
    place: Place, home: Path, module: str, queue: str, level: str, *options: str
) -> Generator[subprocess.Popen[bytes]]:
    """A worker with a home and a broker's key of its own in its environment; ended with the block."""
    for file in HERE.glob("*.py"):
        shutil.copy(file, place.root)
    (place.root / "bystander.py").touch()
    (place.root / ".env").write_text("TOKEN=secret")
    key = place.json("env")["NATS_NKEY"]
    before = {name: os.environ.get(name) for name in ("HOME", "WRIT_CANARY", "WRIT_KEY_CANARY")}
    os.environ.update(HOME=str(home), WRIT_CANARY="canary", WRIT_KEY_CANARY=key)
    try:
        with place.worker(module, "--queue", queue, "--isolate", level, *options) as worker:
            yield worker
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def roots(worker: subprocess.Popen[bytes]) -> list[Path]:
    """Where a worker's attempts have their folders."""
    return list(Path(tempfile.gettempdir()).glob(f"writ-run-{worker.pid}-*"))


def living_in(folders: list[Path]) -> list[int]:
    """The processes that work below some folders."""
    found: list[int] = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            where = os.readlink(each / "cwd")
        except OSError:
            continue
        if any(where.startswith(str(folder)) for folder in folders):
            found.append(int(each.name))
    return found


def test_whatever_a_task_does_it_ends_with_its_class_and_harms_nobody(
    place: Place, home: Path, level: str
) -> None:
    """Must hold: a task that blocks the event loop; spins the CPU; eats memory to its limit; forks 200
    children; writes 10 GB; ignores SIGTERM; closes its stdout; prints 100 MB; returns 50 MB; raises with a
    10 MB message; calls `os._exit`; dies by SIGSEGV. Each ends with the right class and text, within its
    limit plus 5 s, no process or file left behind, and the other jobs on that worker unharmed.
    """
    queue = f"deadly-{level}"
    with working(place, home, "deadly.py", queue, level, *ends.OPTIONS) as worker:
        place.writ("submit", queue, "closes_its_stdout", "--wait")
        ends.submit(place, queue, ends.CASES)
        place.until(lambda: ends.over(place, queue), max(each.limit_s for each in ends.CASES) + 60)
        found = {job["id"]: job for job in place.json("jobs", "--queue", queue)}
        for case in ends.CASES:
            ends.judge(case, found[f"{case.task}-{queue}"])
        for case in ends.LOOKED_AT:
            ends.judge_records(case, place.json("job", f"{case.task}-{queue}")["records"], level)
        place.until(lambda: not ends.left_over(worker.pid, level))
        files = [each for root in roots(worker) for each in root.rglob("*") if each.is_file()]
        assert files == [], "files are left"
    assert roots(worker) == []


def test_a_killed_worker_leaves_no_process_and_no_file(place: Place, home: Path, level: str) -> None:
    """A worker that is killed takes its attempts with it, also what has made itself a session of its own."""
    queue = f"killed-{level}"
    with working(place, home, "deadly.py", queue, level) as worker:
        place.writ("submit", queue, "keeps", '{"seconds": 600}', "--id", f"keeps-{level}")
        place.until(
            lambda: any(root.rglob("treasure") and list(root.rglob("treasure")) for root in roots(worker))
        )
        folders = roots(worker)
        place.until(lambda: len(living_in(folders)) >= 2)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        place.until(lambda: not living_in(folders))
    if level == "bubblewrap":  # the sandbox was killed with its guard in it: the next worker clears up
        with working(place, home, "deadly.py", queue, level):
            place.until(lambda: not any(folder.exists() for folder in folders))
    place.until(lambda: not any(folder.exists() for folder in folders))


@pytest.fixture
def aims(place: Place, home: Path, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What an attempt would like to reach: all of it is there."""
    for name in ("to-delete", "to-rename", "to-cut"):
        (tmp_path / name).write_text("here")
    sockets = tempfile.mkdtemp()
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(f"{sockets}/socket")
        unix.listen()
        abstract.bind(f"\0writ-{os.getpid()}")
        abstract.listen()
        yield {
            "home": str(home),
            "key": place.json("env")["NATS_NKEY"],
            "node": str(place.root / ".writ" / "node.json"),
            "project": str(place.root),
            "outside": str(tmp_path),
            "tcp": tcp.getsockname()[1],
            "udp": udp.getsockname()[1],
            "unix": f"{sockets}/socket",
            "abstract": f"writ-{os.getpid()}",
        }
    shutil.rmtree(sockets)


def test_forty_attempts_to_escape_are_refused_where_it_is_promised(
    place: Place, home: Path, level: str, aims: dict[str, Any]
) -> None:
    """Must hold: 40 escape attempts per isolation level (read another job's directory, the home directory,
    the broker's credentials, the environment; signal the parent; reach the network; ptrace; write outside)
    are all refused at the level that promises it; at `plain` the unpromised ones succeed, as a control. A
    level that the machine lacks is reported as not run.
    """
    assert len(ESCAPES) >= 40
    queue = f"escapes-{level}"
    with (
        working(place, home, "deadly.py", f"victim-{level}", level) as victim,
        working(place, home, "escapes.py", queue, level),
    ):
        place.writ("submit", f"victim-{level}", "keeps", '{"seconds": 600}', "--id", f"victim-{level}")
        place.until(lambda: any(list(root.rglob("treasure")) for root in roots(victim)))
        (treasure,) = [found for root in roots(victim) for found in root.rglob("treasure")]
        folder = treasure.parent
        other = next(pid for pid in living_in([folder]) if os.getsid(pid) == pid and os.getpgid(pid) == pid)
        aim = {**aims, "folder": str(folder), "other": other, "worker": victim.pid}
        done = place.writ("submit", queue, "try_all", json.dumps(aim), "--wait")
        came: dict[str, str] = json.loads(done.stdout)
        seen: dict[str, str] = json.loads(place.writ("submit", queue, "look_around", "--wait").stdout)
        victim.terminate()  # and once more at the end of the block: what runs is not waited for
    assert set(came) == set(ESCAPES)
    got_out = {name for name, how in came.items() if how == "out"}
    print(f"{level}: {len(came) - len(got_out)} of {len(came)} refused")
    if level == "plain":
        yama = Path("/proc/sys/kernel/yama/ptrace_scope")
        traced = yama.exists() and yama.read_text().strip() != "0"
        by_the_machine = {name for name in came if traced and ("trace" in name or "memory" in name)}
        assert set(came) - got_out - by_the_machine == set(), came
    else:
        assert got_out == set(), {name: came[name] for name in got_out}
    for what, handed in seen.items():
        for secret in ("canary", aims["key"], "NATS_", "WRIT_", str(place.root / ".writ")):
            assert secret not in handed, f"{secret} is in its {what}"


def test_a_queue_that_demands_a_level_refuses_a_worker_that_does_not_reach_it(
    place: Place, home: Path
) -> None:
    """A policy may demand a minimum, and then it fails closed; the level reached is in the record."""
    if (lacks := lacking(Isolation.LANDLOCK)) is not None:
        pytest.skip(f"not run: {lacks}")
    (place.root / "tight.toml").write_text('[queues.tight]\nisolation = "landlock"\n')
    place.writ("apply", "tight.toml")
    place.writ("submit", "tight", "closes_its_stdout", "--id", "tight-1")
    for options in ((), ("--isolate", "plain")):
        shutil.copy(HERE / "deadly.py", place.root)
        ended = place.writ("worker", "deadly.py", "--queue", "tight", *options, check=False)
        assert ended.returncode == 1
        assert "wants isolation landlock" in ended.stderr
    assert place.json("job", "tight-1")["state"] == "pending"
    with working(place, home, "deadly.py", "tight", "landlock"):
        place.until(lambda: place.json("job", "tight-1")["state"] == "completed")
    records = place.json("job", "tight-1")["records"]
    said = {e["type"]: e["data"].get("isolation") for r in records for e in r["record"]["events"]}
    assert said["lease_granted"] == said["job_completed"] == "landlock"
    assert place.writ("replay", "--verify").returncode == 0


def test_a_level_that_the_machine_lacks_is_said_at_the_start(place: Place) -> None:
    """Exit code 2, and what to install."""
    shutil.copy(HERE / "deadly.py", place.root)
    ended = subprocess.run(
        [sys.executable, "-m", "writ", "worker", "deadly.py", "--isolate", "bubblewrap"],
        cwd=place.root,
        env={"PATH": "/nowhere", "HOME": str(place.root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "apt install bubblewrap" in ended.stderr or "Landlock" in ended.stderr


# --- the context ----------------------------------------------------------------------------------------


@asynccontextmanager
async def isolated(live: Live, level: str) -> AsyncGenerator[Client]:
    """A client beside a worker with isolated attempts, one at a time: what waits gives its slot back."""
    target = Target(live.node.url, live.node.broker.key_path("owner"))
    module = str(HERE / "whole.py")
    worker = Worker("q", module, concurrency=1, target=target, wait_s=0.5, isolate=level)
    running = asyncio.create_task(worker.run())
    try:
        async with Client(target) as client:
            yield client
    finally:
        worker.drain()
        await running


async def comes(live: Live, kind: type[Fact], id: str, count: int = 1) -> None:
    """Waits until a job has so many events of a kind."""
    seen = 0
    async with asyncio.timeout(30):
        async for part in live.log.read(1, follow=True):
            for message in part:
                record = decode(message.body)
                seen += record.key == f"q~{id}" and any(isinstance(event, kind) for event in record.events)
                if seen >= count:
                    return


@pytest.mark.parametrize("task", ["uses_all", "uses_all_plainly"])
async def test_an_isolated_attempt_has_the_whole_context(
    live: Live, level: str, task: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps, tools, usage, waits, children, checkpoints, log: as without isolation."""
    caplog.set_level("INFO", "writ.task")
    async with isolated(live, level) as client:
        job = await client.submit("q", task, id="whole")
        await comes(live, JobSuspended, "whole")
        await client.signal("whole", "q", "go", {"far": 1})
        await comes(live, JobSuspended, "whole", 2)
        await client.approve("whole", "q", "it may", data="yes")
        found = await client.result(job, timeout_s=60)
    attempt, failed = found.pop("attempt"), found.pop("failed")
    assert "as it was to" in failed
    assert found == {
        "step": 42,
        "tool": "WORD",
        "signal": {"far": 1},
        "approval": "yes",
        "child": 3,
        "children": [2, 4],
        "id": "whole",
        "queue": "q",
        "task": task,
        "tenant": "default",
        "key": "default/q/whole",
        "cancelled": False,
        "fenced": True,
        "around": "whole of q",
        "details": {"behind": "the signal"},
    }
    events = [event for record in await live.records() for event in record.events]
    waits = [event for event in events if isinstance(event, JobSuspended | JobSnoozed)]
    assert attempt == 1 + len(waits) == 7
    for kind in (StepIntended, StepDone, ToolCalled, UsageRecorded, ProgressReported):
        assert any(isinstance(event, kind) for event in events), kind.__name__
    assert any("begins with {'behind': 'the signal'}" in record.getMessage() for record in caplog.records)
    await live.check()
    assert not (await verify(live.log)).faults


async def test_an_isolated_worker_tells_what_its_tasks_take(live: Live, level: str) -> None:
    """Forms for jobs are made of it; the module is imported by the process that starts the attempts."""
    async with isolated(live, level):
        record = await live.until(lambda record: isinstance(record.events[0], WorkerSeen))
    (seen,) = record.events
    assert isinstance(seen, WorkerSeen)
    there = schemas_of({each.name: each for each in load(str(HERE / "whole.py"))})
    assert seen.tasks == there
    assert '"b":{"type":"integer"}' in there["adds"]


async def test_what_an_isolated_attempt_says_and_hears_goes_over_while_it_runs(
    live: Live, level: str
) -> None:
    async with isolated(live, level) as client:
        policy = QueuePolicy(retry=Retry(initial_interval_s=0.1), limits=Limits(lease_s=1.5))
        await client.declare_queue("q", policy, "soon")
        assert await client.result(await client.submit("q", "leaves"), timeout_s=30) == {"at": 7}
        stopped = await client.submit("q", "goes_on", id="stopped")
        await comes(live, ProgressReported, "stopped")
        assert msgspec.json.decode((await client.job("stopped", "q")).progress)["progress"] == {"done": 1}
        await client.cancel("stopped", "q")
        with pytest.raises(JobCancelled):
            await client.result(stopped, timeout_s=30)
        hears = await client.submit("q", "hears", id="hears")
        await comes(live, ProgressReported, "hears")
        await client.signal("hears", "q", "go", "on")
        assert await client.result(hears, timeout_s=30) == "on"
        with pytest.raises(JobFailed, match="policy is never retried"):
            await client.result(await client.submit("q", "regrets", id="regrets"), timeout_s=30)
        await comes(live, StepCompensated, "regrets")
        with pytest.raises(JobFailed, match="an isolated attempt may give them"):
            await client.result(await client.submit("q", "asks_too_much"), timeout_s=30)
    assert not any(isinstance(event, JobSuspended) for r in await live.records() for event in r.events)


def test_what_stands_around_isolated_tasks_is_given_to_them(place: Place) -> None:
    with pytest.raises(WorkerError, match="@task"):
        Worker("q", str(HERE / "whole.py"), isolate="plain", around=[lambda _: nullcontext()])
    ended = place.writ("worker", str(HERE / "whole.py"), "--isolate", "plain", "--traces", check=False)
    assert ended.returncode == 2
    assert "--traces looks into attempts" in ended.stderr
