"""Secrets that a worker has been told, kept out of all that leaves it: reports, notes, logs, captured output.

What is looked for is the value as it is, each line of one with several, and the forms that text takes on its
way: JSON-escaped, URL-encoded, hexadecimal, and base64 at any offset. What turns a secret into something
else, such as a cipher, a reversal or a hash, is beyond this.
"""

from __future__ import annotations

import base64
import json
import logging
import urllib.parse
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import msgspec

from writ.schemas.assets import SECRET_MIN_BYTES

REDACTED: Final = "[redacted]"
_AS_BYTES: Final = REDACTED.encode()
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Redactor:
    """The secrets that one worker knows; from any thread. It only ever learns more."""

    def __init__(self) -> None:
        self._secrets: set[bytes] = set()
        self._forms: tuple[bytes, ...] = ()
        """The longest first: of two that begin alike it leaves nothing behind."""

        self._texts: tuple[str, ...] = ()

    def learn(self, secret: bytes) -> None:
        """A value that is to be left out from now on."""
        if secret in self._secrets:
            return
        self._secrets.add(secret)
        self._forms = tuple(sorted({*self._forms, *_forms(secret)}, key=len, reverse=True))
        self._texts = tuple([form.decode("utf-8", "surrogateescape") for form in self._forms])

    @property
    def knows(self) -> bool:
        """Whether there is anything to leave out."""
        return bool(self._forms)

    def text(self, text: str) -> str:
        """Text without the secrets in it."""
        for form in self._texts:
            if form in text:
                text = text.replace(form, REDACTED)
        return text

    @property
    def longest(self) -> int:
        """Bytes of the longest form that is left out."""
        return len(self._forms[0]) if self._forms else 0

    def clean(self, content: bytes) -> bytes:
        """Bytes without the secrets in them."""
        for form in self._forms:
            if form in content:
                content = content.replace(form, _AS_BYTES)
        return content

    def tail(self, output: bytes, most: int, *, cut: bool) -> bytes:
        """The last `most` bytes of output without the secrets in it.

        Where more came before, and was `cut`, a secret may have been cut, too: its end is left out.
        """
        if cut and self._forms:
            output = output[self.longest - 1 :]
        return self.clean(output)[-most:]

    def json(self, content: bytes) -> bytes:
        """JSON text with the secrets in its strings, names and numbers left out; what is no JSON as bytes."""
        if not self._suspicious(content):
            return content
        try:
            value = _decode(content)
        except (msgspec.MsgspecError, RecursionError):
            return self.clean(content)
        clean = self.value(value)
        return content if clean == value else _encode(clean)

    def _suspicious(self, content: bytes) -> bool:
        """Whether JSON text may hold a secret: it shows one, or writes some characters as escapes."""
        return self.knows and (b"\\" in content or any(form in content for form in self._forms))

    def value(self, value: Any) -> Any:
        """A value as JSON has it, without the secrets in it."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in cast("list[object]", value)]
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {self.text(name): self.value(each) for name, each in fields.items()}
        if isinstance(value, int | float) and not isinstance(value, bool):
            shown = str(value)
            return value if self.text(shown) == shown else REDACTED
        return value

    def message(self, body: bytes) -> bytes:
        """A message of the worker's to Writ. What it names jobs and workers by stays as it is."""
        if not self._suspicious(body):
            return body
        message = _decode(body)
        clean = self.value(message)
        for before, after in _same_places(message, clean):
            for name in _NAMES & before.keys():
                after[name] = before[name]
        return body if clean == message else _encode(clean)


_NAMES: Final = {"id", "worker", "token", "name", "tasks", "task", "version", "parent"}
"""Fields of a message by which something is meant, and that hold nothing of the task's."""


def _same_places(before: Any, after: Any) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """A message itself, and its reports: where fields of the protocol stand."""
    if not isinstance(before, dict):
        return
    before = cast("dict[str, Any]", before)
    yield before, after
    for several in ("reports", "leases"):
        pair: list[list[Any]] = [each.get(several) or [] for each in (before, after)]
        yield from zip(*pair, strict=True)


class LogFilter(logging.Filter):
    """Leaves the secrets out of every line that a handler is given."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._redactor.knows:
            return True
        clean = self._redactor.text
        message = record.getMessage()
        if (told := clean(message)) != message:
            record.msg, record.args = told, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = clean(record.exc_text)
        return True


@contextmanager
def redacted_logs(redactor: Redactor) -> Generator[None, None, None]:
    """Meanwhile the lines of this process that its log handlers are given are without the secrets."""
    told = LogFilter(redactor)
    places = [*logging.getLogger().handlers, logging.getLogger("writ.task"), logging.getLogger("writ.worker")]
    for place in places:
        place.addFilter(told)
    try:
        yield
    finally:
        for place in places:
            place.removeFilter(told)


def _forms(secret: bytes) -> set[bytes]:
    """What a secret looks like in output."""
    found: set[bytes] = set()
    lines = [line.strip() for line in secret.splitlines()] if b"\n" in secret else []
    for each in (secret, secret.strip(), *[line for line in lines if len(line) >= 2 * SECRET_MIN_BYTES]):
        if len(each) >= SECRET_MIN_BYTES:
            found |= _plain_forms(each)
            found |= _base64_forms(each)
    return found


def _plain_forms(secret: bytes) -> set[bytes]:
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    found.add(urllib.parse.quote_from_bytes(secret, safe="").encode())
    found.add(urllib.parse.quote_from_bytes(secret).encode())
    found.add(urllib.parse.quote_plus(secret).encode())
    found.add(repr(secret)[2:-1].encode())
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return found
    once = (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1])
    for form in once:  # and within JSON that is a string of other JSON
        found |= {form.encode(), json.dumps(form)[1:-1].encode()}
    found.add(form_of_ascii(text))
    return found


def form_of_ascii(text: str) -> bytes:
    """Text as `ascii` and the tracebacks of some programs show it."""
    return ascii(text)[1:-1].encode()


def _base64_forms(secret: bytes) -> set[bytes]:
    """What of the base64 of any text around it depends on the secret alone, at each of the three offsets."""
    found: set[bytes] = set()
    for before in range(3):
        coded = base64.b64encode(bytes(before) + secret)
        begin = -(-before * 8 // 6)
        end = (before + len(secret)) * 8 // 6
        core = coded[begin:end]
        found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return {each for each in found if len(each) >= SECRET_MIN_BYTES}
