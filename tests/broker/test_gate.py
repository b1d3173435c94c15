"""Who gets past the gate, for how long, and what becomes of connections that stood."""

# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from writ.broker.accounts import BrokerSettings, Principal, render
from writ.broker.client import Client, JobHandle
from writ.broker.clock import SystemClock
from writ.broker.connect import Target, connect, login
from writ.broker.doors import local_principal
from writ.broker.embedded import EmbeddedBroker
from writ.broker.errors import NoAnswer, NotAdmitted, PermissionDenied
from writ.broker.gate import LIFE_S, SKEW_S, Entry, Gate
from writ.broker.jwt import KeyKind, Signer, claims_in, signer_in
from writ.broker.keys import load_or_create
from writ.broker.refusals import NOBODY, LogTail, Refusal, refusal_in
from writ.broker.trust import Trust
from writ.broker.wire import NatsWire
from writ.schemas.subjects import submit_subject

WAIT_S = 10.0
NOW_S = 1_700_000_000


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - watches another's state, which has no event
            await asyncio.sleep(0.005)


def bot(directory: Path, *roles: Any, name: str = "bot") -> Principal:
    return local_principal(directory, "default", name, frozenset(roles or ("submit",)))


def wire_to(broker: EmbeddedBroker, name: str) -> Target:
    return Target(broker.url, broker.key_path(name), principal=name)


async def submit(wire: NatsWire, name: str = "bot", once: str = "") -> int:
    return await wire.publish_submit(submit_subject("default", name, "q"), b"{}", once or os.urandom(8).hex())


async def intake(broker: EmbeddedBroker) -> Any:
    link = await connect(Target(broker.url, broker.key_path("log")), "test", inbox_prefix="_INBOX")
    await link.jetstream().add_stream(name="WRIT_SUBMIT", subjects=["writ.shard.*.submit.>"])
    return link


# --- the questions and answers --------------------------------------------------------------------------


class At:
    def wall_us(self) -> int:
        return NOW_S * 1_000_000

    def mono_us(self) -> int:
        return 0


class Known:
    def __init__(self, entry: Entry | None = None) -> None:
        self.entry = entry
        self.asked: list[str] = []

    def by_key(self, public: str) -> Entry | None:
        self.asked.append(public)
        return self.entry

    def by_token(self, digest: str) -> Entry | None:
        self.asked.append(digest)
        return self.entry


USER = Signer(KeyKind.USER, b"u" * 32)
SERVER = Signer(KeyKind.SERVER, b"s" * 32)
BOT = Principal("default", "bot", USER.public, frozenset({"submit"}))


def question(shown: dict[str, str], nonce: str = "n", signer: Signer = SERVER, **over: Any) -> bytes:
    asked = {
        "server_id": {"id": SERVER.public},
        "user_nkey": USER.public,
        "client_info": {"nonce": nonce},
        "connect_opts": shown,
    }
    claims = {"aud": "nats-authorization-request", "sub": "x", "nats": asked, **over}
    return signer.token(claims, NOW_S).encode()


def signed(nonce: bytes = b"n", by: Signer = USER) -> dict[str, str]:
    return {"nkey": USER.public, "sig": base64.urlsafe_b64encode(by.sign(nonce)).decode().rstrip("=")}


def asked(gate: Gate, request: bytes) -> dict[str, Any]:
    answer = gate.answer(request)
    assert answer is not None
    return dict(claims_in(answer.decode())["nats"])


def test_who_has_signed_gets_its_own_account_and_permissions_for_an_hour() -> None:
    trust = Trust(Signer(KeyKind.OPERATOR, b"o" * 32))
    gate = Gate(trust, Known(Entry(BOT)), At())
    token = claims_in(asked(gate, question(signed()))["jwt"])
    assert token["iss"] == trust.account("default.bot").public
    assert (token["iat"], token["exp"]) == (NOW_S - SKEW_S, NOW_S + LIFE_S)
    assert token["nats"]["pub"] == {"allow": ["writ.submit.default.bot.*"]}
    assert token["nats"]["sub"] == {"allow": ["_INBOX.>", "_INBOX_bot.>", "writ.led.*"]}


def test_a_login_that_was_changed_within_the_second_counts_from_the_next() -> None:
    gate = Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), Known(Entry(BOT, NOW_S)), At())
    assert claims_in(asked(gate, question(signed()))["jwt"])["iat"] == NOW_S + 1


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"nkey": USER.public},
        {**signed(), "sig": ""},
        {**signed(), "sig": "AAAA"},
        {**signed(), "sig": "not base64 at all"},
        signed(b"another nonce"),
        signed(by=Signer(KeyKind.USER, b"x" * 32)),
        {**signed(), "nkey": "U" * 56},
        {**signed(), "nkey": SERVER.public},
        {**signed(), "nkey": "log"},
    ],
)
def test_who_has_not_signed_is_not_even_looked_up(shown: dict[str, str]) -> None:
    known = Known(Entry(BOT))
    gate = Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), known, At())
    assert "jwt" not in asked(gate, question(shown))
    assert known.asked == []


def test_a_key_with_a_token_beside_it_is_judged_by_the_key() -> None:
    known = Known(Entry(BOT))
    gate = Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), known, At())
    assert "error" in asked(gate, question({"nkey": USER.public, "sig": "AAAA", "auth_token": "secret"}))
    assert known.asked == []


@pytest.mark.parametrize("field", ["auth_token", "pass"])
def test_a_token_is_looked_up_by_its_digest(field: str) -> None:
    known = Known(Entry(BOT))
    gate = Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), known, At())
    assert "jwt" in asked(gate, question({field: "secret"}))
    assert known.asked == ["2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"]


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\xff\xfe",
        b"a.b.c",
        b"..",
        b"e30.e30.",
        question(signed())[:-8] + b"AAAAAAAA",
        question(signed(), signer=USER),
        question(signed(), aud="another"),
        question(signed(), nats="no object"),
        question(signed(), nats={}),
        question(signed(), nats=None),
    ],
)
def test_what_no_broker_has_signed_gets_no_answer(request_: bytes) -> None:
    known = Known(Entry(BOT))
    gate = Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), known, At())
    assert gate.answer(request_) is None
    assert known.asked == []


class Unreadable(Known):
    def by_key(self, public: str) -> Entry | None:
        raise FileNotFoundError(public)


def test_where_it_cannot_be_read_who_is_known_the_question_is_left_to_another_gate() -> None:
    gate = Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), Unreadable(), At())
    assert gate.answer(question(signed())) is None


def test_a_life_longer_than_an_hour_is_refused() -> None:
    for life_s in (0, LIFE_S + 1):
        with pytest.raises(ValueError, match="1 to 3600 s"):
            Gate(Trust(Signer(KeyKind.OPERATOR, b"o" * 32)), Known(), At(), life_s)


def test_keys_of_accounts_are_found_again_by_name_and_differ_by_name() -> None:
    trusts = [Trust(Signer(KeyKind.OPERATOR, secret)) for secret in (b"o" * 32, b"o" * 32, b"p" * 32)]
    first, again, other = [trust.account("default.bot") for trust in trusts]
    assert first.public == again.public != other.public
    assert len({first.public, trusts[0].account("default.owner").public, trusts[0].user("log").public}) == 3
    assert signer_in(first.seed).public == first.public


# --- on a real broker -----------------------------------------------------------------------------------


async def test_a_connection_comes_back_by_itself_when_its_login_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submits go on while logins of one second end again and again: none is lost, none stored twice."""
    monkeypatch.setattr("writ.broker.wire.SUBMIT_TIMEOUT_S", 0.5)

    def short(settings: BrokerSettings) -> BrokerSettings:
        return replace(settings, login_life_s=1)

    async with await EmbeddedBroker.start(tmp_path, principals=[bot(tmp_path)], configure=short) as broker:
        link = await intake(broker)
        wire = await NatsWire.connect(wire_to(broker, "bot"), "t")
        stored: list[int] = []
        async with asyncio.timeout(WAIT_S):
            while wire.connections < 3:
                once = f"submit-{len(stored)}"
                with suppress(NoAnswer):  # on its way as the connection broke: the same again
                    stored.append(await submit(wire, once=once))
        assert stored == list(range(1, len(stored) + 1))
        assert link.stats["reconnects"] == 0  # Writ's own users need no gate
        await wire.close()
        await link.close()


async def test_connections_outlive_the_gate(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path, principals=[bot(tmp_path)]) as broker:
        link = await intake(broker)
        wire = await NatsWire.connect(wire_to(broker, "bot"), "t")
        await broker.gate_link.close()
        assert [await submit(wire), await submit(wire)] == [1, 2]
        with pytest.raises(NotAdmitted, match=r"does not admit the key in .*bot\.nk"):
            await NatsWire.connect(wire_to(broker, "bot"), "t")
        assert wire.connections == 1
        # A second gate beside it needs nothing of the first but the same secret.
        other = await connect(Target(broker.url, broker.key_path("gate")), "gate", inbox_prefix="_INBOX")
        await Gate(Trust.in_directory(tmp_path / "keys"), broker.roll, SystemClock()).open(other)
        again = await NatsWire.connect(wire_to(broker, "bot"), "t")
        assert await submit(again) == 3
        for each in (wire, again, link, other):
            await each.close()


async def _tried(broker: EmbeddedBroker, **shown: Any) -> None:
    with suppress(nats.errors.Error, TimeoutError):
        await nats.connect(broker.url, allow_reconnect=False, max_reconnect_attempts=0, **shown)
        pytest.fail("it was let in")


async def test_who_was_turned_away_is_told_and_who_was_not_answered_is_not(tmp_path: Path) -> None:
    """What Writ reads in the log of the broker, as the audit tells it."""

    def short(settings: BrokerSettings) -> BrokerSettings:
        return replace(settings, login_timeout_s=1)

    async with await EmbeddedBroker.start(tmp_path, principals=[bot(tmp_path)], configure=short) as broker:
        tail = LogTail(Path(broker.settings.log_file))
        lines: list[bytes] = []

        def said(words: bytes) -> int:
            lines.extend(tail.lines())
            return len([line for line in lines if words in line])

        def told() -> list[Refusal]:
            return [found for found in map(refusal_in, lines) if found is not None]

        stranger = load_or_create(tmp_path / "stranger.nk")
        await _tried(broker, nkeys_seed=str(stranger.seed_path))
        await _tried(broker, token="guessed")
        taken = tmp_path / "taken.creds"
        of_gate = broker.key_path("gate").read_text()
        taken.write_text(re.sub(r"SU[A-Z2-7]{56}", stranger.seed_path.read_text().strip(), of_gate))
        await _tried(broker, user_credentials=str(taken))
        nobody = Refusal(NOBODY, "login", "")
        await until(lambda: said(b"authentication error") == 3)
        assert told() == [Refusal(stranger.public, "login", ""), nobody, nobody]
        await broker.gate_link.close()
        with pytest.raises(NotAdmitted):
            await connect(wire_to(broker, "bot"), "t")
        key = load_or_create(broker.key_path("bot")).public.encode()
        await until(lambda: said(b'authentication error - Nkey "%b"' % key) > 0)
        assert len(told()) == 3


async def test_two_gates_share_the_work_and_either_is_enough(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path, principals=[bot(tmp_path)]) as broker:
        other = await connect(Target(broker.url, broker.key_path("gate")), "gate", inbox_prefix="_INBOX")
        await Gate(Trust.in_directory(tmp_path / "keys"), broker.roll, SystemClock()).open(other)
        for closed in (None, broker.gate_link):
            if closed is not None:
                await closed.close()
            for _ in range(8):
                await (await NatsWire.connect(wire_to(broker, "bot"), "t")).close()
        await other.close()


async def test_a_role_taken_away_is_gone_from_a_connection_that_stands(tmp_path: Path) -> None:
    principal = bot(tmp_path, "submit", "operate")
    async with await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker:
        link = await intake(broker)
        wire = await NatsWire.connect(wire_to(broker, "bot"), "t")
        assert await submit(wire) == 1
        await broker.set_principals([replace(principal, roles=frozenset({"operate"}))])
        await until(lambda: wire.connections == 2)
        with pytest.raises(PermissionDenied) as denied:
            await submit(wire)
        assert (denied.value.subject, denied.value.rule) == ("writ.submit.default.bot.q", "broker.publish")
        await broker.set_principals([principal])
        await until(lambda: wire.connections == 3)
        assert await submit(wire) == 2
        await wire.close()
        await link.close()


async def test_who_waits_for_a_result_is_told_that_the_principal_is_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("writ.broker.connect.REFUSED_S", 0.2)
    monkeypatch.setattr("writ.broker.asking.TRY_S", 0.5)
    monkeypatch.setattr("writ.broker.client.REQUERY_S", 0.1)
    principal = bot(tmp_path, "submit", "ask", "read")
    async with (
        await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker,
        Client(wire_to(broker, "bot")) as client,
    ):
        waiting = asyncio.create_task(client.result(JobHandle("q", "7", 1)))
        await asyncio.wait({waiting}, timeout=0.5)
        assert not waiting.done(), "nobody answers, and that may pass"
        await broker.set_principals([])
        with pytest.raises(NotAdmitted):
            await asyncio.wait_for(waiting, WAIT_S)


async def test_a_token_lets_in_like_a_key_until_it_is_revoked(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"a secret").hexdigest()
    principal = replace(bot(tmp_path), tokens=(digest,))
    async with await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker:
        link = await intake(broker)
        client = await nats.connect(broker.url, token="a secret", allow_reconnect=False)
        answer = await client.request("writ.submit.default.bot.q", b"{}", timeout=WAIT_S)
        assert json.loads(answer.data) == {"stream": "WRIT_SUBMIT", "seq": 1}
        await broker.set_principals([replace(principal, tokens=())])
        await until(lambda: client.is_closed)
        with pytest.raises(nats.errors.Error, match="Authorization"):
            await nats.connect(broker.url, token="a secret", allow_reconnect=False)
        await link.close()


async def test_a_further_token_or_key_ends_no_connection_and_lets_in(tmp_path: Path) -> None:
    principal = bot(tmp_path)
    async with await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker:
        link = await intake(broker)
        wire = await NatsWire.connect(wire_to(broker, "bot"), "t")
        assert await submit(wire) == 1
        digest = hashlib.sha256(b"another").hexdigest()
        await broker.set_principals([replace(principal, public=USER.public, other_keys=(principal.public,))])
        await broker.set_principals(
            [replace(principal, public=USER.public, other_keys=(principal.public,), tokens=(digest,))]
        )
        client = await nats.connect(broker.url, token="another", allow_reconnect=False)
        assert await submit(wire) == 2
        assert wire.connections == 1
        await broker.set_principals([replace(principal, tokens=(digest,))])  # a key is gone: all come anew
        await until(lambda: wire.connections == 2)
        await until(lambda: client.is_closed)
        await wire.close()
        await link.close()


async def test_a_subscription_that_is_denied_says_so(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path, principals=[bot(tmp_path)]) as broker:
        wire = await NatsWire.connect(wire_to(broker, "bot"), "t")
        with pytest.raises(PermissionDenied) as denied:
            await wire.subscribe("writ.feed.default.>", lambda subject, body: None)
        assert (denied.value.verb, denied.value.subject) == ("subscribe", "writ.feed.default.>")
        assert denied.value.rule == "broker.subscribe"
        await wire.close()


async def test_an_account_that_an_earlier_start_left_is_closed(tmp_path: Path) -> None:
    principal = bot(tmp_path)
    async with await EmbeddedBroker.start(tmp_path, principals=[principal]) as broker:
        await (await NatsWire.connect(wire_to(broker, "bot"), "t")).close()
    async with await EmbeddedBroker.start(tmp_path) as broker:
        with pytest.raises(NotAdmitted):
            await NatsWire.connect(wire_to(broker, "bot"), "t")
        # And with a token that the first one's account has signed, it is still none.
        trust, user = Trust.in_directory(tmp_path / "keys"), Signer(KeyKind.USER, b"u" * 32)
        token = trust.user_token("default.bot", user.public, {}, SystemClock().wall_us() // 1_000_000 + 5)
        creds = tmp_path / "stolen.creds"
        creds.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n-----BEGIN USER NKEY SEED-----\n{user.seed}\n"
        )
        with pytest.raises(nats.errors.Error):
            await nats.connect(broker.url, **login(creds), allow_reconnect=False)


async def test_data_kept_under_an_accounts_name_are_found(tmp_path: Path) -> None:
    """What a version left that knew accounts by name."""
    async with await EmbeddedBroker.start(tmp_path) as broker:
        link = await intake(broker)
        await link.jetstream().publish("writ.shard.0.submit.default.owner.q", b"kept")
        await link.close()
    streams = tmp_path / "jetstream" / "jetstream"
    (found,) = [each for each in streams.iterdir() if each.name.startswith("A")]
    found.rename(streams / "WRIT")
    async with await EmbeddedBroker.start(tmp_path) as broker:
        link = await intake(broker)
        assert (await link.jetstream().get_msg("WRIT_SUBMIT", 1)).data == b"kept"
        await link.close()


def test_the_configuration_names_no_principal_and_no_secret(tmp_path: Path) -> None:
    trust = Trust(Signer(KeyKind.OPERATOR, b"o" * 32))
    text = render(
        BrokerSettings(port=4222, store_dir="/data", log_file="/log", accounts_dir="/accounts"), trust
    )
    assert json.dumps("/accounts") in text
    secrets = [trust.operator.seed, *(trust.user(n).seed for n in ("log", "gate", "system", "sentinel"))]
    assert not [seed for seed in secrets if seed in text]
