"""The storehouse: answers what is asked of files and memory, to those who may, from the broker's stores."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from writ.broker.filing import Filing, Info, look_up
from writ.broker.keyvalue import KeyValue, WrongRevision, bucket_of, text_of, token_of
from writ.broker.ports import NotStored, OutcomeUnknown
from writ.projections.asked import Refused
from writ.schemas.bounds import SECOND_US
from writ.schemas.commands import Answer, Command
from writ.schemas.faults import explain_fault
from writ.schemas.ids import queue_fault, token_fault
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.stores import (
    FILE_MAX_BYTES,
    MEMORY_MAX_BYTES,
    STORE_VERBS,
    DropFile,
    File,
    FileLine,
    FilesTold,
    FileTold,
    FindFile,
    ForgetMemory,
    GetPart,
    KeysTold,
    ListFiles,
    ListMemory,
    MemoryTold,
    OfMemory,
    PartTold,
    PutFile,
    PutPart,
    ReadMemory,
    WriteMemory,
)
from writ.schemas.submits import content_fault

if TYPE_CHECKING:
    from writ.broker.clock import Clock

log = logging.getLogger("writ.store")

FILES: Final = "files"
MEMORY: Final = "memory"
UPLOADS_MAX: Final = 1_000
"""Files that come at one time, of all principals."""

IDLE_S: Final = 300.0
"""An upload of which no part has come for so long is forgotten."""

SWEEP_S: Final = 3_600.0
_encode = msgspec.json.Encoder().encode

Admit = Callable[[str, str, str, bytes], Awaitable[None]]
"""Lets a principal do something, or raises Refused: see `Gate.admit`."""


@dataclass
class _Upload:
    """A file that comes: under which name its parts are kept, and what came so far."""

    bucket: str
    stored_as: str
    touched_us: int
    parts: int = 0
    size_bytes: int = 0
    newest: bytes = b""
    hashed: Any = field(default_factory=hashlib.sha256)


class Storehouse:
    """`filing` and `memory` give a bucket by its name, and `buckets` names those that there are of files."""

    def __init__(
        self,
        admit: Admit,
        filing: Callable[[str], Filing],
        memory: Callable[[str], KeyValue],
        buckets: Callable[[], Awaitable[list[str]]],
        clock: Clock,
    ) -> None:
        self._admit = admit
        self._filing = filing
        self._memory = memory
        self._buckets = buckets
        self._clock = clock
        self._uploads: dict[tuple[str, str, str], _Upload] = {}
        self._verbs: dict[type[Command], Callable[[_Asked, Any], Awaitable[Answer]]] = {
            PutPart: self._put_part,
            PutFile: self._put_file,
            FindFile: self._find_file,
            GetPart: self._get_part,
            ListFiles: self._list_files,
            DropFile: self._drop_file,
            ReadMemory: self._read,
            WriteMemory: self._write,
            ForgetMemory: self._forget,
            ListMemory: self._list,
        }

    async def answer(self, subject: str, body: bytes) -> bytes:
        """The answer to a request on `writ.store.<tenant>.<principal>.<verb>.<queue>`; nothing is raised."""
        try:
            asked, command = await self._open(subject, body)
            return _encode(await self._verbs[type(command)](asked, command))
        except Refused as refused:
            return _encode(Answer(refused.rejection))
        except NotStored as full:
            return _encode(Answer(Rejection(RejectionKind.TOO_LARGE, f"the store takes no more: {full}")))
        except Exception as error:
            if not isinstance(error, OutcomeUnknown):
                log.exception("%s could not be answered", subject)
            told = str(error) if isinstance(error, OutcomeUnknown) else type(error).__name__
            reason = f"the store could not answer: {told}"
            return _encode(Answer(Rejection(RejectionKind.TRY_LATER, reason)))

    async def _open(self, subject: str, body: bytes) -> tuple[_Asked, Command]:
        parts = subject.split(".")
        if len(parts) != 6:
            reason = f"subject {subject!r} is not of the form writ.store.<tenant>.<principal>.<verb>.<queue>"
            raise Refused(RejectionKind.MALFORMED, reason, "subject")
        _, _, tenant, principal, verb, queue = parts
        fault = token_fault(tenant, "tenant") or queue_fault(queue)
        if fault is not None or verb not in STORE_VERBS:
            reason = fault or f"no verb {verb!r}; there are {', '.join(STORE_VERBS)}"
            raise Refused(RejectionKind.MALFORMED, reason, "verb")
        await self._admit(tenant, principal, verb, _encode({"queue": queue}))
        kind = STORE_VERBS[verb][0]
        try:
            return _Asked(tenant, principal, queue), msgspec.json.decode(body or b"{}", type=kind)
        except msgspec.ValidationError as error:
            at, why = explain_fault(error, None, kind)
            raise Refused(RejectionKind.MALFORMED, why, at) from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(RejectionKind.MALFORMED, f"the message is not JSON: {error}") from error

    # --- files ------------------------------------------------------------------------------------------

    async def _put_part(self, asked: _Asked, command: PutPart) -> Answer:
        key = (asked.tenant, asked.principal, command.upload)
        upload = self._uploads.get(key)
        if upload is None:
            if command.number:
                raise Refused(RejectionKind.NOT_FOUND, f"upload {command.upload} is not known; begin it anew")
            if len(self._uploads) >= UPLOADS_MAX:
                raise Refused(RejectionKind.TRY_LATER, f"{UPLOADS_MAX} files are coming already")
            upload = self._uploads[key] = _Upload(
                bucket_of(FILES, asked.tenant), secrets.token_hex(12), self._clock.mono_us()
            )
        upload.touched_us = self._clock.mono_us()
        digest = hashlib.sha256(command.data).digest()
        if command.number == upload.parts - 1 and digest == upload.newest:
            return Answer()  # it was answered, and the answer was lost
        if command.number != upload.parts:
            reason = f"part {command.number} came; part {upload.parts} is next"
            raise Refused(RejectionKind.CONFLICT, reason, "number")
        if upload.size_bytes + len(command.data) > FILE_MAX_BYTES:
            await self._give_up(key)
            reason = f"the file has more than {FILE_MAX_BYTES} bytes, which is the most that is kept"
            raise Refused(RejectionKind.TOO_LARGE, reason)
        await self._filing(upload.bucket).put(upload.stored_as, command.data)
        upload.hashed.update(command.data)
        upload.parts += 1
        upload.size_bytes += len(command.data)
        upload.newest = digest
        return Answer()

    async def _put_file(self, asked: _Asked, command: PutFile) -> FileTold:
        file, bucket = command.file, bucket_of(FILES, asked.tenant)
        filing = self._filing(bucket)
        known = await look_up(filing, file.sha256)
        until = self._clock.wall_us() + round(command.keep_s * SECOND_US)
        key = (asked.tenant, asked.principal, command.upload or "")
        upload = self._uploads.get(key)
        if known is None and upload is None and file.size_bytes:
            raise Refused(RejectionKind.NOT_FOUND, f"no part of file {file.sha256} has come; put it first")
        made = _Upload(bucket, secrets.token_hex(12), 0) if upload is None else upload
        if known is None:
            fault = _differs(file, command.parts, made)
            if fault is not None:
                await self._give_up(key)
                raise Refused(RejectionKind.MALFORMED, fault, "file")
            known = _info_of(file, made, until)
            self._uploads.pop(key, None)
        else:
            until = max(until, int(known.metadata["until"]))
            await self._give_up(key)
        known.metadata["until"] = str(until)
        await filing.tell(file.sha256, _encode(known))
        return FileTold(found=_line(known))

    async def _give_up(self, key: tuple[str, str, str]) -> None:
        """Forgets an upload, and what came of it."""
        upload = self._uploads.pop(key, None)
        if upload is not None:
            await self._filing(upload.bucket).drop(upload.stored_as)

    async def _find_file(self, asked: _Asked, command: FindFile) -> FileTold:
        known = await look_up(self._filing(bucket_of(FILES, asked.tenant)), command.sha256)
        return FileTold(found=None if known is None else _line(known))

    async def _get_part(self, asked: _Asked, command: GetPart) -> PartTold:
        filing = self._filing(bucket_of(FILES, asked.tenant))
        known = await look_up(filing, command.sha256)
        if known is None:
            raise Refused(RejectionKind.NOT_FOUND, f"there is no file {command.sha256}", "sha256")
        part = await filing.part(known.nuid, command.after)
        return PartTold(last=True) if part is None else PartTold(data=part.data, next=part.seq)

    async def _list_files(self, asked: _Asked, command: ListFiles) -> FilesTold:
        filing = self._filing(bucket_of(FILES, asked.tenant))
        names = [name for name in await filing.names() if name > command.after]
        found = [await look_up(filing, name) for name in names[: command.limit]]
        lines = tuple([_line(each) for each in found if each is not None])
        return FilesTold(files=lines, more=len(names) > command.limit)

    async def _drop_file(self, asked: _Asked, command: DropFile) -> Answer:
        filing = self._filing(bucket_of(FILES, asked.tenant))
        known = await look_up(filing, command.sha256)
        if known is None:
            raise Refused(RejectionKind.NOT_FOUND, f"there is no file {command.sha256}", "sha256")
        await self._delete(filing, known)
        return Answer()

    @staticmethod
    async def _delete(filing: Filing, known: Info) -> None:
        await filing.forget(known.name)
        await filing.drop(known.nuid)

    # --- memory -----------------------------------------------------------------------------------------

    async def _read(self, asked: _Asked, command: ReadMemory) -> MemoryTold:
        entry = await self._bucket(asked).get(_place(asked, command, command.key))
        if entry is None:
            return MemoryTold()
        return MemoryTold(value=msgspec.Raw(entry.value), revision=entry.revision)

    async def _write(self, asked: _Asked, command: WriteMemory) -> MemoryTold:
        value = bytes(command.value)
        fault = content_fault("value", value)
        if len(value) > MEMORY_MAX_BYTES:
            reason = f"value has {len(value)} bytes; at most {MEMORY_MAX_BYTES} are kept: put a file"
            raise Refused(RejectionKind.TOO_LARGE, reason, "value")
        if fault is not None:
            raise Refused(fault.kind, fault.reason, "value")
        bucket, place = self._bucket(asked), _place(asked, command, command.key)
        try:
            revision = await bucket.put(place, value, ttl_s=command.ttl_s, revision=command.revision)
        except WrongRevision:
            found = await self._read(asked, ReadMemory(run=command.run, agent=command.agent, key=command.key))
            return msgspec.structs.replace(found, changed=True)
        return MemoryTold(revision=revision)

    async def _forget(self, asked: _Asked, command: ForgetMemory) -> Answer:
        bucket = self._bucket(asked)
        if command.key is not None:
            await bucket.delete(_place(asked, command, command.key))
            return Answer()
        for key in await bucket.keys(_place(asked, command)):
            await bucket.delete(key)
        return Answer()

    async def _list(self, asked: _Asked, command: ListMemory) -> KeysTold:
        found = await self._bucket(asked).keys(_place(asked, command))
        return KeysTold(keys=tuple(sorted(text_of(key.rpartition(".")[2]) for key in found)))

    def _bucket(self, asked: _Asked) -> KeyValue:
        return self._memory(bucket_of(MEMORY, asked.tenant))

    # --- sweeping ---------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Now and then deletes what is not to be kept any more, until cancelled."""
        while True:
            try:
                await self.sweep()
            except OutcomeUnknown as silent:
                log.info("what is not to be kept any more stays a while: %s", silent)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Deletes files that are over their time, and parts that belong to none; how many."""
        idle_us = self._clock.mono_us() - round(IDLE_S * SECOND_US)
        for key in [key for key, upload in self._uploads.items() if upload.touched_us < idle_us]:
            await self._give_up(key)
        now, count = self._clock.wall_us(), 0
        for bucket in await self._buckets():
            filing = self._filing(bucket)
            coming = {upload.stored_as for upload in self._uploads.values()}
            there = set(await filing.uploads())
            for name in await filing.names():
                known = await look_up(filing, name)
                if known is not None and int(known.metadata["until"]) <= now:
                    await self._delete(filing, known)
                    count += 1
                elif known is not None:
                    coming.add(known.nuid)
            for left in there - coming - {upload.stored_as for upload in self._uploads.values()}:
                await filing.drop(left)
        return count


class _Asked(msgspec.Struct, frozen=True):
    """Who asks, by the broker's word."""

    tenant: str
    principal: str
    queue: str


def _differs(file: File, parts: int, upload: _Upload) -> str | None:
    """How what has come is not what the file says."""
    came = (upload.hashed.hexdigest(), upload.size_bytes, upload.parts)
    said = (file.sha256, file.size_bytes, parts)
    names = ("sha256", "size_bytes", "parts")
    wrong = [
        f"{name} is {a}, and {b} was said" for name, a, b in zip(names, came, said, strict=True) if a != b
    ]
    return ", ".join(wrong) or None


def _info_of(file: File, upload: _Upload, until: int) -> Info:
    digest = base64.urlsafe_b64encode(bytes.fromhex(file.sha256)).decode()
    told = {"until": str(until), "name": file.name, "media": file.media}
    return Info(
        file.sha256,
        upload.bucket,
        upload.stored_as,
        file.size_bytes,
        upload.parts,
        f"SHA-256={digest}",
        metadata=told,
    )


def _line(known: Info) -> FileLine:
    told = known.metadata
    return FileLine(
        File(known.name, known.size, told.get("name", ""), told.get("media", "")), int(told["until"])
    )


def _place(asked: _Asked, command: OfMemory, key: str | None = None) -> str:
    """Where memory stands: of whom, and by which key."""
    if (command.run is None) == (command.agent is None):
        raise Refused(RejectionKind.MALFORMED, "give run or agent, and one of them", "agent")
    kind, owner = ("agent", command.agent) if command.run is None else ("run", command.run)
    place = f"{kind}.{token_of(asked.queue)}.{token_of(owner or '')}"
    return place if key is None else f"{place}.{token_of(key)}"
