"""How values become text on a page: whatever a user wrote is shown, and none of it does anything.

Markup is escaped by the templates. What escaping does not touch is made visible here: control characters, and
those that turn the direction of text around or cannot be seen, would let a name pass for another one.
"""

from __future__ import annotations

import datetime
import json
import unicodedata
from contextlib import suppress
from typing import Any, Final

import msgspec
from markupsafe import Markup, escape

from writ.orchestrator.replay.text import duration
from writ.schemas.bounds import SECOND_US

CLIP_CHARS: Final = 2_000
"""Of one value; nothing longer is written into a page unless it says how much it takes."""

CONTENT_CHARS: Final = 20_000
"""Of an input, output, error or record on its own; the whole of it is to be had as a file."""

_PICTURES: Final = 0x2400
_KEPT: Final = "\n\t"
_UNSEEN: Final = frozenset({"Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Cc"})
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def plain(text: str, most: int = CLIP_CHARS) -> str:
    """At most so many characters, with what cannot be seen made visible."""
    rest = len(text) - most
    if rest > 0:
        text = text[:most]
    if not text.isascii() or not text.isprintable():
        text = "".join([each if each.isprintable() else _visible(each) for each in text])
    return f"{text} … ({rest:,} more characters)" if rest > 0 else text


def _visible(char: str) -> str:
    code = ord(char)
    if char in _KEPT:
        return char
    if code < 0x20:
        return chr(_PICTURES + code)
    if unicodedata.category(char) in _UNSEEN:
        return f"⟨U+{code:04X}⟩"
    return char


def shown(value: Any) -> Any:
    """What a template writes for a value: markup of our own as it is, everything else as plain text."""
    if value is None:
        return ""
    if isinstance(value, Markup | int | float):
        return value
    return plain(str(value))


def whole(text: str) -> Markup:
    """Text that is plain already, and as long as it may be."""
    return escape(text)


def exact(value: object) -> Markup:
    """Text that a form brings back as it is: what cannot be seen stands there by its number."""
    kept = str(escape(str(value).replace("\0", "")))
    parts = [each if each.isprintable() else f"&#x{ord(each):x};" for each in kept]
    return Markup("".join(parts))  # noqa: S704 - escaped above


def document(raw: bytes | str, most: int = CONTENT_CHARS) -> str:
    """JSON on several lines, as it reads best; text that is none as it is."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    if len(text) <= 4 * most:
        with suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return plain(text, most)


def built(value: Any, most: int = CONTENT_CHARS) -> str:
    """A value of the language as a document."""
    return document(msgspec.json.encode(value), most)


def micros(at: str) -> int:
    """Microseconds since 1970 of a time as the views write it."""
    since = datetime.datetime.fromisoformat(at) - _EPOCH
    return since // datetime.timedelta(microseconds=1)


def moment(at: int | str | None) -> Markup:
    """A time in UTC, to the second; the whole of it is its tooltip."""
    if at is None:
        return Markup("")
    exact = at if isinstance(at, str) else _rfc(at)
    short = f"{exact[:10]} {exact[11:19]}"
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, short)


def _rfc(at: int) -> str:
    return (_EPOCH + datetime.timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ago(at: str | int | None, now: int) -> Markup:
    """How long ago, in one unit or two; the time itself is its tooltip."""
    if at is None:
        return Markup("")
    since = now - (micros(at) if isinstance(at, str) else at)
    exact = at if isinstance(at, str) else _rfc(at)
    words = f"{duration(since)} ago" if since >= 0 else f"in {duration(-since)}"
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, words)


def number(value: float | None) -> str:
    """With thousands apart; nothing for nothing."""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def seconds(value: float | None) -> str:
    """Seconds of a measure as a duration."""
    return "none" if value is None else duration(int(value * SECOND_US))


def dollars(microusd: int) -> str:
    """Micro-dollars as dollars, with as many places as tell something."""
    amount = microusd / 1_000_000
    return f"${amount:,.2f}" if amount >= 1 or not microusd else f"${amount:,.4f}"


def size(count: int) -> str:
    """Bytes."""
    if count < 1_024:
        return f"{count} B"
    return f"{count / 1_024:,.1f} KiB" if count < 1_048_576 else f"{count / 1_048_576:,.1f} MiB"
