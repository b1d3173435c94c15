"""Assets: named values and secrets of a tenant, and what is asked of them. Their values are not in the log.

    asset_set        a value was put away: its version, the key that it is sealed under, its digest
    asset_removed    the name stands for nothing any more, and its values are erased
    asset_read       a running job was given a version

A version's value is sealed under a key of its own and kept beside the log; erasing the key erases the value
(see `content_erased`), and the version stays in the history.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from .facts import Fact
from .forms import Answer, Command, Fence, Reason, Token

ASSET_MAX_BYTES: Final = 64 * 1024
SECRET_MIN_BYTES: Final = 6
"""Shorter ones are guessed, and stand by chance in text that has nothing to do with them."""

ASSETS_MAX: Final = 10_000
"""Assets of one tenant."""

VERSIONS_MAX: Final = 500
"""Versions of one asset that are not erased."""

_BASE64: Final = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
Value = Annotated[bytes, Meta(max_length=ASSET_MAX_BYTES, extra_json_schema={"pattern": _BASE64})]
Version = Annotated[int, Meta(ge=1, le=2**31)]


# --- events -----------------------------------------------------------------------------------------------


class AssetSet(Fact, frozen=True):
    """A version of the asset that the record's key names.

    `digest` is SHA-256 of the value in hex, of a secret keyed by `key`, so that it cannot be guessed.
    """

    version: int
    secret: bool
    key: str
    digest: str
    size_bytes: int
    reason: str = ""


class AssetRemoved(Fact, frozen=True):
    reason: str = ""


class AssetRead(Fact, frozen=True):
    """The attempt was given a version of an asset, by version `policy` of its queue's policy."""

    attempt: int
    token: int
    asset: str
    version: int
    secret: bool
    digest: str
    policy: int = 0


# --- what the log says of one ---------------------------------------------------------------------------


class AssetVersion(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One version; `at` is log time, `by` the principal that set it."""

    version: int
    key: str
    digest: str
    size_bytes: int
    at: int
    by: str
    reason: str = ""


class Asset(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An asset with its versions, oldest first. One that was `removed` may be set again."""

    secret: bool
    versions: tuple[AssetVersion, ...] = ()
    removed: bool = False

    @property
    def newest(self) -> AssetVersion:
        return self.versions[-1]

    def version(self, number: int | None) -> AssetVersion | None:
        """The version of that number, or the newest."""
        if number is None:
            return self.newest
        return next((each for each in self.versions if each.version == number), None)


def evolve_asset(asset: Asset | None, event: Fact, at: int, by: str) -> Asset:
    """The asset after one of its own events."""
    match event:
        case AssetSet():
            version = AssetVersion(
                event.version, event.key, event.digest, event.size_bytes, at, by, event.reason
            )
            before = () if asset is None else asset.versions
            return Asset(event.secret, (*before, version))
        case AssetRemoved() if asset is not None:
            return replace(asset, removed=True)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of an asset that is there")


# --- what is asked ------------------------------------------------------------------------------------------


class SetAsset(Command, frozen=True):
    """Puts a value away, in base64, as the next version of an asset; jobs read the newest.

    A `secret` is shown to nobody but jobs, and has 6 bytes at least. With `rotate` it must be there already,
    and with `forget` the values of all versions before are erased: a reproduction cannot have them.
    """

    name: Token
    value: Value
    secret: bool = False
    rotate: bool = False
    forget: bool = False
    reason: Reason = "requested"


class RemoveAsset(Command, frozen=True):
    """Erases the values of all versions of an asset, for good."""

    name: Token
    reason: Reason = "requested"


class GetAsset(Command, frozen=True):
    """Asks for an asset's value, the newest or that of a version. That of a secret is not shown."""

    name: Token
    version: Version | None = None


class ListAssets(Command, frozen=True):
    """Asks which assets there are, or for the versions of one by its name. No value is told."""

    name: Token | None = None
    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class ReadAsset(Command, frozen=True):
    """Asks for an asset in the name of a running job; that it was given is in the log before the answer.

    The queue's policy must grant it to the job's task. `version` is for reproductions: the newest otherwise.
    """

    worker: Token
    id: Token
    token: Fence
    name: Token
    secret: bool = False
    version: Version | None = None


class KeptAsset(Command, frozen=True):
    """A SetAsset whose value is put away under `key`: what is decided about. Nobody can send it."""

    name: str
    key: str
    digest: str
    size_bytes: int
    secret: bool = False
    rotate: bool = False
    forget: bool = False
    reason: str = "requested"


class AssetTold(Answer, frozen=True):
    """A version of an asset. `key` is what its value was sealed under; without a value, that is not told."""

    name: str = ""
    secret: bool = False
    version: int = 0
    digest: str = ""
    value: bytes = b""
    key: str = ""


class AssetLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A version in a list. Of one that is `erased` the value is gone."""

    name: str
    secret: bool
    version: int
    digest: str
    size_bytes: int
    at: int
    by: str
    reason: str = ""
    erased: bool = False


class AssetsTold(Answer, frozen=True):
    """Assets by name, each with its newest version; of one asset all versions, oldest first."""

    assets: tuple[AssetLine, ...] = ()
    more: bool = False


ASSET_EVENTS: Final[tuple[type[Fact], ...]] = (AssetSet, AssetRemoved)
ASSET_VERBS: Final[dict[str, type[Command]]] = {
    "set_asset": SetAsset,
    "remove_asset": RemoveAsset,
    "get_asset": GetAsset,
    "list_assets": ListAssets,
}
ASSET_ANSWERS: Final[dict[type[Command], type[Answer]]] = {
    SetAsset: AssetTold,
    GetAsset: AssetTold,
    ListAssets: AssetsTold,
}
