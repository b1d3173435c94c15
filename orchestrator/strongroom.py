"""The values of assets, which come and go beside the log: put away before it is decided, had after.

    set_asset --> sealed under a new key, stored --> decided on by key and digest --> refused: forgotten
    get_asset, read_asset --> decided, recorded --> fetched and opened --> the answer

A value is in the memory of the orchestrator while it passes, and nowhere in its state.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from writ.broker.keyvalue import KeyValue
from writ.broker.ports import Answer as Send
from writ.broker.ports import NotStored, OutcomeUnknown
from writ.schemas.assets import (
    SECRET_MIN_BYTES,
    AssetTold,
    GetAsset,
    KeptAsset,
    ReadAsset,
    SetAsset,
)
from writ.schemas.commands import Answer
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import Keys, Sealed

from .messages import Asked

log = logging.getLogger("writ.orchestrator")
_encode = msgspec.json.Encoder().encode
_told = msgspec.json.Decoder(AssetTold).decode
_AT_ONCE: Final = 16


class Strongroom:
    """Over the node's key store, and where sealed values are kept: by tenant and the name of their key."""

    def __init__(self, keys: Keys, values: KeyValue) -> None:
        self._keys = keys
        self._values = values
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._working: set[asyncio.Task[None]] = set()

    def take(self, asked: Asked, decide: Callable[[Asked], None]) -> None:
        """Hands a request on to be decided, with what it needs of values done before and after."""
        command = asked.command
        if isinstance(command, SetAsset):
            self._work(self._put(asked, command, decide))
        elif isinstance(command, GetAsset | ReadAsset):
            decide(asked._replace(send=self._filling(asked)))
        else:
            decide(asked)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _put(self, asked: Asked, command: SetAsset, decide: Callable[[Asked], None]) -> None:
        value, size = command.value, len(command.value)
        if command.secret and size < SECRET_MIN_BYTES:
            reason = f"a secret of {size} bytes is guessed at once; give {SECRET_MIN_BYTES} or more"
            decide(asked._replace(command=Rejection(RejectionKind.MALFORMED, reason, "value")))
            return
        key = self._keys.new()
        sealed = self._keys.seal(key, value)
        digest = sealed.digest if command.secret else hashlib.sha256(value).hexdigest()
        place = f"{asked.address.tenant}.{key}"
        kept = KeptAsset(
            command.name,
            key,
            digest,
            size,
            command.secret,
            command.rotate,
            command.forget,
            command.reason,
        )

        def answer(body: bytes) -> None:
            told = _told(body)
            if told.error is not None:
                self._work(self._forget(place, key))
            asked.send(_encode(msgspec.structs.replace(told, key="")))

        try:
            async with self._turns:
                await asyncio.to_thread(self._keys.sync)
                await self._values.put(place, sealed.cipher)
        except (OutcomeUnknown, NotStored) as failed:
            log.warning("an asset could not be put away: %s", failed)
            self._keys.destroy(key)
            asked.send(_later(f"the value could not be stored, ask again: {failed}"))
            return
        decide(asked._replace(command=kept, send=answer, size_bytes=0))

    async def _forget(self, place: str, key: str) -> None:
        """A value that was put away in vain."""
        self._keys.destroy(key)
        try:
            await self._values.delete(place)
        except OutcomeUnknown as silent:
            log.info("a value that nobody can open stays in the broker: %s", silent)

    def _filling(self, asked: Asked) -> Send:
        """Sends the answer with the value that it names."""
        return lambda body: self._work(self._fill(asked, body))

    async def _fill(self, asked: Asked, body: bytes) -> None:
        told = _told(body)
        if told.error is not None or not told.key:
            asked.send(body)
            return
        try:
            async with self._turns:
                entry = await self._values.get(f"{asked.address.tenant}.{told.key}")
        except OutcomeUnknown as silent:
            asked.send(_later(f"the value could not be had, ask again: {silent}"))
            return
        value = None
        if entry is not None:
            value = self._keys.open(Sealed(told.key, told.digest, cipher=entry.value))
        if value is None:
            reason = (
                f"the value of version {told.version} of {told.name} is gone from the broker, or its key is"
            )
            asked.send(_encode(Answer(Rejection(RejectionKind.CONFLICT, reason, "name"))))
            return
        asked.send(_encode(msgspec.structs.replace(told, value=value, key="")))


def _later(reason: str) -> bytes:
    return _encode(Answer(Rejection(RejectionKind.TRY_LATER, reason)))


ASSET_BUCKET: Final = "writ-assets"
