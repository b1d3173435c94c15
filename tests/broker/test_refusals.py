"""What the broker refuses, found in its log and folded."""

from __future__ import annotations

from pathlib import Path

import pytest

from writ.broker.gate import TurnedAway
from writ.broker.refusals import (
    FOLD_US,
    NOBODY,
    ORIGIN_RULE,
    UNSIGNED_RULE,
    LogTail,
    Refusal,
    Refusals,
    refusal_in,
)

_HEAD = b'[7] 2026/11/21 18:01:26.880024 [ERR] 127.0.0.1:32872 - cid:11 - "v2.16.0:python3:%b" - '
_BOT = b'"A' + b"C" * 55 + b"/default.bot/nkey:U" + b"D" * 55 + b'" - '
KEY = "U" + "D" * 55


def always(who: str, now: int) -> bool:
    return True


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b'Publish Violation - Subject "writ.log.x"', ("publish", "writ.log.x")),
        (b'Publish Violation - Reply "$JS.ACK.a"', ("publish", "$JS.ACK.a")),
        (b'Subscription Violation - Subject "writ.>", SID 1', ("subscribe", "writ.>")),
        (b'Subscription Violation - Subject "writ.>", Queue: "grp", SID 2', ("subscribe", "writ.>")),
        (b'Publish Violation - Subject "a\\"b\\\\"', ("publish", 'a\\"b\\\\')),
    ],
)
@pytest.mark.parametrize(
    "name", [b"x", b'x\\" - \\"A/default.owner/k\\" - Publish Violation - Subject \\"q\\"\\n']
)
def test_a_refusal_is_read_whatever_a_client_calls_itself(
    said: bytes, told: tuple[str, str], name: bytes
) -> None:
    assert refusal_in(_HEAD % name + _BOT + said) == Refusal("default.bot", *told)


_AT = b"[7] 2026/11/21 18:01:26.880024 "
_ASKED = _AT + b"[WRN] Auth callout service returned an error: "
_ITSELF = _AT + b"[ERR] 127.0.0.1:32872 - cid:11 - authentication error"


@pytest.mark.parametrize("name", ["team/bot", "team/nkey:U", "a:b", "a/b/c"])
def test_a_name_may_hold_a_slash(name: str) -> None:
    said = b"A" + b"C" * 55 + b"/default.%b/nkey:U" % name.encode() + b"D" * 55
    told = refusal_in(_HEAD % b"x" + b'"%b" - Publish Violation - Subject "q"' % said)
    assert told is not None
    assert told.who == ("default." + name if ":" not in name else "default." + name.partition("/")[0])


def test_a_user_s_name_of_a_client_s_own_choice_is_nobody_s() -> None:
    chosen = b"user:x/nkey:U" + b"D" * 55
    said = b'"A' + b"C" * 55 + b'/default.bot/%b" - Publish Violation - Subject "q"' % chosen
    assert refusal_in(_HEAD % b"x" + said) == Refusal("default.bot", "publish", "q")


def test_refused_logins_are_read() -> None:
    assert refusal_in(_ASKED + str(TurnedAway(KEY)).encode()) == Refusal(KEY, "login", "")
    assert refusal_in(_ASKED + str(TurnedAway()).encode()) == Refusal(NOBODY, "login", "")
    unsigned = str(TurnedAway(KEY, signed=False)).encode()
    assert refusal_in(_ASKED + unsigned) == Refusal(NOBODY, "login", KEY, UNSIGNED_RULE), (
        "it may be another's"
    )
    assert refusal_in(_ITSELF) == Refusal(NOBODY, "login", "")


@pytest.mark.parametrize("who", [b'Nkey "%b"' % KEY.encode(), b'JWT User "%b"' % KEY.encode(), b'User "x"'])
def test_a_login_that_no_gate_answered_is_no_refusal(who: bytes) -> None:
    assert refusal_in(_ITSELF + b" - " + who) is None


def test_no_login_is_told_of_in_the_words_of_a_client() -> None:
    name = _ASKED + str(TurnedAway(KEY)).encode()
    assert refusal_in(_HEAD % name) is None
    assert refusal_in(_HEAD % _ITSELF + _BOT + b"maximum") is None


@pytest.mark.parametrize(
    "line", [b"", b"[7] [INF] Server is ready", _HEAD % b"x" + _BOT + b"maximum", b"\xff\xfe"]
)
def test_other_lines_tell_of_nothing(line: bytes) -> None:
    assert refusal_in(line) is None


def test_repeats_are_one_with_their_count() -> None:
    refusals = Refusals(lambda key: ("default", "late") if key == KEY else None, "default", always)
    one = Refusal("default.bot", "publish", "writ.log.x")
    told = [refusals.take(one, at) for at in range(5)]
    assert [each.count for each in told if each is not None] == [1]
    first = told[0]
    assert first is not None
    assert (first.tenant, first.principal, first.operation) == ("default", "bot", "publish")
    assert (first.resource, first.rule) == ("writ.log.x", "broker.publish")
    assert refusals.over(FOLD_US - 1) == []
    assert [(each.principal, each.count) for each in refusals.over(FOLD_US)] == [("bot", 4)]
    assert refusals.over(10 * FOLD_US) == []
    login = refusals.take(Refusal(KEY, "login", ""), 0)
    assert login is not None
    assert login.principal == "late"


def test_a_flood_of_kinds_is_told_of_together() -> None:
    refusals = Refusals(lambda _: None, "default", always)
    told = [refusals.take(Refusal("default.bot", "publish", f"s.{n}"), 0) for n in range(3_000)]
    assert len([each for each in told if each is not None]) == 1_001
    assert sum(each.count for each in refusals.over(FOLD_US)) == 1_999


def test_what_may_not_be_told_now_is_kept() -> None:
    may = iter([True, False, False, True])
    refusals = Refusals(lambda _: None, "default", lambda who, now: next(may))
    told = [refusals.take(Refusal("default.bot", "publish", f"s.{n}"), 0) for n in range(2)]
    assert [each is not None for each in told] == [True, False]
    assert refusals.over(1) == []
    assert [each.resource for each in refusals.over(2)] == ["s.1"]


def test_strangers_share_one_budget_and_are_counted_together_when_they_are_many() -> None:
    asked: list[str] = []

    def may(who: str, now: int) -> bool:
        asked.append(who)
        return len(asked) == 1

    refusals = Refusals(lambda key: ("default", "late") if key == KEY else None, "default", may, kinds_max=10)
    told = [refusals.take(Refusal(f"U{n:055}", "login", ""), 0) for n in range(1_000)]
    assert [each.principal for each in told if each is not None] == [f"U{0:055}"]
    assert set(asked) == {NOBODY}
    refusals.take(Refusal(KEY, "login", ""), 0)
    assert asked[-1] == KEY, "who has a name has a budget"
    asked.clear()
    (most,) = refusals.over(0)
    assert (most.principal, most.count) == (NOBODY, 990), "what came most often is told of first"
    told_of = 1 + most.count
    while refusals.is_counting:
        asked.clear()
        told_of += sum(each.count for each in refusals.over(FOLD_US))
    assert told_of == 1_000 + 1, "none is lost"


def test_what_the_http_api_refuses_names_it_and_its_rule() -> None:
    refusals = Refusals(lambda _: None, "default", always)
    told = refusals.take(Refusal(NOBODY, "request", "'http://evil{0}'", ORIGIN_RULE), 0)
    assert told is not None
    assert (told.tenant, told.principal, told.rule) == ("default", NOBODY, "http.origin")
    said = "pages of another origin are not answered, as of 'http://evil{0}'"
    assert told.why == f"the HTTP API refused it: {said} [http.origin]"


def test_a_log_is_followed_by_whole_lines_and_from_its_start_when_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    tail = LogTail(path)
    assert tail.lines() == []
    with path.open("ab") as file:
        file.write(b"one\ntw")
    assert tail.lines() == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\n")
    assert tail.lines() == [b"two"]
    path.write_bytes(b"new\n")
    assert tail.lines() == [b"new"]
    path.unlink()
    assert tail.lines() == []
