"""Malformed inputs from valid ones: of bytes, of words, of JSON as a tree, and of JSON as its type has it.

The same seed gives the same inputs.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

ODD: Final[tuple[bytes, ...]] = (
    *(
        b"null",
        b"true",
        b"0",
        b"-0",
        b"-1",
        b"1e308",
        b"1e400",
        b"9" * 20,
        b"9" * 4_400,
        b"NaN",
        b"01",
        b"1.",
    ),
    *(b'""', b'"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\u0000"', b'"\x00"', b'"\\x"', b"'a'"),
    *(b"[]", b"{}", b'{"a":1,"a":2}', b'{"":{}}', b"[" * 99 + b"]" * 99, b"[" * 5_000, b'{"a":' * 3_000),
    *(b"[" * 60_000 + b"]" * 60_000, b'{"a":' * 30_000 + b"1" + b"}" * 30_000),
    *('"é😀"'.encode(), b'"' + b"a" * 300 + b'"', b'"' + b"a" * 100_000 + b'"', b'"a.b"', b'"a~b"', b'"*"'),
    *(
        b'"2030-01-01T00:00:60Z"',
        b'"9999-12-31T23:59:59-23:59"',
        b'"0001-01-01T00:00:00Z"',
        b"18446744073709551616",
    ),
    *(b'">"', b'"a b"', b'"\\r\\n"', b'"../../etc/passwd"', b'"__proto__"', b'"$JS.API.>"', b"1767225600"),
)
"""Values that somebody has not thought of, as JSON or nearly so."""

_WORD: Final = re.compile(rb"\w+|[^\w\s]|\s+")
_PLACE: Final = "writ fuzz place"


class Mutations:
    """Draws inputs that are mostly not what they should be."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    # --- bytes and words ------------------------------------------------------------------------------

    def of_bytes(self, sample: bytes) -> bytes:
        """The sample with some bytes changed, lost, doubled, moved, or something put in between."""
        draw, found = self.draw, bytearray(sample)
        for _ in range(draw.choice((1, 1, 1, 2, 5, 20))):
            at = draw.randrange(len(found) + 1)
            size = draw.choice((1, 1, 2, 8, 64))
            match draw.randrange(6):
                case 0:
                    found[at : at + size] = draw.randbytes(size)
                case 1:
                    del found[at : at + size]
                case 2:
                    found[at:at] = found[at : at + size] * draw.choice((1, 2, 50))
                case 3:
                    found[at:at] = draw.choice(ODD)
                case 4:
                    found = found[:at] if draw.random() < 0.3 else found
                case _:
                    other = draw.randrange(len(found) + 1)
                    found[other:other] = found[at : at + size]
        return bytes(found)

    def of_words(self, sample: bytes) -> bytes:
        """The sample with words and marks of it lost, doubled, swapped, or odd ones in their place."""
        draw = self.draw
        words = _WORD.findall(sample) or [b""]
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(len(words))
            match draw.randrange(6):
                case 0:
                    words[at] = draw.choice(ODD)
                case 1:
                    words[at] = b""
                case 2:
                    words[at] += words[at]
                case 3:
                    other = draw.randrange(len(words))
                    words[at], words[other] = words[other], words[at]
                case 4:
                    words[at] = draw.choice(words)
                case _:
                    words[at] = draw.choice(
                        (b"-1", b"0", b"1e9", b"{", b"}", b"[", b"]", b"=", b'"', b"\n", b"\x00")
                    )
        return b"".join(words)

    def of_lines(self, sample: bytes) -> bytes:
        """The sample with lines lost, doubled, swapped or changed."""
        draw = self.draw
        lines = sample.split(b"\n")
        for _ in range(draw.choice((1, 1, 2, 3))):
            at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
            match draw.randrange(4):
                case 0:
                    lines[at] = b""
                case 1:
                    lines.insert(at, lines[other])
                case 2:
                    lines[at], lines[other] = lines[other], lines[at]
                case _:
                    lines[at] = self.of_words(lines[at])
        return b"\n".join(lines)

    # --- JSON -----------------------------------------------------------------------------------------

    def of_json(self, sample: bytes) -> bytes:
        """The sample as a tree, with values that are odd, of another type or place, lost, or too many."""
        draw = self.draw
        try:
            tree = json.loads(sample)
        except (ValueError, RecursionError):
            return self.of_words(sample)
        put: list[bytes] = []
        for number in range(draw.choice((1, 1, 1, 2, 3))):
            tree = self._changed(tree, put, 2 if number else 600)
        return self._written(tree, put)

    def _changed(self, tree: Any, put: list[bytes], times_max: int) -> Any:
        """The tree with one place of it changed; odd values are put in when it is written.

        No value becomes more than `times_max` of it: many of many would be gigabytes.
        """
        draw = self.draw
        places = _places(tree)
        if not places:
            return self._odd(put)
        holder, key = draw.choice(places)
        match draw.randrange(6):
            case 0 | 1:
                holder[key] = self._odd(put)
            case 2:
                del holder[key]
            case 3 if isinstance(holder, dict):
                fields = cast("dict[str, Any]", holder)
                name = draw.choice(
                    (key + "x", key.upper(), "", "\ud800", "x" * 3_000, "__proto__", "a`b", "$")
                )
                fields[name] = fields.pop(key) if draw.random() < 0.5 else fields[key]
            case 4:
                other, at = draw.choice(places)
                holder[key] = json.loads(json.dumps(other[at])) if at in _keys(other) else None
            case _:
                times = min(times_max, draw.choice((2, 30, 600)))
                holder[key] = [json.loads(json.dumps(holder[key])) for _ in range(times)]
        return tree

    def _odd(self, put: list[bytes]) -> str:
        put.append(self.draw.choice(ODD))
        return f"{_PLACE} {len(put) - 1}"

    def _written(self, tree: Any, put: list[bytes]) -> bytes:
        text = json.dumps(tree, ensure_ascii=self.draw.random() < 0.5).encode("utf-8", "surrogatepass")
        for number, odd in reversed(list(enumerate(put))):
            text = text.replace(b'"%s %d"' % (_PLACE.encode(), number), odd)
        return text

    def of_type(self, kind: Any) -> bytes:
        """A document with the fields that a type has, some with what they may hold and some odd."""
        return self._value(inspect.type_info(kind), 0)

    def _value(self, kind: inspect.Type, depth: int) -> bytes:
        draw = self.draw
        if draw.random() < 0.12 or depth > 6:
            return draw.choice(ODD)
        match kind:
            case inspect.Metadata():
                return self._value(kind.type, depth)
            case inspect.UnionType():
                return self._value(draw.choice(kind.types), depth)
            case inspect.StructType():
                pairs = [
                    b"%s:%s" % (msgspec.json.encode(each.encode_name), self._value(each.type, depth + 1))
                    for each in kind.fields
                    if each.required is (draw.random() < 0.9)
                ]
                if kind.tag_field is not None:
                    pairs.append(b'"%s":"%s"' % (kind.tag_field.encode(), str(kind.tag).encode()))
                return b"{" + b",".join(pairs) + b"}"
            case inspect.ListType() | inspect.VarTupleType():
                many = draw.choice((0, 1, 1, 2, 5, 600 if depth < 2 else 3))
                return b"[" + b",".join([self._value(kind.item_type, depth + 1) for _ in range(many)]) + b"]"
            case inspect.DictType():
                pairs = [
                    b"%s:%s"
                    % (
                        draw.choice((b'"a"', b'"b"', b'""', b'"a.b"')),
                        self._value(kind.value_type, depth + 1),
                    )
                    for _ in range(draw.randrange(3))
                ]
                return b"{" + b",".join(pairs) + b"}"
            case inspect.EnumType():
                return msgspec.json.encode(draw.choice(list(kind.cls)))
            case inspect.LiteralType():
                return msgspec.json.encode(draw.choice(list(kind.values)))
            case inspect.IntType():
                return b"%d" % draw.choice((0, 1, 2, 5, 500, 2**31, 2**53, -1, kind.ge or 1, kind.le or 9))
            case inspect.FloatType():
                return draw.choice((b"0", b"0.5", b"1", b"30", b"1e9", b"-1"))
            case inspect.BoolType():
                return draw.choice((b"true", b"false"))
            case inspect.DateTimeType():
                return draw.choice(
                    (b'"2030-01-01T00:00:00Z"', b'"1970-01-01T00:00:00Z"', b'"2099-12-31T23:59:59Z"')
                )
            case inspect.StrType():
                return draw.choice(
                    (b'"a"', b'"t"', b'"mail"', b'"w1"', b'"a/b"', b'"*"', b'"' + b"ab" * 32 + b'"')
                )
            case inspect.NoneType():
                return b"null"
            case _:
                return draw.choice((b"1", b'{"n":1}', b'"x"', b"null"))

    def among(self, *ways: Callable[[], bytes]) -> bytes:
        """What one of the ways gives."""
        return self.draw.choice(ways)()


def _keys(holder: Any) -> Sequence[Any]:
    return list(cast("dict[str, Any]", holder)) if isinstance(holder, dict) else range(len(holder))


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree, as what holds it and the key or index there; the first 500."""
    found: list[tuple[Any, Any]] = []
    left = [tree]
    while left and len(found) < 500:
        holder = left.pop()
        if isinstance(holder, dict | list):
            found += [(holder, key) for key in _keys(holder)]
            left += [holder[key] for key in _keys(holder)]
    return found
