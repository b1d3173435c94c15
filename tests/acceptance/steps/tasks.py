"""Tasks whose steps have effects on a counting service outside, and that die at chosen moments."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
from typing import Any

from writ import Context, NotDone, StepPolicy, task

_SERVICE = ("127.0.0.1", int(os.environ.get("COUNTING_PORT", "0")))
_MOMENTS = ("before", "begun", "done", "behind")
"""Of a step: ahead of it, within it and ahead of its effect, within it and behind its effect, behind it."""


def tell(**said: Any) -> Any:
    """One request to the service, answered."""
    with socket.create_connection(_SERVICE, timeout=10) as line:
        line.sendall(json.dumps(said).encode() + b"\n")
        return json.loads(line.makefile().readline())


class Fate:
    """In which moment of which step an attempt dies, if it does: drawn from its token, for each anew."""

    def __init__(self, ctx: Context, steps: int) -> None:
        draw = hashlib.sha256(f"{ctx.id} {ctx.fencing_token}".encode()).digest()
        self._step = draw[0] % (steps + 1)  # one of them is no step at all: then it lives
        self._moment = _MOMENTS[draw[1] % len(_MOMENTS)]

    def may_come(self, step: int, moment: str) -> None:
        if (step, moment) == (self._step, self._moment):
            tell(do="killed", moment=moment)
            os.kill(os.getpid(), signal.SIGKILL)


def _policy(kind: str, key: str) -> StepPolicy:
    def look(step: int, key: str) -> Any:
        done = tell(do="look", key=key)
        return step * 10 if done else NotDone

    def undo(_: Any) -> None:
        tell(do="undo", key=key)

    match kind:
        case "probe":
            return StepPolicy(probe=look)
        case "compensate":
            return StepPolicy(compensate=undo, on_unknown="compensate")
        case "repeat":
            return StepPolicy(idempotent=True)
        case _:
            return StepPolicy()


@task(name="steps.proof")
async def proof(kinds: list[str], ctx: Context) -> list[int]:
    fate = Fate(ctx, len(kinds))

    def effect(step: int, key: str) -> int:
        fate.may_come(step, "begun")
        tell(do="effect", key=key)
        fate.may_come(step, "done")
        return step * 10

    answers: list[int] = []
    for step, kind in enumerate(kinds):
        fate.may_come(step, "before")
        key = f"{ctx.id}/{step}/{kind}"
        answers.append(await ctx.step(f"{kind} {step}", effect, step, key, policy=_policy(kind, key)))
        fate.may_come(step, "behind")
    return answers


@task(name="steps.plainly")
def plainly(kinds: list[str], ctx: Context) -> list[int]:
    """The same in a thread."""
    fate = Fate(ctx, len(kinds))

    def effect(step: int, key: str) -> int:
        fate.may_come(step, "begun")
        tell(do="effect", key=key)
        fate.may_come(step, "done")
        return step * 10

    answers: list[int] = []
    for step, kind in enumerate(kinds):
        fate.may_come(step, "before")
        key = f"{ctx.id}/{step}/{kind}"
        answers.append(ctx.step_sync(f"{kind} {step}", effect, step, key, policy=_policy(kind, key)))
        fate.may_come(step, "behind")
    return answers
