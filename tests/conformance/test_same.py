"""Random operations on the in-memory twin and on a real broker side by side: every outcome is the same."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from writ.broker.embedded import EmbeddedBroker
from writ.broker.log import PLAIN_MAX, JetStreamLog
from writ.broker.memory import MemoryIntake, MemoryLog
from writ.broker.ports import AppendFailed, Intake, Log, Message, Stored
from writ.schemas import bounds

if TYPE_CHECKING:
    from .conftest import JetStreamWire

Outcome = list[tuple[int, str, bytes]] | str | int


def seen(stored: list[Stored]) -> list[tuple[int, str, bytes]]:
    """What was read, but for when the broker stored it."""
    return [(one.seq, one.subject, one.body) for one in stored]


async def taken(reader: AsyncIterator[list[Stored]], count: int) -> list[Stored]:
    got: list[Stored] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += await anext(reader)
    return got


# --- a broker and a loop for all examples ---------------------------------------------------------------


class Stage:
    """One broker; each example has a log of its own, and the intake where the last one left it."""

    def __init__(self, runner: asyncio.Runner, wire: JetStreamWire) -> None:
        self.run: Callable[[Coroutine[Any, Any, None]], None] = runner.run
        self.wire = wire
        self._partitions = itertools.count()

    async def logs(self) -> tuple[MemoryLog, JetStreamLog]:
        number = next(self._partitions)
        return MemoryLog(number), await JetStreamLog.open(await self.link(), number)

    async def link(self) -> Any:
        return self.wire.links[0] if self.wire.links else await self.wire.link()

    async def intakes(self) -> tuple[MemoryIntake, Intake]:
        """Both empty, and at the same sequence."""
        memory, real = MemoryIntake(), await self.wire.intake()
        begin = await real.last_seq()
        await memory.purge(begin)
        await real.purge(begin)
        return memory, real


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, jetstream_wire: type[JetStreamWire]) -> Iterator[Stage]:
    directory: Path = tmp_path_factory.mktemp("same") / "writ"
    with asyncio.Runner() as runner:
        wire = jetstream_wire(runner.run(EmbeddedBroker.start(directory)))
        try:
            yield Stage(runner, wire)
        finally:
            runner.run(wire.close())


EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

# --- the log --------------------------------------------------------------------------------------------

KINDS = ("job", "worker")
WORDS = ("a", "b")
PATTERNS = (
    (),
    ("default.job.*",),
    ("*.worker.a~0",),
    (">",),
    ("default.job.a~0", "default.worker.>"),
    ("x.>",),
)


class Append(NamedTuple):
    """`off` is how far `after` is from the log's last; `large` makes one record too large."""

    size: int
    off: int
    kind: str
    word: str
    whole: bool
    large: int | None


class Read(NamedTuple):
    start: int
    patterns: tuple[str, ...]


class Follow(NamedTuple):
    """A reader that stays."""

    start: int
    patterns: tuple[str, ...]


class Catch(NamedTuple):
    """A reader that stays takes what has come."""

    which: int


class Last(NamedTuple):
    pass


APPEND = st.builds(
    Append,
    st.sampled_from([1, 2, PLAIN_MAX, PLAIN_MAX + 1, 20, bounds.BATCH_MAX_RECORDS + 1]),
    st.sampled_from([0, 0, 0, 0, -1, -2, 1, 2]),
    st.sampled_from(KINDS),
    st.sampled_from(WORDS),
    st.booleans(),
    st.none() | st.none() | st.none() | st.sampled_from([bounds.RECORD_MAX_BYTES, bounds.MESSAGE_MAX_BYTES]),
)
STARTS = st.integers(0, 30)
LOG_STEPS = st.lists(
    st.one_of(
        APPEND,
        st.builds(Read, STARTS, st.sampled_from(PATTERNS)),
        st.builds(Follow, STARTS, st.sampled_from(PATTERNS)),
        st.builds(Catch, st.integers(0, 2)),
        st.builds(Last),
    ),
    min_size=5,
    max_size=25,
)


class OfALog:
    """One log of the two, and what is asked of it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.followers: list[tuple[AsyncIterator[list[Stored]], Follow, list[Stored]]] = []

    def _subjects(self, patterns: tuple[str, ...]) -> list[str]:
        return [f"writ.log.{self.log.partition}.{pattern}" for pattern in patterns]

    async def _read(self, start: int, patterns: tuple[str, ...]) -> list[Stored]:
        return [m async for part in self.log.read(start, self._subjects(patterns)) for m in part]

    async def step(self, number: int, step: NamedTuple) -> Outcome:
        match step:
            case Append():
                return await self._append(number, step)
            case Read(start, patterns):
                return seen(await self._read(start, patterns))
            case Follow(start, patterns):
                reader = self.log.read(start, self._subjects(patterns), follow=True)
                self.followers.append((reader, step, []))
                return ""
            case Catch(which) if which < len(self.followers):
                reader, (start, patterns), before = self.followers[which]
                there = len(await self._read(start, patterns))
                before += await taken(reader, there - len(before))
                return seen(before)
            case _:
                return await self.log.last_seq()

    async def _append(self, number: int, step: Append) -> Outcome:
        last = await self.log.last_seq()
        subject = f"writ.log.{self.log.partition}.default.{step.kind}.{step.word}"
        messages = [Message(f"{subject}~{n % 3}", b'{"%d":%d}' % (number, n)) for n in range(step.size)]
        if step.large is not None:
            messages[number % step.size] = Message(f"{subject}~0", b"x" * (step.large + 1))
        try:
            await self.log.append(messages, max(0, last + step.off), whole=step.whole)
        except AppendFailed as failed:
            return type(failed).__name__
        return await self.log.last_seq()

    async def close(self) -> None:
        for reader, _, _ in self.followers:
            await reader.aclose()  # type: ignore[attr-defined]


@EXAMPLES
@given(steps=LOG_STEPS)
def test_the_twins_log_does_what_the_brokers_does(stage: Stage, steps: list[NamedTuple]) -> None:
    """The in-memory log against the real broker on random operation sequences."""

    async def compare() -> None:
        memory, real = [OfALog(log) for log in await stage.logs()]
        for number, step in enumerate(steps):
            assert await memory.step(number, step) == await real.step(number, step), step
        assert await memory.step(0, Read(1, ())) == await real.step(0, Read(1, ()))
        await memory.close()
        await real.close()

    stage.run(compare())


# --- the intake -----------------------------------------------------------------------------------------


class Submit(NamedTuple):
    queue: str
    body: bytes


class Take(NamedTuple):
    """Reads all that is there from a sequence on, counted from the example's first."""

    start: int


class Purge(NamedTuple):
    """Counted in the same way; it may lie ahead of all that is there."""

    up_to: int


INTAKE_STEPS = st.lists(
    st.one_of(
        st.builds(Submit, st.sampled_from(["mail", "bills"]), st.binary(max_size=20)),
        st.builds(Submit, st.sampled_from(["mail", "bills"]), st.binary(max_size=20)),
        st.builds(Take, st.integers(0, 15)),
        st.builds(Purge, st.integers(0, 15)),
        st.builds(Last),
    ),
    min_size=5,
    max_size=30,
)


@EXAMPLES
@given(steps=INTAKE_STEPS)
def test_the_twins_intake_does_what_the_brokers_does(stage: Stage, steps: list[NamedTuple]) -> None:
    """The in-memory intake against the real broker on random operation sequences."""

    async def take(intake: Intake, start: int, count: int) -> list[tuple[int, str, bytes]]:
        reader = intake.read(start)
        got = await taken(reader, count)
        await reader.aclose()  # type: ignore[attr-defined]
        return seen(got)

    async def compare() -> None:
        memory, real = await stage.intakes()
        base = await memory.last_seq()
        there: list[int] = []
        for step in steps:
            match step:
                case Submit(queue, body):
                    there.append(await memory.submit("default", "owner", queue, body))
                    await stage.wire.submit(body, queue)
                case Take(start):
                    count = sum(seq >= base + start for seq in there)
                    got = await take(memory, base + start, count)
                    assert got == await take(real, base + start, count)
                    assert [seq for seq, _, _ in got] == [seq for seq in there if seq >= base + start]
                case Purge(up_to):
                    await memory.purge(base + up_to)
                    await real.purge(base + up_to)
                    there = [seq for seq in there if seq > base + up_to]
                case _:
                    pass
            assert await memory.last_seq() == await real.last_seq(), step

    stage.run(compare())
