"""Ids, subjects, shards and sealed content."""

from __future__ import annotations

import hashlib
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.schemas import subjects
from writ.schemas.commands import Acquire, SubmitJob
from writ.schemas.ids import (
    TOKEN_PATTERN,
    derived_job_id,
    fencing_token,
    job_key,
    shard_of,
    split_job_key,
    token_fault,
    token_position,
)
from writ.schemas.sealed import Sealed, seal, unseal

GOOD = st.text("abcXYZ019_-+=:@/,", min_size=1, max_size=64)


@given(GOOD)
def test_a_good_name_has_no_fault_and_stands_in_every_subject(name: str) -> None:
    assert token_fault(name, "queue") is None
    assert msgspec.convert({"worker": name}, Acquire).worker == name
    stored = f"writ.shard.{shard_of('t', name)}.submit.t.p.{name}"
    assert subjects.parse_served(stored) == ("t", "p", "submit", name)
    asked = f"writ.shard.7.lease.t.p.acquire.{name}"
    assert subjects.parse_served(asked) == ("t", "p", "acquire", name)
    key = job_key(name, name)
    assert split_job_key(key) == (name, name)
    assert subjects.parse_log(subjects.log_subject(3, "t", "job", key)) == (3, "t", "job", key)


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "*", ">", "~", "a~b", "é", "a\n", "\n", "x" * 257, "\x00", "\\"]
)
def test_a_bad_name_is_refused_with_the_reason(name: str) -> None:
    fault = token_fault(name, "queue")
    assert fault is not None
    assert fault.startswith("queue")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"worker": name}, Acquire)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"task": "t", "id": name}, SubmitJob)


@given(st.text(max_size=20))
def test_the_pattern_and_the_function_agree(name: str) -> None:
    assert bool(re.search(TOKEN_PATTERN, name)) == (token_fault(name, "id") is None)


@pytest.mark.parametrize(
    "subject", ["", "writ", "writ.shard.1.submit.t.p", "writ.shard.1.other.t.p.v.q", "a." * 9]
)
def test_subjects_of_another_shape_are_refused(subject: str) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        subjects.parse_served(subject)
    with pytest.raises(ValueError, match="not of the form"):
        subjects.parse_log(subject)


@pytest.mark.parametrize(
    ("text", "hashed"),
    # The published test values of FNV-1a 32.
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("foobar", 0xBF9CF968), ("chongo was here!\n", 0xD49930D5)],
)
def test_shards_are_fnv_1a(text: str, hashed: int) -> None:
    assert shard_of("", text) == shard_of(text, "") == hashed % 256


@given(st.integers(0, 2**20), st.integers(0, 2**40 - 1))
def test_a_token_tells_its_record(epoch: int, seq: int) -> None:
    assert token_position(fencing_token(epoch, seq)) == (epoch, seq)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 999), st.integers(0, 499)), unique=True))
def test_derived_ids_are_apart(places: list[tuple[int, int, int]]) -> None:
    assert len({derived_job_id(*place) for place in places}) == len(places)


@given(st.binary(max_size=50))
def test_content_is_kept_to_the_byte(content: bytes) -> None:
    envelope = seal(content)
    assert unseal(envelope) == content
    assert (envelope.key, envelope.digest) == ("none", hashlib.sha256(content).hexdigest())


def test_content_under_another_key_stays_shut() -> None:
    with pytest.raises(ValueError, match="'k1'"):
        unseal(Sealed("k1", "00", cipher=b"secret"))


def test_content_keeps_the_senders_spelling() -> None:
    odd = b'{ "b" : 1.50,\t"a":[1e2, "\\u00e9"] }'
    body = msgspec.json.encode(seal(odd))
    assert odd in body
    assert unseal(msgspec.json.decode(body, type=Sealed)) == odd
