"""Submits that are made at the same time share a message; alone, one goes at once and by itself."""

from __future__ import annotations

import asyncio
import json
from collections import deque

import pytest

from writ.broker.errors import NoResponders
from writ.broker.submits import MESSAGE_MAX_BYTES, Element, Together

WAIT_S = 5.0


class Intake:
    """Takes what is published, and answers when it is told to."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.firsts: list[str] = []
        self._answers: deque[asyncio.Future[int]] = deque()

    async def publish(self, queue: str, first: str, body: bytes, timeout_s: float) -> int:
        self.bodies.append(body)
        self.firsts.append(first)
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        return await answer

    async def store(self, error: Exception | None = None) -> None:
        """Answers the oldest publish, and lets everybody go on."""
        answer = self._answers.popleft()
        if error is None:
            answer.set_result(len(self.bodies))
        else:
            answer.set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def element(id: str, size: int = 0) -> Element:
    return Element(id, json.dumps({"id": id, "input": "x" * size}).encode(), False, id)


def ids(body: bytes) -> list[str]:
    return [job["id"] for job in json.loads(body)]


async def begun(together: Together, *elements: Element) -> list[asyncio.Task[tuple[int, int | None]]]:
    tasks = [asyncio.create_task(together.submit("q", each, WAIT_S)) for each in elements]
    await settle()
    return tasks


async def test_one_alone_goes_at_once_and_is_no_array() -> None:
    intake = Intake()
    together = Together(intake.publish)
    for number in (1, 2):
        (task,) = await begun(together, element("a"))
        await intake.store()
        assert await task == (number, None)
    assert [json.loads(body)["id"] for body in intake.bodies] == ["a", "a"]


async def test_those_that_come_meanwhile_go_together_in_their_order() -> None:
    intake = Intake()
    tasks = await begun(Together(intake.publish), *[element(str(n)) for n in range(6)])
    assert len(intake.bodies) == 1
    await intake.store()
    assert ids(intake.bodies[1]) == ["1", "2", "3", "4", "5"]
    assert intake.firsts == ["0", "1"]
    assert not any(task.done() for task in tasks[1:])
    await intake.store()
    assert await asyncio.gather(*tasks) == [(1, None), *[(2, index) for index in range(5)]]


async def test_queues_do_not_wait_for_each_other() -> None:
    intake = Intake()
    together = Together(intake.publish)
    tasks = [asyncio.create_task(together.submit(queue, element("a"), WAIT_S)) for queue in ("q", "r")]
    await settle()
    assert len(intake.bodies) == 2
    await intake.store()
    await intake.store()
    await asyncio.gather(*tasks)


async def test_a_message_stays_within_its_bounds() -> None:
    intake = Intake()
    large = MESSAGE_MAX_BYTES // 3
    tasks = await begun(Together(intake.publish), *[element(str(n), large) for n in range(6)])
    for _ in range(4):
        await intake.store()
    assert [len(ids(body)) for body in intake.bodies[1:3]] == [2, 2]
    assert max(map(len, intake.bodies)) <= MESSAGE_MAX_BYTES
    assert [index for _, index in await asyncio.gather(*tasks)] == [None, 0, 1, 0, 1, None]


async def test_what_fails_fails_for_those_in_the_message_and_the_next_goes_on() -> None:
    intake = Intake()
    together = Together(intake.publish)
    tasks = await begun(together, *[element(str(n)) for n in range(3)])
    await intake.store(NoResponders("x"))
    late = await begun(together, element("3"))
    await intake.store(NoResponders("x"))
    assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [NoResponders] * 3
    await intake.store()
    assert await late[0] == (3, None)


async def test_one_that_is_given_up_while_it_waits_is_not_sent() -> None:
    intake = Intake()
    tasks = await begun(Together(intake.publish), *[element(str(n)) for n in range(3)])
    tasks[1].cancel()
    await settle()
    await intake.store()
    assert json.loads(intake.bodies[1])["id"] == "2"
    await intake.store()
    assert await tasks[2] == (2, None)


async def test_a_sender_that_is_cancelled_leaves_the_others_their_turn() -> None:
    intake = Intake()
    tasks = await begun(Together(intake.publish), element("0"), element("1"))
    tasks[0].cancel()
    await settle()
    assert json.loads(intake.bodies[1])["id"] == "1"


async def test_a_turn_that_does_not_come_is_a_time_limit() -> None:
    intake = Intake()
    together = Together(intake.publish)
    await begun(together, element("0"))
    with pytest.raises(TimeoutError):
        await together.submit("q", element("1"), 0)
