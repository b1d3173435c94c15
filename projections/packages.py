"""The store of packages: put in parts, kept by digest once every byte was checked, and read in parts."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Final

from writ.broker.objects import Objects
from writ.broker.ports import NotStored
from writ.packages import PackageError, open_package
from writ.schemas.commands import Answer
from writ.schemas.rejections import RejectionKind
from writ.schemas.stored import PART_MAX_BYTES, KeepPackage, PackageKept, PackagePart, PackageQuery

from .asked import Refused, parse

log = logging.getLogger("writ.projections")

_COMING_MAX: Final = 8
"""Packages that may come at a time; the one that waits longest for its next part gives way to another."""

_READ_MAX: Final = 4
"""Packages of which the bytes are remembered, as workers ask for them part by part."""


class PackageStore:
    """Answers `keep_package` and `package`. Each tenant has packages of its own, in a store of its own.

    A store may refuse to `put` with NotStored, where asking again is of no use.
    """

    def __init__(self, store_of: Callable[[str], Objects]) -> None:
        self._store_of = cache(store_of)
        self._coming: OrderedDict[str, bytearray] = OrderedDict()
        self._read: OrderedDict[str, bytes] = OrderedDict()

    async def keep(self, tenant: str, body: bytes) -> Answer:
        """Takes a part; a package that is there already is whole at once."""
        part = parse(body, KeepPackage)
        store, name = self._store_of(tenant), f"{tenant}-{part.digest}"
        if await _holds(store, part.digest):
            return PackageKept(None, 0, part.size_bytes, True)
        known = bytearray() if part.at == 0 else self._coming.get(name)
        if known is None or len(known) != part.at:
            there = 0 if known is None else len(known)
            raise Refused(RejectionKind.CONFLICT, f"{there} bytes are here; send those from there on", "at")
        known += part.data
        self._coming[name] = known
        self._coming.move_to_end(name)
        if len(self._coming) > _COMING_MAX:
            self._coming.popitem(last=False)
        if len(known) < part.size_bytes:
            return PackageKept(None, 0, len(known))
        del self._coming[name]
        whole = bytes(known)
        try:
            open_package(whole, digest=part.digest)
        except PackageError as error:
            raise Refused(RejectionKind.MALFORMED, f"the package is refused: {error}", "data") from error
        try:
            await store.put(part.digest, (whole,))
        except NotStored as full:
            reason = f"the store of packages takes no more: {full}; an operator gives it room: docs/sizing.md"
            raise Refused(RejectionKind.TOO_LARGE, reason, "data") from full
        return PackageKept(None, 0, len(whole), True)

    async def part(self, tenant: str, body: bytes) -> Answer:
        """Some bytes, as many as fit a message."""
        query = parse(body, PackageQuery)
        name = f"{tenant}-{query.digest}"
        whole = self._read.get(name)
        if whole is None:
            try:
                whole = await self._store_of(tenant).get(query.digest)
            except FileNotFoundError:
                reason = f"no package {query.digest} is in the store"
                raise Refused(RejectionKind.NOT_FOUND, reason, "digest") from None
            self._read[name] = whole
            if len(self._read) > _READ_MAX:
                self._read.popitem(last=False)
        return PackagePart(None, 0, len(whole), whole[query.at : query.at + PART_MAX_BYTES])

    async def take_over(self, folder: Objects) -> None:
        """Moves packages of a folder, `<tenant>-<digest>`, to their stores.

        From the first one on that its store does not take they stay, for the next start.
        """
        try:
            for name in await folder.names():
                tenant, _, digest = name.rpartition("-")
                store = self._store_of(tenant)
                if not await _holds(store, digest):
                    await store.put(digest, (await folder.get(name),))
                await folder.delete(name)
        except (OSError, NotStored) as error:
            log.warning("packages stay in their folder until the next start, as they cannot move: %s", error)


async def _holds(store: Objects, digest: str) -> bool:
    try:
        await store.get(digest, 0)
    except FileNotFoundError:
        return False
    return True
