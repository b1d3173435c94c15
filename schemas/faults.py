"""What is wrong with a message's form, in words: the field, what is allowed there, and what stood there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from msgspec import inspect

_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$?(.*)`$", re.DOTALL)
_FIELD: Final = re.compile(r"field `([^`]*)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[(\.\.\.)\]")
NULL: Final = b"null"
"""What stands in a message for each infinity or NaN: one without it need not be looked into."""

_SHOWN_CHARS: Final = 60
_NAME_CHARS: Final = 200
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def explain_fault(
    error: Exception, sent: bytes | msgspec.Raw | None = None, kind: Any = None
) -> tuple[str | None, str]:
    """The field that a decoding error is about, where it has one, and the reason in words.

    `sent` is the JSON that was read, and `kind` the type that it was read as: with them the reason names the
    value that stood there, and all that would be allowed where that is a list.
    """
    text = str(error)
    place = _PLACE.search(text)
    path = place.group(1).lstrip(".") if place else ""
    reason = _PLACE.sub("", text)
    named = _FIELD.search(reason)
    if named:
        name = named.group(1)
        reason = reason.replace(f"`{name}`", f"`{name[:_NAME_CHARS]}`")
        known = _allowed(_at(kind, path, sent)) if "unknown" in reason else ""
        path = f"{path}.{name}" if path else name
        return path or None, f"{reason}; {known}" if known else reason
    words = [reason]
    if not reason.startswith("Expected") and (allowed := _allowed(_at(kind, path, sent, "`key` in" in text))):
        words.append(allowed)
    if sent is not None and path and "`key` in" not in text and (stood := _stood(sent, path)):
        words.append(f"{path} is {stood}")
    return path or None, "; ".join(words)


def number_fault(message: Any, field: str = "") -> tuple[str, str] | None:
    """The field of a message, before it is JSON, that holds an infinity or NaN, and the reason in words.

    JSON has no such numbers: they would be written as null, which means that nothing was given. What is
    JSON by now, as `msgspec.Raw`, is not looked into.
    """
    if isinstance(message, float):
        return None if math.isfinite(message) else (field, f"it is {message}; give a finite number")
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(message, Mapping):
        parts = cast("Mapping[object, object]", message).items()
    elif isinstance(message, msgspec.Struct):
        parts = [(name, getattr(message, name)) for name in message.__struct_fields__]
    elif isinstance(message, list | tuple):
        several = cast("Sequence[object]", message)
        return _first(number_fault(each, f"{field}[{place}]") for place, each in enumerate(several))
    return _first(number_fault(each, f"{field}.{name}" if field else str(name)) for name, each in parts)


def _first(faults: Iterable[tuple[str, str] | None]) -> tuple[str, str] | None:
    return next((fault for fault in faults if fault is not None), None)


def _stood(sent: bytes | msgspec.Raw, path: str) -> str:
    """What stands at a place in JSON text; several where the place does not say which."""
    found = [msgspec.Raw(sent)]
    try:
        for name, index, _ in _STEP.findall(f".{path}" if path and path[0] != "[" else path):
            if name:
                found = [fields[name] for each in found if name in (fields := _fields(each))]
            elif index:
                found = [_items(each)[int(index)] for each in found]
            else:
                found = [value for each in found for value in _fields(each).values()]
        return ", ".join([_shown(bytes(each)) for each in found[:3]])
    except (msgspec.MsgspecError, RecursionError, IndexError, UnicodeDecodeError):
        return ""  # the text is broken behind the place that the error is about


def _shown(value: bytes) -> str:
    """A value of JSON, or its beginning and its size."""
    if value[:1] == b"[":
        return f"an array of {len(_items(value))}"
    text = value.strip().decode("utf-8", "replace")
    if len(text) <= _SHOWN_CHARS:
        return text
    size = len(msgspec.json.decode(value, type=str)) if value[:1] == b'"' else len(text)
    return f"{text[:_SHOWN_CHARS]}... of {size} characters"


def _at(kind: Any, path: str, sent: bytes | msgspec.Raw | None, key: bool = False) -> inspect.Type | None:
    """The type at a place below `kind`, or that of its keys. What was sent tells which one of a union is."""
    found: inspect.Type | None = None if kind is None else inspect.type_info(kind)
    steps = list(_STEP.finditer(f".{path}" if path and path[0] != "[" else path))
    for number, step in enumerate(steps):
        name = step.group(1)
        before = "".join([s.group(0) for s in steps[:number]])
        below = [] if found is None else _tagged(_bare(found), sent, before)
        found = None
        for each in below:
            if name and isinstance(each, inspect.StructType):
                found = next((f.type for f in each.fields if f.encode_name == name), found)
            elif not name and isinstance(each, inspect.DictType):
                found = each.value_type
            elif not name and isinstance(each, inspect.VarTupleType | inspect.ListType):
                found = each.item_type
    if found is not None and len(several := _bare(found)) > 1:
        found = next(iter(_tagged(several, sent, path)), found)
    if key:
        found = next((d.key_type for d in _bare(found) if isinstance(d, inspect.DictType)), None)
    return found


def _tagged(types: list[inspect.Type], sent: bytes | msgspec.Raw | None, path: str) -> list[inspect.Type]:
    """Of several Structs the one that the value at a place is tagged as; all where it is tagged as none."""
    fields = {each.tag_field for each in types if isinstance(each, inspect.StructType)} - {None}
    if len(types) < 2 or not fields or sent is None:
        return types
    tag = _stood(sent, f"{path}.{fields.pop()}".lstrip(".")).strip('"')
    named = [each for each in types if isinstance(each, inspect.StructType) and each.tag == tag]
    return list(named) or types


def _bare(type_: inspect.Type | None) -> list[inspect.Type]:
    """The types that a union stands for."""
    if type_ is None:
        return []
    if isinstance(type_, inspect.Metadata):
        return _bare(type_.type)
    return list(type_.types) if isinstance(type_, inspect.UnionType) else [type_]


def _allowed(type_: inspect.Type | None) -> str:
    """What a type allows, where it can be listed."""
    for each in _bare(type_):
        if isinstance(each, inspect.StructType):
            return f"known are {', '.join([field.encode_name for field in each.fields])}"
        if isinstance(each, inspect.EnumType):
            return f"allowed are {', '.join([str(member.value) for member in each.cls])}"
        if isinstance(each, inspect.LiteralType):
            return f"allowed are {', '.join([str(value) for value in each.values])}"
        if isinstance(each, inspect.IntType | inspect.FloatType):
            limits = ((">=", each.ge), (">", each.gt), ("<=", each.le), ("<", each.lt))
            words = [f"{sign} {limit}" for sign, limit in limits if limit is not None]
            return f"allowed are {' and '.join(words)}" if words else ""
        if isinstance(each, inspect.DateTimeType):
            return "allowed are times such as 2026-01-31T08:00:00Z"
    return ""
