"""What the API takes and gives, derived from the messages of the language, and read from a request."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, inspect, structs

from writ.schemas.faults import explain_fault

from .problems import Fault

Cursor = Annotated[str, Meta(max_length=1_000)] | None
"""The name of a page as callers see it: not to be taken apart."""

_DIGITS_MAX: Final = 400
"""Of a whole number written with an exponent: more than any that a float has."""

_STEP: Final = re.compile(r"\[[^\]]*\]()|\.?([^.\[\]]+)")
"""Of the place of a fault: a field's name, or nothing for an element of a list or a value of a mapping."""

_TEXT: Final = (inspect.StrType, inspect.EnumType, inspect.LiteralType, inspect.DateTimeType)


@cache
def derived(
    cls: type[msgspec.Struct],
    without: tuple[str, ...] = (),
    name: str = "",
    more: type[msgspec.Struct] = msgspec.Struct,
    **types: Any,
) -> type[msgspec.Struct]:
    """The struct without some of its fields: strict on what it takes, with every field in what it gives.

    The fields of `more` come behind; `types` are those of fields that are something else here.
    """
    fields: list[Any] = []
    for field in (*structs.fields(cls), *structs.fields(more)):
        if field.name in without:
            continue
        given: dict[str, Any] = {"name": field.encode_name}
        if field.default is not msgspec.NODEFAULT:
            given["default"] = field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            given["default_factory"] = field.default_factory
        fields.append((field.name, types.get(field.name, field.type), msgspec.field(**given)))
    about = {"__doc__": cls.__doc__}
    return msgspec.defstruct(
        name or cls.__name__, fields, namespace=about, kw_only=True, frozen=True, forbid_unknown_fields=True
    )


def is_optional(cls: type[msgspec.Struct]) -> bool:
    """Whether a body may be left out, as all in it may."""
    return not any(field.required for field in structs.fields(cls))


def body_of(sent: bytes, kind: Any) -> Any:
    """A body as its type. Raises Fault."""
    while True:
        try:
            return msgspec.json.decode(sent, type=kind)
        except msgspec.ValidationError as error:
            field, reason = explain_fault(error, sent, kind)
            whole = _with_whole_numbers(sent, field or "") if "got `float`" in reason else sent
            if whole == sent:
                raise Fault(422, reason, field) from error
            sent = whole
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Fault(400, f"the body is not JSON: {error}") from error


def _with_whole_numbers(sent: bytes, place: str) -> bytes:
    """JSON where what stands at a place is 3, if it was 3.0: to JSON that is the same, and some write it so.

    Where the place is in a list, the same is done in all its elements.
    """
    try:
        return bytes(_whole(msgspec.Raw(sent), [name for _, name in _STEP.findall(place)]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidOperation):
        return sent  # it is broken at that place, or behind it


def _whole(value: msgspec.Raw, steps: Sequence[str]) -> msgspec.Raw:
    text = bytes(value).strip()
    begins = text[:1]
    if steps and begins == b"[":
        items = [_whole(each, steps[1:]) for each in msgspec.json.decode(text, type=list[msgspec.Raw])]
        return msgspec.Raw(msgspec.json.encode(items))
    if steps and begins == b"{":
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        for name in [steps[0]] if steps[0] else list(fields):
            if name in fields:
                fields[name] = _whole(fields[name], steps[1:])
        return msgspec.Raw(msgspec.json.encode(fields))
    if not steps and (begins == b"-" or begins.isdigit()):
        number = Decimal(text.decode())
        if number.adjusted() < _DIGITS_MAX and number == number.to_integral_value():
            return msgspec.Raw(b"%d" % int(number))
    return value


def parameters_of(
    kind: type[msgspec.Struct], path: Mapping[str, str], asked: Sequence[tuple[str, str]]
) -> Any:
    """The parameters of a path and a query string as a struct. Raises Fault."""
    given: dict[str, list[str]] = {}
    fields = {field.encode_name: field for field in structs.fields(kind)}
    for name, value in asked:
        if name not in fields or name in path:
            known = ", ".join(name for name in fields if name not in path) or "none"
            raise Fault(422, f"there is no parameter {name!r} here; known are {known}", name[:200])
        given.setdefault(name, []).append(value)
    given |= {name: [value] for name, value in path.items()}
    values = {name: _value(name, texts, fields[name].type) for name, texts in given.items()}
    try:
        return msgspec.convert(values, type=kind)
    except msgspec.ValidationError as error:
        field, reason = explain_fault(error, msgspec.json.encode(values), kind)
        raise Fault(404 if field in path else 422, reason, field) from error


def _value(name: str, texts: list[str], type_: Any) -> Any:
    """What a parameter says: text where text is meant, else as JSON would say it; repeated where many are."""
    types = _bare(inspect.type_info(type_))
    many = next((each for each in types if isinstance(each, inspect.VarTupleType)), None)
    if many is not None:
        return texts
    if any(isinstance(each, inspect.DictType) for each in types):
        return _pairs(name, texts)
    if len(texts) > 1:
        raise Fault(422, f"parameter {name} is given {len(texts)} times; give it once", name)
    if any(isinstance(each, _TEXT) for each in types):
        return texts[0]
    try:
        found = msgspec.json.decode(texts[0].encode())
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        found = None
    if isinstance(found, float) and found.is_integer() and any(isinstance(t, inspect.IntType) for t in types):
        return int(found)
    return texts[0] if found is None else found  # a text is then refused as what it is


def _pairs(name: str, texts: list[str]) -> dict[str, str]:
    """A mapping, as repeated `name=value`."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise Fault(422, f"{name} {text[:200]!r} is not a name and a value, as in env=prod", name)
        if found.setdefault(key, value) != value:
            raise Fault(409, f"{name} asks for two values of {key[:200]}, and nothing has both", name)
    return found


def _bare(type_: inspect.Type) -> list[inspect.Type]:
    if isinstance(type_, inspect.Metadata):
        return _bare(type_.type)
    if isinstance(type_, inspect.UnionType):
        return [found for each in type_.types for found in _bare(each)]
    return [type_]


def sealed_cursor(inner: str) -> str:
    """What the views call a page, as callers see it."""
    return base64.urlsafe_b64encode(inner.encode()).decode().rstrip("=")


def opened_cursor(cursor: str) -> str:
    """What is in it. Raises Fault."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise Fault(404, f"no page is named {cursor[:40]!r}; use the `next` of a page", "cursor") from None
