"""The views of a node run in a process of their own: it lives as long as the node does, and no longer."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from writ.children import keeper
from writ.children.keeper import ChildFailed
from writ.children.share import YIELDING
from writ.cli.processes import new_loop
from writ.projections.registry import VIEWS
from writ.views.keeper import Settings, Views

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


class Processes:
    """A node that `writ up --detach` has started, by its processes."""

    def __init__(self, shell: Shell) -> None:
        up = shell("up", "--detach", "--json")
        assert up.code == 0, up.err
        self._shell = shell
        self.node: int = up.document["pid"]
        self.path = shell.directory / ".writ" / "views" / "jobs.db"

    def child(self, named: str) -> int | None:
        """The node's child with a word in its command line."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
                command = stat.with_name("cmdline").read_text().split("\0")
            except OSError:
                continue
            if int(parent) == self.node and state != "Z" and any(named in word for word in command):
                return int(stat.parent.name)
        return None

    @property
    def views(self) -> int:
        found = self.child("writ.views")
        assert found is not None
        return found

    @property
    def broker(self) -> int:
        found = self.child("nats-server")
        assert found is not None
        return found

    def another(self, named: str, before: int) -> None:
        """Waits until the child is there as another process."""
        self._shell.until(lambda: self.child(named) not in (None, before))


@pytest.fixture
def writ(writ: Shell) -> Iterator[Shell]:
    """`writ` in a directory where no node is left running, whatever became of the test."""
    yield writ
    writ("down")


def view(shell: Shell) -> dict[str, Any]:
    """What `writ status` tells of the jobs view."""
    return next(dict(each) for each in shell("status", "--json").document["views"] if each["name"] == "jobs")


def submit(shell: Shell) -> str:
    shown = shell("submit", "q", "t", '{"n": 1}')
    assert shown.code == 0, shown.err
    return shown.out.strip()


def listed(shell: Shell) -> set[str]:
    shown = shell("jobs", "--json")
    assert shown.code == 0, shown.err
    return {each["id"] for each in shown.document}


def test_the_views_yield_to_the_engine(writ: Shell) -> None:
    up = Processes(writ)
    own = os.getpriority(os.PRIO_PROCESS, up.node)
    threads = [int(each.name) for each in Path(f"/proc/{up.views}/task").iterdir()]
    shifts = [os.getpriority(os.PRIO_PROCESS, thread) - own for thread in threads]
    assert shifts.count(10) > len(VIEWS), "those that fold too, each of which has a niceness of its own"
    session = Path(f"/proc/{up.views}/autogroup")
    if session.exists() and session.read_text():  # Linux shares between sessions first

        def yields() -> bool:
            submit(writ)
            return session.read_text().endswith(f" nice {YIELDING}\n")

        writ.until(yields)
    assert writ("down").code == 0
    assert writ.processes() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_views_that_die_are_started_again_and_have_lost_nothing(number: signal.Signals, writ: Shell) -> None:
    up = Processes(writ)
    jobs = {submit(writ)}
    before = up.views
    os.kill(before, number)
    jobs.add(submit(writ))
    assert listed(writ) == jobs, "a query waits for their return"
    up.another("writ.views", before)
    assert writ("status", "--wait", "30").code == 0
    assert view(writ)["away"] is None
    assert f"ended {'by SIGKILL' if number == signal.SIGKILL else 'with code 0'}" in (
        (writ.directory / ".writ" / "node.log").read_text()
    )
    assert writ("down").code == 0
    assert writ.processes() == []


def test_while_the_views_are_away_the_node_works_and_says_so(writ: Shell) -> None:
    up = Processes(writ)
    jobs = {submit(writ)}
    assert listed(writ) == jobs
    aside = up.path.parent.with_suffix(".aside")
    os.kill(up.views, signal.SIGSTOP)
    up.path.parent.rename(aside)
    up.path.parent.write_text("no view can be opened here")
    os.kill(up.views, signal.SIGKILL)
    writ.until(lambda: "FileExistsError" in str(writ("status").out))
    shown = writ("status")
    assert shown.code == 1
    assert "has no leader" not in shown.out
    assert "0 jobs" not in shown.out, "nobody counts them"
    jobs.add(submit(writ))
    up.path.parent.unlink()
    aside.rename(up.path.parent)
    assert writ("status", "--wait", "30").code == 0
    assert listed(writ) == jobs
    assert writ("down").code == 0


def test_an_absent_view_has_the_position_of_its_file(writ: Shell) -> None:
    up = Processes(writ)
    submit(writ)
    assert len(listed(writ)) == 1
    seen = view(writ)["position"]
    told: dict[str, Any] = {}

    def away() -> bool:
        there = up.child("writ.views")
        if there is not None:
            os.kill(there, signal.SIGKILL)
        told.update(view(writ))
        return told["away"] is not None

    writ.until(away)
    assert told["away"].endswith("was ended by SIGKILL")
    assert told["position"] >= seen, "more may have been recorded meanwhile"
    assert told["lag"] == 0
    assert writ("down").code == 0


def test_nothing_outlives_a_node_that_is_killed(writ: Shell) -> None:
    up = Processes(writ)
    job = submit(writ)
    os.kill(up.node, signal.SIGKILL)
    writ.until(lambda: writ.processes() == [])
    Processes(writ)
    assert listed(writ) == {job}
    assert writ("down").code == 0
    assert writ.processes() == []


def test_the_views_outlive_a_broker_that_is_killed(writ: Shell) -> None:
    up = Processes(writ)
    jobs = {submit(writ)}
    views, broker = up.views, up.broker
    os.kill(broker, signal.SIGKILL)
    up.another("nats-server", broker)
    jobs.add(submit(writ))
    writ.until(lambda: listed(writ) == jobs)  # nobody is told at once that the broker is another one
    assert up.views == views
    assert writ("down").code == 0
    assert writ.processes() == []


def test_a_view_that_has_halted_stays_so_in_a_new_process(writ: Shell) -> None:
    up = Processes(writ)
    submit(writ)
    assert writ("jobs").code == 0
    assert writ("down").code == 0
    with closing(sqlite3.connect(up.path)) as db, db:
        db.execute("UPDATE position SET digest = 'another'")
    up = Processes(writ)

    def halted() -> bool:
        shown = writ("status")
        return shown.code == 1 and "view jobs has halted" in shown.out and "made anew" in shown.out

    writ.until(halted)
    before = up.views
    os.kill(before, signal.SIGKILL)
    up.another("writ.views", before)
    writ.until(halted)
    assert writ("down").code == 0


def test_a_view_whose_file_is_no_database_is_away_until_it_is_built_anew(writ: Shell) -> None:
    path = writ.directory / ".writ" / "views" / "jobs.db"
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text("not a database" * 100)
    Processes(writ)
    shown = writ("status")
    assert shown.code == 1
    assert "view jobs is away: DatabaseError: file is not a database" in shown.out
    assert "writ views rebuild jobs" in shown.out
    job = submit(writ)
    assert writ("views", "rebuild", "jobs", "--wait", "30").out == "view jobs was built anew\n"
    assert writ("status").code == 0
    assert listed(writ) == {job}
    assert writ("down").code == 0
    assert writ.processes() == []


def test_a_halted_view_is_built_anew_from_the_log_as_it_is(writ: Shell) -> None:
    up = Processes(writ)
    job = submit(writ)
    assert listed(writ) == {job}
    assert writ("down").code == 0
    with closing(sqlite3.connect(up.path)) as db, db:
        db.execute("UPDATE position SET digest = 'another'")
        db.execute("DELETE FROM jobs")
    asked = writ("views", "rebuild", "--all", "--wait", "30")
    assert "view jobs is built anew as soon as the node runs; it goes on answering meanwhile\n" in asked.out
    Processes(writ)
    writ.until(lambda: writ("status").code == 0)
    assert listed(writ) == {job}
    for each in writ("views", "list", "--json").document:
        assert (each["halted"], each["away"], each["building"]) == (None, None, None)
    assert writ("down").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jobs"], "has no views: no node ever ran in it"),
        (["tables"], "there is no view 'tables'; there are "),
        ([], "say which views, or --all"),
        (["jobs", "--all"], "say which views, or --all"),
    ],
)
def test_a_rebuild_that_cannot_be_says_why(words: list[str], said: str, writ: Shell) -> None:
    shown = writ("views", "rebuild", *words)
    assert shown.code in (1, 2)
    assert said in shown.err


def test_without_a_node_the_process_ends_before_it_began(tmp_path: Path) -> None:
    path = tmp_path / "views"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "writ.views", str(path)],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not path.exists()


async def test_views_that_do_not_end_are_ended_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "STOP_GRACE_S", 0.05)
    views = Views(tmp_path)
    await views.spawn()
    assert views.pid is not None
    os.kill(views.pid, signal.SIGSTOP)
    pid = views.pid
    async with asyncio.timeout(30):
        await views.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_views_that_die_before_they_are_told_anything_have_failed_and_no_more(
    tmp_path: Path,
) -> None:
    """On the loop that a node has: there, writing to a process that is gone is an error of its own."""

    async def die() -> None:
        views = Views(tmp_path)
        await views.spawn()
        assert views.pid is not None
        os.kill(views.pid, signal.SIGKILL)
        await views.ended()
        settings = Settings(str(tmp_path), "nats://127.0.0.1:1", "log", "answer", "system", 0, 1, 1, "0")
        with pytest.raises(ChildFailed, match="the process of the views was ended by SIGKILL"):
            await views.open(settings)
        await views.stop()

    with asyncio.Runner(loop_factory=new_loop()) as runner:
        runner.run(die())
