"""What the keeper does for user code that waits: starts children, asks how they stand, tells of progress."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from writ.broker.errors import PermissionDenied, SubmitNotStored, Unreachable, WireError
from writ.broker.submits import check_submit, lost_number
from writ.broker.wire import Wire
from writ.schemas.assets import AssetTold, ReadAsset
from writ.schemas.bounds import AFTER_MAX, STEPS_MAX, TOKEN_MAX_BYTES
from writ.schemas.commands import Progress, Reported
from writ.schemas.ids import job_key
from writ.schemas.lifecycle import TERMINAL, State
from writ.schemas.notes import ChildSeen, Recall, Recalled
from writ.schemas.rejections import RejectionKind
from writ.schemas.stores import STORE_VERBS, OfMemory
from writ.schemas.subjects import submit_subject

from .asking import Asking, Refused, TryLater
from .errors import Cancelled
from .faults import Stop
from .steps import StepRefused

if TYPE_CHECKING:
    from .line import Post
    from .redaction import Redactor
    from .run import Run

log = logging.getLogger("writ.worker")
T = TypeVar("T")
TIMEOUT_S: Final = 5.0
STORE_TIMEOUT_S: Final = 30.0
OF_TASKS: Final = (
    *("put_part", "put_file", "find_file", "get_part"),
    *("read_memory", "write_memory", "forget_memory", "list_memory"),
)
"""What a task may ask the storehouse for."""

TAKEN_WITHIN_S: Final = 15.0
"""How long a child may not be there while the orchestrator answers and does not say how far it has come."""

_TRIES_MAX: Final = 100
_encode = msgspec.json.Encoder().encode


class Call(NamedTuple):
    """A child that a task wants; `options` are those of a submit."""

    task: str
    queue: str
    input: Any
    options: dict[str, Any]


class ToChildren(msgspec.Struct, frozen=True, tag="children"):
    """Asks for the children of a step, started where they are not there; see `Errands.children`."""

    step: int
    calls: tuple[Call, ...]
    anew: bool


class ToSay(msgspec.Struct, frozen=True, tag="say"):
    """Asks to have stored what a run says of itself."""


class ToAsset(msgspec.Struct, frozen=True, tag="asset"):
    """Asks for the value of an asset; see `ReadAsset`."""

    name: str
    secret: bool
    version: int | None = None


class ToStore(msgspec.Struct, frozen=True, tag="store"):
    """Asks a verb of the storehouse. Of memory it is that of the run itself, or of an agent of its queue."""

    verb: str
    body: msgspec.Raw


Errand = ToChildren | ToSay | ToAsset | ToStore
ERRAND_ANSWERS: Final[dict[type[Any], Any]] = {
    ToChildren: list[ChildSeen],
    ToSay: list[ChildSeen],
    ToAsset: AssetTold,
    ToStore: msgspec.Raw,
}
"""What each is answered with; what is said, with no children."""


class Errands:
    """Does on the keeper's loop what user code asks for from any other. What is asked is told as a message,
    so that it may come from another process.
    """

    def __init__(
        self,
        wire: Wire,
        asking: Asking,
        post: Post,
        entropy: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        redactor: Redactor,
    ) -> None:
        self._wire = wire
        self._asking = asking
        self._post = post
        self._entropy = entropy
        self._loop = loop
        self._redactor = redactor

    def begin(self, run: Run, errand: Errand) -> Future[Any]:
        """Starts an errand; from any thread. What it is answered with says `ERRAND_ANSWERS`."""
        return asyncio.run_coroutine_threadsafe(self._do(run, errand), self._loop)

    async def _do(self, run: Run, errand: Errand) -> Any:
        match errand:
            case ToChildren():
                return await self.children(run, errand.step, errand.calls, errand.anew)
            case ToSay():
                await self.say(run)
                return []
            case ToAsset():
                return await self.asset(run, errand)
            case ToStore():
                return await self.store(run, errand)

    # --- assets -----------------------------------------------------------------------------------------

    async def asset(self, run: Run, wanted: ToAsset) -> AssetTold:
        """A version of an asset, which is recorded as read. Raises StepRefused where the job may not."""

        async def once() -> AssetTold:
            command = ReadAsset(
                self._post.worker, run.lease.id, run.lease.token, wanted.name, wanted.secret, wanted.version
            )
            return await self._asking.ask(run.queue, "read_asset", command, AssetTold, TIMEOUT_S)

        told = await self._until_answered(run, once)
        if told.secret:
            self._redactor.learn(told.value)
        return told

    # --- progress ---------------------------------------------------------------------------------------

    async def say(self, run: Run) -> None:
        """Stores the newest that a run says of itself. Raises Cancelled for a void lease, StepRefused."""

        async def once() -> None:
            content = msgspec.Raw(run.said.newest())  # a repetition must not undo what was said since
            command = Progress(self._post.worker, run.lease.id, run.lease.token, content)
            answer = await self._asking.ask(run.queue, "progress", command, Reported, TIMEOUT_S)
            if answer.refused:
                rejection = answer.refused[0]
                raise (TryLater if rejection.kind is RejectionKind.TRY_LATER else Refused)(rejection)

        await self._until_answered(run, once)

    # --- files and memory ---------------------------------------------------------------------------------

    async def store(self, run: Run, asked: ToStore) -> msgspec.Raw:
        """What the storehouse answers. Raises StepRefused where it refuses."""
        if asked.verb not in OF_TASKS:
            raise StepRefused(f"a task asks the storehouse for {asked.verb!r}; it may {', '.join(OF_TASKS)}")
        kind, answer = STORE_VERBS[asked.verb]
        try:
            command: Any = msgspec.json.decode(asked.body, type=kind)
        except msgspec.MsgspecError as error:
            raise StepRefused(f"{asked.verb}: {error}") from error
        if isinstance(command, OfMemory):
            command = replace(command, run=None if command.agent is not None else run.lease.id)

        async def once() -> Any:
            return await self._asking.store(run.queue, asked.verb, command, answer, STORE_TIMEOUT_S)

        return msgspec.Raw(_encode(await self._until_answered(run, once)))

    # --- children ---------------------------------------------------------------------------------------

    async def children(self, run: Run, step: int, calls: Sequence[Call], anew: bool) -> list[ChildSeen]:
        """How the children of a step stand, in their order; those that are not there yet are started.

        One that has ended otherwise than completed is started again where `anew` says so, as another job.
        Raises StepRefused where one cannot be submitted.
        """
        found = await self._newest(run, step, len(calls), calls)
        starting: list[int] = []
        for place, (child, tries) in enumerate(found):
            failed = child is not None and child.state in TERMINAL and child.state is not State.COMPLETED
            if child is None or (failed and anew):
                starting.append(place)
                found[place] = (None, tries + 1)
        keys = [
            (child.key if child is not None else _key(run, step, place, calls, tries))
            for place, (child, tries) in enumerate(found)
        ]
        sent = {keys[place]: await self._submit(run, calls[place], keys[place]) for place in starting}
        return await self._taken(run, keys, sent)

    async def _newest(
        self, run: Run, step: int, count: int, calls: Sequence[Call]
    ) -> list[tuple[ChildSeen | None, int]]:
        """The newest child of each place, and how many there have been of it."""
        newest: list[tuple[ChildSeen | None, int]] = [(None, 0)] * count
        looking = list(range(count))
        for tries in range(1, _TRIES_MAX):
            seen, _ = await self._seen(run, [_key(run, step, place, calls, tries) for place in looking])
            further: list[int] = []
            for place, child in zip(looking, seen, strict=True):
                if child.state is not None:
                    newest[place] = (child, tries)
                    if child.state in TERMINAL and child.state is not State.COMPLETED:
                        further.append(place)
            looking = further
            if not looking:
                return newest
        raise StepRefused(f"step {step} has started a child {_TRIES_MAX - 1} times, and each has failed")

    async def _taken(self, run: Run, keys: Sequence[str], sent: Mapping[str, int]) -> list[ChildSeen]:
        """How children stand, all of them known to the orchestrator or to that of another partition.

        `sent` has the places in the intake of those that were submitted just now.
        """
        pause_s, waited_s = 0.005, 0.0
        while True:
            seen, dealt = await self._seen(run, keys)
            missing = [child.key for child in seen if child.state is None and not child.afar]
            if not missing:
                return seen
            # It may be long behind others in the intake: only what was dealt with and is no job was refused.
            for key in missing:
                if dealt >= sent.get(key, 0) if dealt else waited_s >= TAKEN_WITHIN_S:
                    told = "was refused" if dealt else f"is not there after {TAKEN_WITHIN_S:g} s"
                    raise StepRefused(f"child {key} {told}; `writ audit` tells whether it was, and why")
            await asyncio.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(pause_s * 2, 0.5)

    async def _seen(self, run: Run, keys: Sequence[str]) -> tuple[list[ChildSeen], int]:
        """How children stand, and up to which submit the orchestrator had come; 0 where it does not say."""
        found: list[ChildSeen] = []
        dealt: int | None = None
        while len(found) < len(keys):
            part = tuple(keys[len(found) : len(found) + AFTER_MAX])

            async def once(part: tuple[str, ...] = part) -> Recalled:
                command = Recall(self._post.worker, run.lease.id, run.lease.token, STEPS_MAX, part)
                return await self._asking.ask(run.queue, "recall", command, Recalled, TIMEOUT_S)

            answer = await self._until_answered(run, once)
            answered = answer.children
            dealt = answer.dealt if dealt is None else min(dealt, answer.dealt)
            whole = [child for child in answered if not child.cut]
            if not whole:
                raise StepRefused("the orchestrator tells nothing of children; it is older than this worker")
            # Those whose output had no room are asked for again, with what comes behind them.
            cut = next((place for place, child in enumerate(answered) if child.cut), len(answered))
            found += answered[:cut]
        return found, dealt or 0

    async def _submit(self, run: Run, call: Call, key: str) -> int:
        """Stores the submit of a child; its sequence in the intake. Repeated, it is the same job."""
        child_id = key.partition("~")[2]
        try:
            content = self._asking.coder.content(self._redactor.json(_encode(call.input)))
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise StepRefused(f"the input of child {call.task} cannot be written as JSON: {error}") from error
        job = {"task": call.task, "input": content, **call.options}
        job |= {"id": child_id, "parent": job_key(run.queue, run.lease.id)}
        trace = run.lease.trace if run.spans is None else run.spans.child(call.task, key)
        if trace is not None:
            job["trace"] = trace
        try:
            body = _encode(job)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise StepRefused(f"child {call.task} cannot be written as JSON: {error}") from error
        fault = lost_number(job, body) or check_submit(call.queue, body)
        if fault is not None:
            where = f"{fault.field}: " if fault.field else ""
            raise StepRefused(f"child {call.task} cannot be submitted: {where}{fault.reason}")
        subject = submit_subject(self._post.tenant, self._post.principal, call.queue)

        nonce = f"{self._entropy():.17f}"  # nobody can have ours taken for a repetition

        async def once() -> int:
            return await self._wire.publish_submit(
                subject, self._redactor.message(body), f"{call.queue}.{child_id}.{nonce}"
            )

        return await self._until_answered(run, once)

    async def _until_answered(self, run: Run, once: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Repeats what nobody has answered. Raises Cancelled where the run shall stop, StepRefused."""
        pause_s = 0.05
        while True:
            if run.stop is not None:
                raise Cancelled(run.stop.value)
            try:
                return await once()
            except (PermissionDenied, Unreachable) as error:
                raise StepRefused(str(error)) from error
            except (WireError, TryLater, SubmitNotStored) as error:
                log.info("job %s: what its task asked for is asked again: %s", run.lease.id, error)
            except Refused as error:
                kind, field = error.rejection.kind, error.rejection.field
                if kind is RejectionKind.STALE or (kind is RejectionKind.NOT_FOUND and field == "id"):
                    raise Cancelled(Stop.LOST.value) from error
                raise StepRefused(str(error)) from error
            await asyncio.sleep(pause_s * (0.5 + self._entropy()))
            pause_s = min(pause_s * 2, 2.0)


def _key(run: Run, step: int, place: int, calls: Sequence[Call], tries: int) -> str:
    """The key of a child: its parent's id, the step, and its place where there are several in it."""
    tail = f":{step}" if len(calls) == 1 else f":{step}:{place + 1}"
    tail += f"@{tries}" if tries > 1 else ""
    queue, head = calls[place].queue, run.lease.id
    if len(f"{queue}~{head}{tail}") > TOKEN_MAX_BYTES:
        head = hashlib.sha256(head.encode()).hexdigest()[:32]
    return job_key(queue, head + tail)
