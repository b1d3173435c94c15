"""The store of packages: put in parts, refused where they are not what they say, moved from a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from writ.broker.jwt import KeyKind, Signer
from writ.broker.objects import FolderObjects, MemoryObjects, Objects
from writ.broker.ports import NotStored
from writ.packages import build, open_package
from writ.packages.manifest import Kind
from writ.packages.scaffold import new_project
from writ.projections.asked import Refused
from writ.projections.packages import PackageStore
from writ.schemas.rejections import RejectionKind
from writ.schemas.stored import KeepPackage, PackageKept, PackagePart, PackageQuery

SIGNER = Signer(KeyKind.USER, bytes(range(32)))


class Built(NamedTuple):
    digest: str
    content: bytes


@pytest.fixture
def built(tmp_path: Path) -> Built:
    new_project(tmp_path / "inv", "inv", Kind.JOB)
    content = build(tmp_path / "inv", SIGNER.public, SIGNER.sign)
    return Built(open_package(content).digest, content)


class Stores:
    """One store a tenant."""

    def __init__(self) -> None:
        self.of: dict[str, MemoryObjects] = {}

    def __call__(self, tenant: str) -> Objects:
        return self.of.setdefault(tenant, MemoryObjects())


async def read(store: PackageStore, tenant: str, digest: str) -> bytes:
    told = await store.part(tenant, msgspec.json.encode(PackageQuery(digest=digest)))
    assert isinstance(told, PackagePart)
    return told.data


async def kept(store: PackageStore, tenant: str, digest: str, content: bytes, cut: int) -> PackageKept:
    """The last answer to a package that comes in two parts."""
    told = PackageKept()
    for at, data in ((0, content[:cut]), (cut, content[cut:])):
        part = KeepPackage(digest=digest, size_bytes=len(content), at=at, data=data)
        answer = await store.keep(tenant, msgspec.json.encode(part))
        assert isinstance(answer, PackageKept)
        told = answer
        if told.whole:
            break
    return told


async def test_each_tenant_has_its_own_by_digest(built: Built) -> None:
    stores = Stores()
    store = PackageStore(stores)
    assert (await kept(store, "acme", *built, cut=1_000)).whole
    part = KeepPackage(digest=built.digest, size_bytes=len(built.content), at=0, data=built.content[:10])
    again = await store.keep("acme", msgspec.json.encode(part))
    assert isinstance(again, PackageKept)
    assert again.whole, "what is there is not sent again"
    assert list(stores.of["acme"].kept) == [built.digest]
    assert await read(store, "acme", built.digest) == built.content
    with pytest.raises(Refused, match="no package"):
        await read(store, "other", built.digest)


async def test_a_changed_byte_is_kept_nowhere(built: Built) -> None:
    stores = Stores()
    changed = bytearray(built.content)
    changed[len(changed) // 2] ^= 1
    with pytest.raises(Refused, match="the package is refused"):
        await kept(PackageStore(stores), "acme", built.digest, bytes(changed), cut=1_000)
    assert not stores.of["acme"].kept


class Full(MemoryObjects):
    """A store that takes nothing."""

    async def put(self, name: str, parts: Iterable[bytes]) -> None:
        raise NotStored("maximum bytes exceeded")


async def test_a_store_that_is_full_says_so_instead_of_later(built: Built) -> None:
    with pytest.raises(Refused, match="takes no more: maximum bytes exceeded") as refused:
        await kept(PackageStore(lambda tenant: Full()), "acme", *built, cut=1_000)
    assert refused.value.rejection.kind is RejectionKind.TOO_LARGE


async def test_packages_of_a_folder_are_moved_once_and_again_where_that_was_cut_short(
    built: Built, tmp_path: Path
) -> None:
    folder, stores = FolderObjects(tmp_path / "packages"), Stores()
    await folder.put(f"my-tenant-{built.digest}", (built.content,))
    store = PackageStore(stores)
    await stores("my-tenant").put(built.digest, (built.content,))  # it was killed before it deleted the file
    await folder.put(f"default-{built.digest}", (built.content,))
    for _ in range(2):
        await store.take_over(folder)
        assert await folder.names() == []
    assert set(stores.of) == {"my-tenant", "default"}
    assert await read(store, "default", built.digest) == built.content


async def test_packages_of_a_folder_stay_there_where_they_cannot_be_moved(
    built: Built, tmp_path: Path
) -> None:
    folder = FolderObjects(tmp_path / "packages")
    await folder.put(f"default-{built.digest}", (built.content,))
    await PackageStore(lambda tenant: Full()).take_over(folder)
    assert await folder.names() == [f"default-{built.digest}"]
