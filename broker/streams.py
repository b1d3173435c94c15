"""Streams: made once, checked at each start. The version of the broker is checked here too."""
# nats-py, and the JSON of its API, are typed in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, NamedTuple

import msgspec
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from writ.schemas import bounds
from writ.schemas.subjects import SUBMIT_STORED, SUBMIT_STREAM, log_stream, mirror_stream, taken_of

from .ports import OutcomeUnknown
from .spread import ALONE, Spread

REQUIRED: Final = (2, 12)
"""The first server with atomic batches."""

REQUEST_TIMEOUT_S: Final = 5.0
_AGAIN_S: Final = 1.0
_READS: Final = ("STREAM.INFO.", "STREAM.NAMES", "STREAM.MSG.GET.")
"""What may be asked twice."""

NO_STREAM: Final = 10059
NO_MESSAGE: Final = 10037
EXISTS: Final = 10058
"""Errors of the JetStream API that are answers: what is asked for is not there, or what is made is."""

_NOT_YET: Final = (10005, 10008)
"""Too few servers for so many replicas, or no leader among them."""

_YET_S: Final = 15.0

_CHANGING: Final = 10226
_CHANGING_S: Final = 60.0
_OPEN, _SHUT = -1, 1
"""Messages that a stream takes: any number; no more than one, which is no further one where one is there."""

_WAITING: Final = {
    "max_msgs_per_subject": bounds.SUBMITS_WAITING_MAX,
    "discard_new_per_subject": True,
}
_EPOCH: Final = "writ.epoch"
_FORMAT: Final = "writ.format"
_KEPT_OUT: Final = "writ.kept_out"
_FORMAT_NOW: Final = "1"


class BrokerTooOld(Exception):
    """The server lacks what the log needs."""


class StreamMismatch(Exception):
    """A stream of that name exists, but it is not what this Writ can use."""


class ApiError(Exception):
    """The JetStream API refused a request; `code` is its own error code."""

    def __init__(self, code: int, description: str) -> None:
        self.code = code
        super().__init__(f"{description} (JetStream error {code})")


async def api(nats: Nats, subject: str, body: Any = None) -> dict[str, Any]:
    """One request to the JetStream API. Raises ApiError, or OutcomeUnknown where nobody answers."""
    payload = b"" if body is None else msgspec.json.encode(body)
    ask = _ask_again if subject.startswith(_READS) else _ask
    try:
        answer = await ask(nats, f"$JS.API.{subject}", payload)
    except (NatsTimeout, NoRespondersError, NatsError, OSError) as silent:
        raise OutcomeUnknown(
            f"the broker does not answer {subject}: {str(silent) or type(silent).__name__}"
        ) from silent
    decoded: dict[str, Any] = msgspec.json.decode(answer.data)
    error = decoded.get("error")
    if error:
        raise ApiError(error.get("err_code", 0), error.get("description", "refused"))
    return decoded


async def create(nats: Nats, subject: str, body: Any) -> dict[str, Any]:
    """As `api`, for what makes a stream. A cluster that has just started has a leader before all servers:
    until there are enough for the stream it is asked again, for a while.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _YET_S
    while True:
        try:
            return await api(nats, subject, body)
        except ApiError as refused:
            if refused.code not in _NOT_YET or loop.time() > until:
                raise
        await asyncio.sleep(_AGAIN_S)


async def look(nats: Nats, subject: str, body: Any = None) -> dict[str, Any]:
    """One question to the JetStream API.

    Raises ApiError where there is no such stream, or no such message in it. Any other refusal may pass, as
    10008 while a cluster elects: then it raises OutcomeUnknown, as where nobody answers.
    """
    try:
        return await api(nats, subject, body)
    except ApiError as refused:
        if refused.code in (NO_STREAM, NO_MESSAGE):
            raise
        raise OutcomeUnknown(f"the broker does not tell {subject}: {refused}") from refused


@contextmanager
def telling(what: str) -> Generator[None]:
    """Where the connection fails, or the time is up, OutcomeUnknown is raised: it does not tell `what`."""
    try:
        yield
    except (NatsError, OSError) as silent:
        reason = str(silent) or type(silent).__name__
        raise OutcomeUnknown(f"the broker does not tell {what}: {reason}") from silent


async def _ask(nats: Nats, subject: str, payload: bytes) -> Msg:
    return await nats.request(subject, payload, timeout=REQUEST_TIMEOUT_S)


async def _ask_again(nats: Nats, subject: str, payload: bytes) -> Msg:
    """Asks once a second, and takes the first answer.

    While a cluster has no leader nobody hears the question, and nobody keeps it for the one to come.
    """
    asked: set[asyncio.Task[Msg]] = set()
    loop = asyncio.get_running_loop()
    until = loop.time() + REQUEST_TIMEOUT_S
    try:
        while True:
            left_s = until - loop.time()
            if left_s > _AGAIN_S or not asked:
                task = asyncio.create_task(nats.request(subject, payload, timeout=left_s))
                task.add_done_callback(_heed)
                asked.add(task)
            done, _ = await asyncio.wait(asked, timeout=_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return done.pop().result()
    finally:
        for task in asked:
            task.cancel()


def _heed(task: asyncio.Task[Msg]) -> None:
    """At the time limit several fail at once, and one is told: asyncio need not warn of the others."""
    if not task.cancelled():
        task.exception()


def check_version(nats: Nats) -> None:
    """Raises BrokerTooOld where the connected server cannot carry the log."""
    version = nats.connected_server_version
    if (version.major, version.minor) < REQUIRED:
        need = ".".join(map(str, REQUIRED))
        raise BrokerTooOld(
            f"the broker is nats-server {version}, and Writ needs {need} or newer for atomic batches; "
            f"upgrade it, or leave --url out to use the embedded one"
        )


def _log_config(partition: int, spread: Spread) -> dict[str, Any]:
    return {
        "name": log_stream(partition),
        "description": "Writ: the log of a partition. Written by its leader alone.",
        "subjects": [f"writ.log.{partition}.*.*.*"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        **spread.config(),
        "max_msg_size": bounds.RECORD_MAX_BYTES,
        "allow_atomic": True,
        "allow_direct": True,
        "deny_delete": True,
        "duplicate_window": 1_000_000_000,
        "republish": {
            "src": f"writ.log.{partition}.*.*.*",
            "dest": "writ.feed.{{wildcard(1)}}.{{wildcard(2)}}.{{wildcard(3)}}",
        },
    }


def _submit_config(spread: Spread) -> dict[str, Any]:
    return {
        "name": SUBMIT_STREAM,
        "description": "Writ: submits on their way into the log.",
        "subjects": [SUBMIT_STORED],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        **spread.config(),
        "max_msg_size": -1,
        "allow_direct": True,
        "duplicate_window": 120_000_000_000,
        **_WAITING,
    }


async def ensure_log(
    nats: Nats,
    partition: int,
    *,
    spread: Spread = ALONE,
    epoch_floor: int = 0,
    first_seq: int = 1,
) -> int:
    """Makes or checks a partition's log stream; its epoch.

    A new one gets an epoch above `epoch_floor`, and its first record will be `first_seq`.
    """
    return await _ensure(nats, _log_config(partition, spread), spread, epoch_floor, first_seq)


async def ensure_submit(nats: Nats, *, spread: Spread = ALONE, epoch_floor: int = 0) -> int:
    """Makes or checks the intake stream; its epoch."""
    epoch = await _ensure(nats, _submit_config(spread), spread, epoch_floor)
    await _limit(nats, SUBMIT_STREAM)
    return epoch


async def _limit(nats: Nats, name: str) -> None:
    """Limits what may wait in an intake that an earlier Writ made.

    A server deletes what is above a limit that it is given, and that is stored submits. So the stream is shut
    while it is looked at: nothing comes in between, and whoever submits tries again.
    """
    have: dict[str, Any] = (await api(nats, f"STREAM.INFO.{name}"))["config"]
    if have["max_msgs"] != _SHUT and all(have.get(key) == value for key, value in _WAITING.items()):
        return
    async with _shut(nats, have) as shut:
        if (await figures(nats, name)).messages <= bounds.SUBMITS_WAITING_MAX:
            shut.update(_WAITING)  # otherwise at a later start


@asynccontextmanager
async def _shut(nats: Nats, have: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """A stream that takes no message meanwhile. It is opened with what stands in the configuration then."""
    took = have["max_msgs"] if have["max_msgs"] != _SHUT else _OPEN
    shut = await _change(nats, have | {"max_msgs": _SHUT})
    try:
        yield shut
    finally:
        await _change(nats, shut | {"max_msgs": took})


async def take_of(nats: Nats, tenants: Collection[str] | None, kept_out: Mapping[str, int]) -> None:
    """Has the intake store the submits of these tenants alone, or of all. Raises OutcomeUnknown, ApiError.

    Who is `kept_out`, and since when, stands beside that: nobody else can tell once a leader is gone.

    A server takes new subjects before it lets go of old ones, and stores twice what comes on both. So where
    they overlap, as one tenant's do with all, the stream is shut in between, and whoever submits tries again.
    """
    subjects = taken_of(tenants)
    have: dict[str, Any] = (await api(nats, f"STREAM.INFO.{SUBMIT_STREAM}"))["config"]
    told = {_KEPT_OUT: msgspec.json.encode(kept_out).decode()} if kept_out else {}
    wanted = {"subjects": subjects, "metadata": _plain(have) | told}
    if have["subjects"] == subjects and have["metadata"] == wanted["metadata"] and have["max_msgs"] != _SHUT:
        return
    if SUBMIT_STORED not in (*have["subjects"], *subjects):
        await _change(nats, have | wanted)
        return
    async with _shut(nats, have) as shut:
        shut.update(await _change(nats, shut | wanted))


async def kept_out(nats: Nats) -> dict[str, int]:
    """Whom the intake was told to keep out, and since when. Raises OutcomeUnknown, ApiError."""
    have: dict[str, Any] = (await api(nats, f"STREAM.INFO.{SUBMIT_STREAM}"))["config"]
    said = (have.get("metadata") or {}).get(_KEPT_OUT, "{}")
    try:
        found = msgspec.json.decode(said, type=dict[str, int])
    except msgspec.MsgspecError as error:
        raise OutcomeUnknown(f"who is kept out of {SUBMIT_STREAM} cannot be read: {error}") from error
    return found


def _plain(config: dict[str, Any]) -> dict[str, str]:
    """What a stream's configuration tells beside its settings, but of whom it keeps out."""
    return {key: value for key, value in (config.get("metadata") or {}).items() if key != _KEPT_OUT}


def _as_made(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a stream, of the intake as it is when no leader keeps a tenant out of it."""
    if config["name"] != SUBMIT_STREAM:
        return config
    tenants = {parts[4] for subject in config["subjects"] if len(parts := subject.split(".")) == 6}
    return config | {
        "subjects": [SUBMIT_STORED] if config["subjects"] == taken_of(tenants) else config["subjects"],
        "max_msgs": _OPEN if config["max_msgs"] == _SHUT else config["max_msgs"],
        "metadata": _plain(config),
    }


async def waiting_of(nats: Nats, subject: str) -> dict[str, int]:
    """How many messages the intake holds of each subject that falls under one with wildcards.

    Raises OutcomeUnknown, ApiError.
    """
    told = await api(nats, f"STREAM.INFO.{SUBMIT_STREAM}", {"subjects_filter": subject})
    return told["state"].get("subjects") or {}


async def _ensure(
    nats: Nats, wanted: dict[str, Any], spread: Spread, epoch_floor: int, first_seq: int = 1
) -> int:
    name = wanted["name"]
    try:
        have = await look(nats, f"STREAM.INFO.{name}")
    except ApiError:  # there is none
        metadata = {_EPOCH: str(epoch_floor + 1), _FORMAT: _FORMAT_NOW}
        begin = {"first_seq": first_seq} if first_seq > 1 else {}
        have = await create(nats, f"STREAM.CREATE.{name}", wanted | {"metadata": metadata} | begin)
    epoch = _check(name, wanted, have["config"])
    await move(nats, have["config"], spread)
    return epoch


async def move(nats: Nats, have: dict[str, Any], spread: Spread) -> None:
    """Brings a stream, of this configuration, to where it shall be, if that is wanted and not so.

    Raises OutcomeUnknown, ApiError.
    """
    for setting, value in spread.config().items() if spread.move else ():
        if have.get(setting) != value:  # one after the other: the server does not scale and place at once
            have = await _change(nats, have | {setting: value})


async def _change(nats: Nats, config: dict[str, Any]) -> dict[str, Any]:
    """What the configuration is now; waits for an earlier change that the servers are carrying out."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _CHANGING_S
    while True:
        try:
            changed: dict[str, Any] = await api(nats, f"STREAM.UPDATE.{config['name']}", config)
        except ApiError as busy:
            if busy.code != _CHANGING or loop.time() > until:
                raise
            await asyncio.sleep(_AGAIN_S / 4)
        else:
            return dict(changed["config"])


def _check(name: str, wanted: dict[str, Any], have: dict[str, Any]) -> int:
    have = _as_made(have)
    metadata = have.get("metadata") or {}
    if metadata.get(_FORMAT) != _FORMAT_NOW:
        raise StreamMismatch(
            f"stream {name} has format {metadata.get(_FORMAT)!r}, and this Writ reads {_FORMAT_NOW!r}; "
            f"use the Writ that made it, or another broker"
        )
    for setting in ("subjects", "retention", "storage", "discard", "allow_atomic"):
        if setting in wanted and have.get(setting) != wanted[setting]:
            raise StreamMismatch(
                f"stream {name} has {setting} {have.get(setting)!r} and must have {wanted[setting]!r}; "
                f"somebody changed it: set it back before starting Writ"
            )
    return int(metadata[_EPOCH])


async def ensure_mirror(nats: Nats, partition: int, *, spread: Spread = ALONE) -> None:
    """Makes the audit copy of a partition's log where there is none. Raises OutcomeUnknown, ApiError."""
    name = mirror_stream(partition)
    try:
        await move(nats, (await look(nats, f"STREAM.INFO.{name}"))["config"], spread)
    except ApiError as missing:
        if missing.code != NO_STREAM:
            raise
        config = {
            "name": name,
            "description": "Writ: the audit copy of a partition's log. Nobody writes it.",
            "mirror": {"name": log_stream(partition)},
            "retention": "limits",
            "storage": "file",
            **spread.config(),
            "deny_delete": True,
            "deny_purge": True,
        }
        await create(nats, f"STREAM.CREATE.{name}", config)


class StreamLook(NamedTuple):
    """When a stream was made, and how it is configured, but for what the server notes there of itself."""

    created: str
    config: dict[str, Any]


async def look_at(nats: Nats, names: Iterable[str]) -> dict[str, StreamLook]:
    """The streams that there are, of those named. Raises OutcomeUnknown."""
    found: dict[str, StreamLook] = {}
    for name in names:
        try:
            info = await look(nats, f"STREAM.INFO.{name}")
        except ApiError:
            continue
        config = _as_made(info["config"])
        metadata = config.get("metadata") or {}
        own = {key: value for key, value in metadata.items() if not key.startswith("_nats.")}
        found[name] = StreamLook(str(info["created"]), config | {"metadata": own})
    return found


class StreamFigures(NamedTuple):
    """How much is in a stream, on the broker's disk, the sequence of its newest message, and its copies."""

    bytes: int
    messages: int
    last_seq: int
    replicas: Replicas


class Replicas(NamedTuple):
    """On how many servers a stream shall be kept, and how many of them have all of it now: none where nobody
    leads it."""

    wanted: int
    current: int


def replicas_in(info: dict[str, Any]) -> Replicas:
    """From what the API says of a stream. A server that is alone has all of what it keeps."""
    cluster: dict[str, Any] = info.get("cluster") or {}
    others: list[dict[str, Any]] = cluster.get("replicas") or []
    current = 1 + sum(1 for each in others if each.get("current") and not each.get("offline"))
    return Replicas(
        int(info["config"].get("num_replicas", 1)), current if cluster.get("leader") or not cluster else 0
    )


async def figures(nats: Nats, stream: str) -> StreamFigures:
    """Raises OutcomeUnknown, or ApiError where there is no such stream."""
    info = await look(nats, f"STREAM.INFO.{stream}")
    state = info["state"]
    return StreamFigures(
        int(state["bytes"]), int(state["messages"]), int(state["last_seq"]), replicas_in(info)
    )


async def stored_us(nats: Nats, stream: str, seq: int) -> int:
    """When a message was stored, UTC microseconds. Raises OutcomeUnknown, ApiError where it is not there."""
    message = (await look(nats, f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
    at = datetime.fromisoformat(message["time"])  # of a nanosecond's digits it takes six
    return (at - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


async def names_of(nats: Nats) -> list[str]:
    """The names of all streams that there are. Raises OutcomeUnknown."""
    found: list[str] = []
    while True:
        try:
            told = await api(nats, "STREAM.NAMES", {"offset": len(found)})
        except ApiError as error:
            raise OutcomeUnknown(str(error)) from error
        names: list[str] = told.get("streams") or []
        found += names
        if not names or len(found) >= int(told.get("total", 0)):
            return found


async def partitions_of(nats: Nats) -> int:
    """How many logs there are, numbered from 0 without a gap. Raises OutcomeUnknown."""
    names = set(await names_of(nats))
    return next(number for number in count() if log_stream(number) not in names)


async def spread_of(nats: Nats, stream: str) -> Spread:
    """How a stream is kept. Raises OutcomeUnknown, or ApiError where there is none."""
    have: dict[str, Any] = (await look(nats, f"STREAM.INFO.{stream}"))["config"]
    tags = (have.get("placement") or {}).get("tags") or ()
    return Spread(int(have.get("num_replicas", 1)), tuple(tags))


async def newest_seq(nats: Nats, stream: str) -> int:
    """The last sequence of a stream, 0 where it never had one.

    Raises OutcomeUnknown, or ApiError where there is no such stream.
    """
    info = await look(nats, f"STREAM.INFO.{stream}")
    return int(info["state"]["last_seq"])


async def oldest_seq(nats: Nats, stream: str) -> int:
    """The first sequence in a stream; one after the last where it holds none.

    Raises OutcomeUnknown, or ApiError where there is no such stream.
    """
    info = await look(nats, f"STREAM.INFO.{stream}")
    return max(1, int(info["state"]["first_seq"]))
