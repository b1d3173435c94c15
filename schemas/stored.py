"""Packages on their way to and from the store, in parts that fit a message.

Verbs: `keep_package` (KeepPackage -> PackageKept), `package` (PackageQuery -> PackagePart). A package is
known by its digest, and kept once it is whole and every byte of it was checked.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from .forms import Answer, QueueName
from .processes import Digest
from .queries import Query

PART_MAX_BYTES: Final = 512 * 1024
PACKAGE_MAX_BYTES: Final = 64 * 1024 * 1024

_At = Annotated[int, Meta(ge=0, le=PACKAGE_MAX_BYTES)]


class KeepPackage(Query, frozen=True, kw_only=True):
    """The bytes of a package from `at` on; it is `size_bytes` in all. Parts come in their order."""

    digest: Digest
    size_bytes: Annotated[int, Meta(ge=1, le=PACKAGE_MAX_BYTES)]
    at: _At = 0
    data: Annotated[bytes, Meta(max_length=PART_MAX_BYTES)]


class PackageKept(Answer, frozen=True):
    """Bytes up to `next` are here, and are all of it where it is `whole`."""

    next: int = 0
    whole: bool = False


class PackageQuery(Query, frozen=True, kw_only=True):
    """The bytes of a package from `at` on.

    Whoever works in some queues alone says in which `queue` it is to run.
    """

    digest: Digest
    at: _At = 0
    queue: QueueName | None = None


class PackagePart(Answer, frozen=True):
    """Some bytes of a package, which is `size_bytes` in all."""

    size_bytes: int = 0
    data: bytes = b""
