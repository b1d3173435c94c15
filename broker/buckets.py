"""A bucket in an object store that others run: list, get and put, by obstore (the extra `stores`).

Who we are there, and where the store is, is found as its other tools find it: in variables such as
`AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT_URL_S3`, or from the machine that this runs on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, cast

from .note_places import SCHEMES, StoreAway

if TYPE_CHECKING:
    from obstore import ObjectMeta

TIMEOUT_S: Final = 5.0
"""For a request: whoever signs waits for it."""

_SAID_MAX: Final = 500


class RemoteBucket:
    """What stands under `s3://BUCKET/PREFIX`, `gs://...` or `az://...`.

    Raises ValueError for no such address, and where the extra is not installed.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(SCHEMES):
            raise ValueError(f"{address!r} is no address of a bucket, as in s3://BUCKET/PREFIX")
        try:
            import obstore  # noqa: PLC0415 - an extra
            from obstore.store import from_url  # noqa: PLC0415
        except ImportError as error:
            raise ValueError(f"{address} needs an extra: pip install 'writ-orchestrator[stores]'") from error
        self._api = obstore
        self._away: Final = (obstore.exceptions.BaseError, OSError)
        self._address = address.rstrip("/")
        try:
            self._store = from_url(
                self._address,
                client_options={"timeout": f"{TIMEOUT_S:g}s", "allow_http": True},
                retry_config={"max_retries": 0},
            )
        except (*self._away, ValueError) as error:
            raise ValueError(f"{address!r} is no address of a bucket: {_said(error)}") from error

    def __str__(self) -> str:
        return self._address

    def names(self, folder: str) -> list[str]:
        """The names of all objects under `<folder>/`, without it, in their order. Raises StoreAway."""
        try:
            listed = cast("Iterable[Sequence[ObjectMeta]]", self._api.list(self._store, f"{folder}/"))  # pyright: ignore[reportUnknownMemberType]
            found = [each["path"] for part in listed for each in part]
        except self._away as error:
            raise self._told("list", folder, error) from error
        return sorted(path.removeprefix(f"{folder}/") for path in found)

    def get(self, name: str) -> bytes:
        """An object. Raises StoreAway, also where there is none."""
        try:
            return bytes(self._api.get(self._store, name).bytes())
        except self._away as error:
            raise self._told("get", name, error) from error

    def put(self, name: str, content: bytes) -> None:
        """Durable on return, as far as the store keeps its word. Raises StoreAway."""
        try:
            self._api.put(self._store, name, content)
        except self._away as error:
            raise self._told("put", name, error) from error

    def _told(self, verb: str, name: str, error: Exception) -> StoreAway:
        return StoreAway(f"{self} cannot be reached to {verb} {name}: {_said(error)}")


def _said(error: Exception) -> str:
    """Without what obstore adds for those who look for faults in it."""
    return str(error).partition("\n\nDebug source")[0].strip()[:_SAID_MAX]
