"""Fields of a form from a JSON Schema, and what was typed into them as values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, cast

import msgspec

_NUMBERS: Final = {"integer": int, "number": float}


class Field(NamedTuple):
    """A field: `kind` is text, number, integer, choice, yes_no or json; `hint` says what it takes."""

    name: str
    kind: str
    required: bool
    hint: str
    choices: tuple[str, ...] = ()
    default: str = ""
    least: float | None = None
    most: float | None = None


def fields_of(schema: dict[str, Any]) -> list[Field] | None:
    """The fields of an object, in its order; None where the schema is of something else."""
    properties = _properties(schema, schema)
    if properties is None:
        return None
    return [_field(name, part, required) for name, part, required in properties]


def leaves_of(schema: dict[str, Any]) -> list[Field]:
    """The fields of an object and of the objects within it, by dotted names."""

    def walked(part: dict[str, Any], path: str) -> Iterator[Field]:
        for name, each, required in _properties(part, schema) or ():
            if _properties(each, schema) is None:
                yield _field(path + name, each, required)
            else:
                yield from walked(each, f"{path}{name}.")

    return list(walked(schema, ""))


def _properties(part: dict[str, Any], whole: dict[str, Any]) -> list[tuple[str, dict[str, Any], bool]] | None:
    """The named parts of an object, each with its schema and whether it is required."""
    found = _resolved(part, whole)
    if found.get("type") != "object" or "properties" not in found:
        return None
    required = found.get("required", ())
    return [(name, _resolved(each, whole), name in required) for name, each in found["properties"].items()]


def _resolved(part: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """A schema without the reference that it is behind, and without the null that it may be."""
    for _ in range(10):
        if "$ref" in part:
            inner: Any = whole
            for name in str(part["$ref"]).removeprefix("#/").split("/"):
                inner = inner.get(name, {})
            part = {**{key: value for key, value in part.items() if key != "$ref"}, **inner}
        elif "anyOf" in part:
            kinds = [each for each in part["anyOf"] if each.get("type") != "null"]
            if len(kinds) != 1:
                return part
            part = {**{key: value for key, value in part.items() if key != "anyOf"}, **kinds[0]}
        else:
            return part
    return {}


def _field(name: str, schema: dict[str, Any], required: bool) -> Field:
    hint = str(schema.get("description", ""))
    default = schema.get("default")
    typed = "" if default is None else typed_of(default)
    kind = schema.get("type")
    if "enum" in schema:
        choices = tuple([each if isinstance(each, str) else _json(each) for each in schema["enum"]])
        return Field(name, "choice", required, hint, choices, typed)
    if kind in _NUMBERS:
        span = (schema.get("minimum"), schema.get("maximum"))
        return Field(name, "integer" if kind == "integer" else "number", required, hint, (), typed, *span)
    if kind == "boolean":
        return Field(name, "yes_no", required, hint, ("true", "false"), typed)
    if kind == "string":
        return Field(name, "text", required, hint or str(schema.get("format", "")), (), typed)
    return Field(name, "json", required, hint or _meant(schema), (), typed)


def _meant(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "array":
        items = cast("dict[str, Any]", schema.get("items") or {})
        return f"JSON, a list of {items.get('type', 'values')}s" if items else "JSON, a list"
    return "JSON, an object" if kind == "object" else "JSON"


def typed_of(value: Any) -> str:
    """A value as somebody would type it into its field."""
    if isinstance(value, str):
        return value
    return _json(int(value) if isinstance(value, float) and value.is_integer() else value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def value_of(field: Field, text: str) -> Any:
    """What was typed, as a value. Raises ValueError with what is wrong with it."""
    if not text:
        if field.kind == "text":
            return ""
        raise ValueError(f"{field.name} is needed")
    if field.kind in _NUMBERS or field.kind == "number":
        kind = int if field.kind == "integer" else float
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not {'a whole' if kind is int else 'a'} number") from None
        if field.least is not None and number < field.least:
            raise ValueError(f"it is {text}; at least {field.least:g} is needed")
        if field.most is not None and number > field.most:
            raise ValueError(f"it is {text}; at most {field.most:g} is allowed")
        return number
    if field.kind == "yes_no":
        return text == "true"
    if field.kind == "json":
        try:
            return msgspec.json.decode(text.encode())
        except msgspec.MsgspecError as error:
            raise ValueError(f"this is not JSON: {error}") from error
    if field.kind == "choice" and text not in field.choices:
        raise ValueError(f"{text!r} is not one of {', '.join(field.choices)}")
    return text
