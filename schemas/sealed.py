"""Sealed content: inputs, outputs and error text, kept so that it can be erased without breaking history."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

UNSEALED: Final = "none"
_S = TypeVar("_S", bound=msgspec.Struct)


class Sealed(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Content under a key. With key `none` the content is JSON in `plain`, exactly as it was sent;
    otherwise it is encrypted in `cipher`.

    `digest` is SHA-256 in hex: of the plain bytes where the key is `none`, and keyed by the sealing key
    otherwise, so that a digest alone never gives short content away.
    """

    key: str
    digest: str
    plain: msgspec.Raw = msgspec.Raw(b"")
    cipher: bytes = b""

    @property
    def size_bytes(self) -> int:
        """About what the content weighs."""
        return memoryview(self.plain).nbytes or len(self.cipher)


class Keys(Protocol):
    """The key store, as those need it who seal and read content."""

    unsynced: bool
    """Whether keys were made that are not durable yet."""

    def new(self, subject: str | None = None) -> str: ...

    def of(self, subject: str) -> list[str]: ...

    def destroy(self, key: str) -> None: ...

    def sync(self) -> None: ...

    def seal(self, key: str, content: bytes) -> Sealed: ...

    def open(self, envelope: Sealed) -> bytes | None: ...

    def digest_key(self, key: str) -> bytes: ...


def seal(content: bytes) -> Sealed:
    """An envelope around JSON text without encryption."""
    return Sealed(UNSEALED, hashlib.sha256(content).hexdigest(), plain=msgspec.Raw(content))


def unseal(envelope: Sealed) -> bytes:
    """The JSON text inside an envelope with key `none`.

    Raises ValueError where the content is sealed under another key.
    """
    if envelope.key != UNSEALED:
        raise ValueError(f"content is sealed under key {envelope.key!r}, which this reader does not hold")
    return bytes(envelope.plain)


def mapped(struct: _S, change: Callable[[Sealed], Sealed]) -> _S:
    """A Struct with each envelope in it, at any depth, changed."""
    changed: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        new = _changed(value, change)
        if new is not value:
            changed[name] = new
    return replace(struct, **changed) if changed else struct


def _changed(value: Any, change: Callable[[Sealed], Sealed]) -> Any:
    if isinstance(value, Sealed):
        return change(value)
    if isinstance(value, msgspec.Struct):
        return mapped(value, change)
    if isinstance(value, tuple):
        items: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        each = [_changed(one, change) for one in items]
        same = all(new is old for new, old in zip(each, items, strict=True))
        return items if same else tuple(each)
    return value
