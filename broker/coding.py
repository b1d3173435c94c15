"""The payload codec: what users' own code makes of inputs and outputs, so that nobody between can read them.

    {"task": "pay", "input": {"writ.codec": "aes", "data": "<base64>"}}

An encoded content is such an object, and an encoded text a string that begins with `writ.codec:<name>:`.
Client and worker encode what they send and decode what they get, wherever it stands in an answer; all between
see these.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

import msgspec

from writ.schemas.bounds import ERROR_TEXT_MAX_CHARS

log = logging.getLogger("writ.codec")

MARK: Final = "writ.codec"
_DATA: Final = "data"
_TEXT: Final = f"{MARK}:"
_MARK_BYTES: Final = MARK.encode()
_CUT_CHARS: Final = 200
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class PayloadCodec(Protocol):
    """Turns JSON text into bytes and back: compression, or a cipher. Called from any thread.

    Where it has a `digest_key`, bytes, parameters of steps and tools are digested with that, so that a digest
    gives nothing away to who has not the key.
    """

    @property
    def name(self) -> str:
        """What is recorded beside the bytes; it says how to decode them, for ever."""
        ...

    def encode(self, content: bytes) -> bytes: ...

    def decode(self, data: bytes) -> bytes:
        """Raises anything where it cannot."""
        ...


class Coder:
    """Encodes with the first of some codecs, decodes with whichever is named. Without any it does nothing."""

    def __init__(self, codecs: Iterable[PayloadCodec] = ()) -> None:
        several = tuple(codecs)
        self._first = several[0] if several else None
        self._by_name = {codec.name: codec for codec in several}
        if len(self._by_name) < len(several) or any(":" in name or not name for name in self._by_name):
            raise ValueError("payload codecs need names of their own, without a colon")

    @property
    def encodes(self) -> bool:
        """Whether there is a codec."""
        return self._first is not None

    @property
    def digest_key(self) -> bytes:
        """What parameters are digested with; empty where the codec has none."""
        return bytes(getattr(self._first, "digest_key", b""))

    # --- encoding ---------------------------------------------------------------------------------------

    def content(self, content: bytes) -> msgspec.Raw:
        """JSON text, encoded; what is so already stays."""
        if self._first is None or encoded_by(content) is not None or content == b"null":
            return msgspec.Raw(content)
        data = self._first.encode(bytes(content))
        return msgspec.Raw(_encode({MARK: self._first.name, _DATA: base64.b64encode(data).decode()}))

    def text(self, text: str) -> str:
        """A text, encoded; cut before that where it would be too long after."""
        if self._first is None or not text or text.startswith(_TEXT):
            return text
        while True:
            data = base64.b64encode(self._first.encode(_encode(text))).decode()
            made = f"{_TEXT}{self._first.name}:{data}"
            if len(made) <= ERROR_TEXT_MAX_CHARS or len(text) < _CUT_CHARS:
                return made
            text = f"{text[: len(text) // 2]}\n[cut: {len(text)} characters in all]"

    # --- decoding ---------------------------------------------------------------------------------------

    def opened(self, body: bytes) -> bytes:
        """JSON text with all that is encoded in it decoded, as far as it can be."""
        if self._first is None or _MARK_BYTES not in body:
            return body
        return _encode(self._plain(_decode(body)))

    def _plain(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._plain(each) for each in cast("list[object]", value)]
        if isinstance(value, str):
            return self._plain_text(value) if value.startswith(_TEXT) else value
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        if not isinstance(fields.get(MARK), str):
            return {name: self._plain(each) for name, each in fields.items()}
        found = self._decoded(fields[MARK], fields.get(_DATA))
        more = {name: self._plain(each) for name, each in fields.items() if name not in (MARK, _DATA)}
        if found is _NOT:
            return {**fields, **more}
        # What was put into an input of another job's output stands beside it.
        return {**cast("dict[str, Any]", found or {}), **more} if more else found

    def _plain_text(self, text: str) -> str:
        name, _, data = text.removeprefix(_TEXT).partition(":")
        found = self._decoded(name, data)
        return found if isinstance(found, str) else text

    def _decoded(self, name: str, data: Any) -> Any:
        """What was encoded, or `_NOT`."""
        codec = self._by_name.get(name)
        if codec is None:
            return _NOT
        try:
            return _decode(codec.decode(base64.b64decode(str(data), validate=True)))
        except (binascii.Error, msgspec.MsgspecError) as error:
            log.warning("what codec %s has encoded cannot be read: %s", name, error)
        except Exception as error:  # the codec is the user's
            log.warning("codec %s cannot decode: %s: %s", name, type(error).__name__, error)
        return _NOT


_NOT: Final = object()


def encoding_of(content: str) -> str | None:
    """What people are told in place of a content or text that is encoded; None where it is not."""
    raw = content.encode("utf-8", "replace")
    is_text = content.startswith(_TEXT) and content.count(":") > 1
    name = content.split(":", 2)[1] if is_text else encoded_by(raw)
    return None if name is None else f"encoded by codec {name}, {len(raw)} bytes"


def shown(content: str) -> str:
    """JSON, or a text, as people are shown it: where it is encoded a string that says so."""
    told = encoding_of(content)
    return content if told is None else _encode(told).decode()


def encoded_by(content: bytes | msgspec.Raw) -> str | None:
    """The name of the codec that has encoded a content; None where none has."""
    text = bytes(content)
    if _MARK_BYTES not in text or not text.lstrip().startswith(b"{"):
        return None
    try:
        name = _decode(text).get(MARK)
    except msgspec.MsgspecError:
        return None
    return name if isinstance(name, str) else None
