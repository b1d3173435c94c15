"""Every constraint of every message, broken one at a time: the refusal names the field, limit and value.

The constraints are read off the types, so that a new field, or a new limit of one, is in the table at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec import inspect

from writ.orchestrator.messages import open_request, open_submit
from writ.schemas.commands import CONTROL_VERBS, LEASE_VERBS, SubmitJob
from writ.schemas.granting import NKEY_PATTERN
from writ.schemas.ids import KEY_PATTERN
from writ.schemas.notes import DIGEST_PATTERN
from writ.schemas.processes import VERSION_PATTERN
from writ.schemas.rejections import Rejection, RejectionKind

VERSION = rf"^{VERSION_PATTERN}$(?!\n)"
TYPES: dict[str, type[msgspec.Struct]] = {"submit": SubmitJob, **LEASE_VERBS, **CONTROL_VERBS}
WRONG: dict[type[inspect.Type], object] = {
    inspect.StrType: 5,
    inspect.IntType: "five",
    inspect.FloatType: "five",
    inspect.BoolType: "five",
    inspect.StructType: "five",
    inspect.VarTupleType: "five",
    inspect.DictType: "five",
}


class Fault(NamedTuple):
    """A value that breaks one constraint: where, and what the refusal must name besides."""

    path: str
    value: Any
    limit: str
    shown: str


def members(kind: inspect.Type) -> list[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        return members(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [m for m in kind.types if not isinstance(m, inspect.NoneType)]
    return [kind]


def sound(kind: inspect.Type) -> Any:
    """The smallest value that a type takes."""
    (kind, *_) = members(kind)
    match kind:
        case inspect.StructType(fields=fields):
            tagged = {kind.tag_field: kind.tag} if kind.tag_field else {}
            return {**tagged, **{f.encode_name: sound(f.type) for f in fields if f.required}}
        case inspect.StrType(pattern=pattern):
            return {
                KEY_PATTERN: "q~a",
                DIGEST_PATTERN: "ab" * 32,
                NKEY_PATTERN: "U" + "A" * 55,
                VERSION: "1.0.0",
            }.get(pattern or "", "a")
        case inspect.IntType(ge=ge) | inspect.FloatType(ge=ge):
            return ge if ge is not None else 1
        case inspect.EnumType(cls=cls):
            return next(iter(cls)).value
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.DateTimeType():
            return "2026-01-31T08:00:00Z"
        case inspect.VarTupleType(item_type=item, min_length=least):
            return [sound(item)] * (least or 0)
        case inspect.DictType():
            return {}
        case inspect.BoolType():
            return True
        case inspect.RawType():
            return None
        case inspect.BytesType():
            return ""
        case _:
            raise NotImplementedError(f"no sound value of {kind}")


def broken(kind: inspect.Type) -> Iterator[Fault]:
    """Values of which each breaks one constraint of the type itself."""
    if type(kind) in WRONG:
        value = WRONG[type(kind)]
        yield Fault("", value, "Expected", str(value))
    match kind:
        case inspect.IntType() | inspect.FloatType():
            step = 1
            limits = ((">=", kind.ge, -step), (">", kind.gt, 0), ("<=", kind.le, step), ("<", kind.lt, 0))
            for sign, limit, off in limits:
                if limit is not None and abs(limit) < 2**62:
                    value = limit + off
                    yield Fault("", value, f"{sign} {limit}", str(value))
        case inspect.StrType(min_length=least, max_length=most, pattern=pattern):
            if least:
                yield Fault("", "a"[: least - 1], f">= {least}", '"')
            if most:
                yield Fault("", "a" * (most + 1), f"<= {most}", f"of {most + 1} characters")
            if pattern:
                yield Fault("", "a b", "matching regex", '"a b"')
        case inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
            if least:
                yield Fault("", [], f">= {least}", "an array of 0")
            if most:
                yield Fault("", [sound(item)] * (most + 1), f"<= {most}", f"an array of {most + 1}")
        case inspect.BytesType(max_length=most) if most:
            yield Fault("", "AAAA" * (most // 3 + 1), f"<= {most}", "bytes")
        case inspect.EnumType(cls=cls):
            yield Fault("", "nope", ", ".join([m.value for m in cls]), "'nope'")
        case inspect.LiteralType(values=values):
            yield Fault("", "nope", ", ".join([str(v) for v in values]), "'nope'")
        case inspect.DateTimeType():
            yield Fault("", "soon", "2026-01-31T08:00:00Z", '"soon"')
            yield Fault("", "2026-01-31T08:00:00", "timezone", '"2026-01-31T08:00:00"')
        case _:
            pass


def faults(kind: inspect.Type, whole: bool = False) -> Iterator[Fault]:
    """The same, and of everything below."""
    for each in members(kind):
        if not whole:
            yield from broken(each)
        if isinstance(each, inspect.StructType):
            base = sound(each)
            for field in each.fields:
                name = field.encode_name
                if field.required:
                    less = {k: v for k, v in base.items() if k != name}
                    yield Fault(f".{name}", less, "missing required", name)
                for below in faults(field.type):
                    yield below._replace(path=f".{name}{below.path}", value={**base, name: below.value})
            known = [field.encode_name for field in each.fields]
            yield Fault(".colour", {**base, "colour": 1}, "".join(known[:1]), "unknown field `colour`")
        elif isinstance(each, inspect.VarTupleType):
            for below in faults(each.item_type):
                yield below._replace(path=f"[0]{below.path}", value=[below.value])
        elif isinstance(each, inspect.DictType):
            key = sound(each.key_type)
            for below in faults(each.value_type):
                yield below._replace(path=f"[...]{below.path}", value={key: below.value})


TABLE = [
    pytest.param(verb, fault, id=f"{verb}{fault.path} {fault.limit[:20]}")
    for verb, kind in TYPES.items()
    for fault in faults(inspect.type_info(kind), whole=True)
]


def refusal(verb: str, body: bytes) -> Rejection:
    if verb == "submit":
        message = open_submit(1, 1, "writ.shard.0.submit.default.owner.mail", body)
        assert not message.sound
        (rejection,) = message.refused
        return rejection
    room = "lease" if verb in LEASE_VERBS else "control"
    asked = open_request(f"writ.shard.0.{room}.default.owner.{verb}.mail", body, lambda _: None)
    assert isinstance(asked.command, Rejection)
    return asked.command


@pytest.mark.parametrize(("verb", "fault"), TABLE)
def test_every_constraint_of_every_message_is_refused_in_full(verb: str, fault: Fault) -> None:
    """Must hold: each rule's refusal names the rule, the limit and the value."""
    rejection = refusal(verb, msgspec.json.encode(fault.value))
    assert rejection.kind is RejectionKind.MALFORMED
    assert rejection.field == fault.path.lstrip(".")
    if verb == "set_asset":  # what is wrong in it may be a secret: it is never said again
        assert fault.limit in rejection.reason
        assert not fault.shown.startswith('"') or fault.shown not in rejection.reason
        return
    for words in (fault.path.rpartition(".")[2], fault.limit, fault.shown):
        assert words in rejection.reason


@pytest.mark.parametrize("verb", TYPES)
def test_the_values_that_are_broken_were_sound_before(verb: str) -> None:
    """Else a refusal might be about another field."""
    kind = TYPES[verb]
    msgspec.json.decode(msgspec.json.encode(sound(inspect.type_info(kind))), type=kind)
