"""What a worker, the mould, the guard and the child of one attempt say to each other.

    worker -> mould   Setup, then a Spawn with four descriptors for each attempt
    mould  -> worker  Loaded, or Broken
    worker -> guard   TERM, KILL; the end of the stream means the worker is gone
    guard  -> worker  Status, when no process of the attempt is left
    worker -> child   Work, pickled; then Stored, Found, Raised, Heard, Told
    child  -> worker  Began, Unfit, Noted, Says, Asked, Logged, Ended

The worker unpickles nothing: what a child says is JSON of these shapes, each frame with its length ahead.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from writ.schemas.commands import Lease, SignalCame
from writ.schemas.notes import AnyRemark, StepSeen
from writ.schemas.policy import Isolation

from ..children import ToAsset, ToChildren, ToStore
from ..faults import Fault
from .limits import AttemptLimits

if TYPE_CHECKING:
    from ..recording import Recording

FRAME_MAX_BYTES: Final = 1024 * 1024
MESSAGE_MAX_BYTES: Final = 128 * 1024
"""To and from the mould; each is one packet."""

LENGTH: Final = struct.Struct("!I")
TERM: Final = b"T"
KILL: Final = b"K"
OUT_OF_MEMORY: Final = "memory"
TOO_MANY: Final = "processes"
BROKEN: Final = "protocol"
"""What an attempt is killed for: the guard, or for the last the worker, says it."""


class Setup(msgspec.Struct, frozen=True):
    """What a mould is for. `path` is the module search path, `secrets` what no attempt may read. One that is
    `asked` says what its tasks take, which takes as long as a fork or two.
    """

    modules: tuple[str, ...]
    level: Isolation
    limits: AttemptLimits
    path: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    asked: bool = False


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The module is imported: the names of its tasks, and the folders that it came from. `schemas` are what
    the tasks take, where it is asked for that, and not too long.
    """

    tasks: tuple[str, ...]
    roots: tuple[str, ...]
    schemas: dict[str, str] = {}


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """The module cannot be imported."""

    text: str


class Spawn(msgspec.Struct, frozen=True):
    """One attempt; with it come link, stdout, stderr and the line to its guard."""

    folder: str
    network: bool = False


class Status(msgspec.Struct, frozen=True):
    """How a child ended: its wait status, what the guard killed it for if it did, its CPU time."""

    status: int
    why: str = ""
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a child is to do: a lease, the signals that came, and what was recorded before it."""

    queue: str
    tenant: str
    lease: Lease
    heard: tuple[SignalCame, ...] = ()
    recorded: tuple[StepSeen, ...] = ()
    recording: Recording | None = None


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """A note is in the log."""

    number: int


class Found(msgspec.Struct, frozen=True, tag="found"):
    """An errand is done, with its answer (see `ERRAND_ANSWERS`)."""

    number: int
    answer: msgspec.Raw = msgspec.Raw(b"null")


class Raised(msgspec.Struct, frozen=True, tag="raised"):
    """A note is not in the log, or an errand cannot be done, and what its step ends with."""

    number: int
    kind: str
    text: str


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """Signals that have come since."""

    signals: tuple[SignalCame, ...]


class Told(msgspec.Struct, frozen=True, tag="told"):
    """The work shall stop: the name of a Stop."""

    stop: str


class Began(msgspec.Struct, frozen=True, tag="began"):
    """The child is isolated and held to its limits; user code runs from here."""


class Unfit(msgspec.Struct, frozen=True, tag="unfit"):
    """The child could not be isolated, and runs nothing."""

    text: str


class Noted(msgspec.Struct, frozen=True, tag="noted"):
    """A note; a step that waits for it to be stored gives it a number."""

    remark: AnyRemark
    number: int | None = None


class Says(msgspec.Struct, frozen=True, tag="says"):
    """The newest that the attempt says of itself; where it waits for that to be stored, with a number."""

    content: msgspec.Raw
    number: int | None = None


class Asked(msgspec.Struct, frozen=True, tag="asked"):
    """An errand for the keeper."""

    number: int
    errand: ToChildren | ToAsset | ToStore


class Logged(msgspec.Struct, frozen=True, tag="logged"):
    """A line that the task logs."""

    level: int
    text: str


class Slept(msgspec.Struct, frozen=True):
    """The job waits from here on: a Sleep, as a message."""

    verb: Literal["suspend", "snooze"]
    fields: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """User code has ended: with an output, a fault, or to wait."""

    output: msgspec.Raw = msgspec.Raw(b"null")
    fault: Fault | None = None
    sleep: Slept | None = None


FromMould = Loaded | Broken
FromChild = Began | Unfit | Noted | Says | Asked | Logged | Ended
ToChild = Stored | Found | Raised | Heard | Told

encode = msgspec.json.Encoder().encode
read_setup = msgspec.json.Decoder(Setup).decode
read_spawn = msgspec.json.Decoder(Spawn).decode
read_status = msgspec.json.Decoder(Status).decode
read_from_mould = msgspec.json.Decoder(FromMould).decode
read_from_child = msgspec.json.Decoder(FromChild).decode
read_to_child = msgspec.json.Decoder(ToChild).decode


def framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body
