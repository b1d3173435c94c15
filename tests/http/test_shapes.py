"""Bodies as their types: whole numbers however JSON writes them, and what is broken."""

from __future__ import annotations

import msgspec
import pytest

from writ.http.problems import Fault
from writ.http.shapes import body_of


class Counted(msgspec.Struct):
    count: int


class Many(msgspec.Struct):
    counts: list[int]


@pytest.mark.parametrize("sent", [b"3", b"3.0", b"30e-1", b"0.3e1"])
def test_a_whole_number_may_be_written_as_any(sent: bytes) -> None:
    assert body_of(b'{"count":%b}' % sent, Counted) == Counted(3)


@pytest.mark.parametrize(
    "sent",
    [
        b'1e9"count": 1}',
        b'99999999999999999999"count": 1}',
        b'{"count": 3.5}',
        b"7.0",
        b"-",
    ],
)
def test_what_is_broken_or_no_such_number_is_refused(sent: bytes) -> None:
    with pytest.raises(Fault):
        body_of(sent, Counted)


def test_a_number_of_a_billion_digits_is_refused_unread() -> None:
    with pytest.raises(Fault, match="out of range"):
        body_of(b'{"counts": [1.0, 1e999999999]}', Many)
