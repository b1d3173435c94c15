"""Secrets are left out of text in whatever form it has, and messages stay messages."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.workers.redaction import REDACTED, Redactor
from writ.workers.stores import without

SECRET = st.text(min_size=8, max_size=40).filter(
    lambda text: text.strip() == text and len(set(text)) > 5 and not REDACTED.count(text)
)
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda s: s,
    "json": json.dumps,
    "json in json": lambda s: json.dumps(json.dumps({"it": s})),
    "url": lambda s: urllib.parse.quote(s, safe=""),
    "form": urllib.parse.quote_plus,
    "hex": lambda s: s.encode().hex(),
    "bytes": lambda s: repr(s.encode()),
    "ascii": ascii,
    "repr": repr,
}


@given(secret=SECRET, around=st.tuples(st.text("ab ", max_size=9), st.text("ab ", max_size=9)))
def test_a_secret_is_left_out_in_each_form(secret: str, around: tuple[str, str]) -> None:
    try:
        raw = secret.encode()
    except UnicodeEncodeError:
        return
    redactor = Redactor()
    redactor.learn(raw)
    for name, form in FORMS.items():
        shown = form(secret)
        clean = redactor.text(f"{around[0]}{shown}{around[1]}")
        assert shown.strip("'\"") not in clean, name
        assert REDACTED in clean, name


@given(raw=st.binary(min_size=12, max_size=60), before=st.binary(max_size=4), behind=st.binary(max_size=4))
def test_of_base64_no_more_is_left_than_its_ends_share_with_what_is_around(
    raw: bytes, before: bytes, behind: bytes
) -> None:
    redactor = Redactor()
    redactor.learn(raw)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = encode(before + raw + behind).decode()
        clean = redactor.text(shown)
        assert REDACTED in clean
        left = len(clean.replace(REDACTED, ""))
        assert left <= 4 * (len(before) + len(behind) + 6) // 3 + 4


def test_numbers_and_names_of_fields_are_left_out_too() -> None:
    redactor = Redactor()
    redactor.learn(b"12345678")
    content = msgspec.json.encode({"pin": 12345678, "12345678": [1.5, True, None, "12345678!"]})
    assert json.loads(redactor.json(content)) == {
        "pin": REDACTED,
        REDACTED: [1.5, True, None, f"{REDACTED}!"],
    }


def test_a_message_still_says_which_job_it_is_about() -> None:
    """A secret that is also a job's id, or a worker's name, must not make reports of nobody."""
    redactor = Redactor()
    redactor.learn(b"invoice-7")
    told = {
        "worker": "invoice-7",
        "reports": [{"id": "invoice-7", "token": 3, "output": {"id": "invoice-7"}, "text": "of invoice-7"}],
    }
    clean = json.loads(redactor.message(msgspec.json.encode(told)))
    (report,) = clean["reports"]
    assert (clean["worker"], report["id"], report["token"]) == ("invoice-7", "invoice-7", 3)
    assert report["output"] == {"id": REDACTED}
    assert report["text"] == f"of {REDACTED}"


@pytest.mark.parametrize("size", [1, 2, 7, 30, 1_000])
def test_a_secret_that_is_split_over_parts_of_a_file_is_left_out(size: int) -> None:
    redactor = Redactor()
    redactor.learn(b"a secret of some length")
    whole = b"begin a secret of some length, a secret of some length end"
    parts = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert b"".join(without(redactor, parts)) == b"begin [redacted], [redacted] end"


def test_of_output_that_was_cut_the_rest_of_a_cut_secret_is_left_out() -> None:
    redactor = Redactor()
    redactor.learn(b"a secret of some length")
    output = b"et of some length" + b"x" * 200 + b" a secret of some length."
    assert b"length" not in redactor.tail(output, 150, cut=True)
    assert redactor.tail(output, 20, cut=True).endswith(b" [redacted].")


def test_the_lines_of_a_key_are_left_out_one_by_one() -> None:
    redactor = Redactor()
    lines = (b"-----BEGIN KEY-----", b"MIIEvQIBADANBgkqhkiG9w0B", b"AQEFAASCBKcwggSjAgEAAoIB")
    redactor.learn(b"\n".join(lines))
    assert redactor.text("line 2: AQEFAASCBKcwggSjAgEAAoIB") == f"line 2: {REDACTED}"
