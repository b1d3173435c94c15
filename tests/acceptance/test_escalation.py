"""Over 150 ways to get more than one was given: each refused and in the audit, and lawful asking works."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from writ import Client
from writ.broker.connect import Target, connect
from writ.broker.jwt import KeyKind, Signer, signer_in
from writ.broker.keys import load_or_create
from writ.broker.log import JetStreamLog
from writ.broker.refusals import NOBODY
from writ.broker.trust import Trust
from writ.http.keeper import Http
from writ.node import Node
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.judge import JUDGES
from writ.orchestrator.replay.stretch import Coverage
from writ.orchestrator.replay.verify import Verifier
from writ.schemas.principals import Role

from .escalations import FAMILIES, Attempt, Family

FOUND_S = 60.0
"""By when the audit tells of everything: repeats are told of after ten seconds."""


AT_ONCE = 8
"""So many threads try at a time: with one for each family the node, in this process, hardly gets its turn."""

UNDECIDED_MAX = 5
"""How often one asks where nobody answers, as on a machine that stands still for seconds."""


class Attacker:
    """One principal, with what it lawfully has."""

    def __init__(self, family: Family, name: str, where: World) -> None:
        self.family = family
        self.name = name
        self.where = where
        self.token = ""
        self.removed_key = Path()

    @property
    def key(self) -> Path:
        return self.where.directory / f"{self.name}.nk"

    def said(self, text: str) -> bytes:
        return text.replace("{me}", self.name).encode()

    def connect(self, key: Path | None = None) -> Any:
        return self.where.raw.Raw(self.where.node.url, key or self.key, 10.0)

    def refused(self, attempt: Attempt) -> bool:
        """Tries, and tells whether it was refused; silence is none, and one asks again."""
        for _ in range(UNDECIDED_MAX):
            try:
                return self._refused(attempt)
            except (TimeoutError, ConnectionError):  # a login that the gate was too busy to answer, too
                pass
        return False

    def _refused(self, attempt: Attempt) -> bool:
        raw = self.where.raw
        subject, body = self.said(attempt.subject), self.said(attempt.body.decode())
        if attempt.how == "http":
            status = self.over_http(attempt, subject.decode(), body)
            if status in {202, 503}:  # stored, or not even that
                raise TimeoutError("nobody has decided")
            return status in {401, 403, 404, 421, 431}
        if attempt.how == "login":
            try:
                LOGINS[attempt.subject](self)
            except (raw.ServerError, ConnectionError):
                return True
            return False
        with self.connect() as client:
            try:
                if attempt.how == "request":
                    answer: dict[str, Any] = json.loads(client.request(subject, body))
                    return bool(answer.get("error") and answer["error"]["kind"] == "denied")
                if attempt.how == "subscribe":
                    client.send(b"SUB %b %b 99\r\n" % (subject, attempt.group.encode()))
                elif attempt.how == "trace":
                    headers = b"NATS/1.0\r\nNats-Trace-Dest: %b\r\n\r\n" % subject
                    client.publish(b"writ.submit.default.%b.q" % self.name.encode(), body, b"", headers)
                else:
                    client.publish(subject, body)
                client.ping()
            except raw.ServerError as error:
                return "permissions violation" in str(error).lower()
        return False

    def over_http(self, attempt: Attempt, path: str, body: bytes) -> int:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if attempt.group:
            name, _, value = attempt.group.partition(": ")
            headers[name] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.where.http_port, timeout=30)
        connection.request("POST" if attempt.verb else "GET", path, body if attempt.verb else None, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def run(self) -> list[str]:
        """What was not as it should be."""
        wrong = [f"{each} was let through" for each in self.family.attempts if not self.refused(each)]
        if self.refused(self.family.control):
            wrong.append(f"{self.family.control} was refused")
        return [f"{self.family.name}: {each}" for each in wrong]

    def expected(self) -> Counter[tuple[str, str]]:
        """What the audit must name, and how often."""
        wanted: Counter[tuple[str, str]] = Counter()
        for each in self.family.attempts:
            verb = each.verb or {"trace": "publish"}.get(each.how, each.how)
            named = "" if verb == "grant" or each.how == "login" else each.named or each.subject
            wanted[verb, self.said(named).decode()] += 1
        return wanted


class World:
    """A node with its owner, and an attacker for each family."""

    def __init__(
        self, node: Node, owner: Client, second: Client, web: Http, directory: Path, raw: Any
    ) -> None:
        self.node = node
        self.owner = owner
        self.second = second
        self.http_port = int(str(urlsplit(web.url).port))
        self.directory = directory
        self.raw = raw

    @property
    def trust(self) -> Trust:
        return Trust.in_directory(self.node.directory / "keys")

    async def attacker(self, number: int, family: Family) -> Attacker:
        attacker = Attacker(family, f"m{number}", self)
        await self.owner.create_principal(attacker.name, key=load_or_create(attacker.key).public)
        for role in family.roles:
            proposal = await self.owner.grant(attacker.name, role, family.scope)
            if proposal is not None:
                await self.second.approve_access(attacker.name, proposal)
        if any(each.how in {"http", "login"} for each in family.attempts):
            attacker.token = await self.owner.create_token("test", attacker.name)
        if any(each.how == "login" for each in family.attempts):
            attacker.removed_key = self.directory / "removed.nk"
            removed = load_or_create(attacker.removed_key).public
            await self.owner.add_key(attacker.name, removed)
            await self.owner.remove_key(attacker.name, removed)
            await self.owner.create_token("old", attacker.name)
            await self.owner.revoke_token("old", attacker.name)
        return attacker


@pytest.fixture
async def world(tmp_path: Path, raw: Any) -> AsyncIterator[World]:
    directory = tmp_path / "writ"
    web = Http(directory)
    async with AsyncExitStack() as parts:
        node = await Node.start(directory, http=web)
        parts.push_async_callback(node.stop)
        owner = await parts.enter_async_context(Client(Target(node.url, node.broker.key_path("owner"))))
        key = load_or_create(tmp_path / "second.nk")
        await owner.create_principal("second", key=key.public)
        second = Client(Target(node.url, key.seed_path, "default", "second"))
        assert await owner.grant("second", Role.OWNER) is None
        await parts.enter_async_context(second)
        yield World(node, owner, second, web, tmp_path, raw)


# --- logins that are none -------------------------------------------------------------------------------


def _login(attacker: Attacker, **login: Any) -> None:
    """Shows something of one's own making to the broker."""
    raw = attacker.where.raw

    class Forged(raw.Raw):  # type: ignore[misc, name-defined]
        def send(self, data: bytes) -> None:
            if data.startswith(b"CONNECT "):
                shown = login | ({"sig": login["sig"](self.info["nonce"])} if "sig" in login else {})
                base = {"verbose": False, "pedantic": False, "lang": "none", "version": "0", "protocol": 1}
                data = b"CONNECT " + json.dumps(base | shown).encode() + b"\r\n"
            super().send(data)  # pyright: ignore[reportUnknownMemberType]

    Forged(attacker.where.node.url, attacker.key, 10.0).close()


def _sig(signer: Signer) -> Callable[[str], str]:
    return lambda nonce: base64.urlsafe_b64encode(signer.sign(nonce.encode())).decode().rstrip("=")


def _sig_of_another(attacker: Attacker) -> Callable[[str], str]:
    signer = signer_in(attacker.key.read_text().strip())
    return lambda nonce: _sig(signer)(nonce + "!")


def _stranger(name: str) -> Signer:
    return Signer(KeyKind.USER, name.encode().ljust(32, b"."))


def _worded(attacker: Attacker, issuer: Signer, **claims: Any) -> None:
    """With a user's token that `issuer` has signed, and the key that it names."""
    user = _stranger("worded")
    token = {"sub": user.public, "nats": {"type": "user", "version": 2, **claims}}
    _login(attacker, jwt=issuer.token(token, 1), nkey=user.public, sig=_sig(user))


def _other(attacker: Attacker) -> str:
    return load_or_create(attacker.where.node.broker.key_path("owner")).public


def _own(attacker: Attacker) -> str:
    return load_or_create(attacker.key).public


LOGINS: dict[str, Callable[[Attacker], Any]] = {
    "an unknown key": lambda a: a.connect(load_or_create(a.where.directory / "unknown.nk").seed_path),
    "a removed key": lambda a: a.connect(a.removed_key),
    "another's key signed by one's own": lambda a: _login(a, nkey=_other(a), sig=_sig(_stranger("x"))),
    "a signature of another nonce": lambda a: _login(a, nkey=_own(a), sig=_sig_of_another(a)),
    "no signature": lambda a: _login(a, nkey=_own(a)),
    "another's name and a password": lambda a: _login(a, user="owner", **{"pass": "owner"}),
    "a made up token": lambda a: _login(a, auth_token=os.urandom(16).hex()),
    "a revoked token": lambda a: _login(a, auth_token="old"),
    "one's own account's word": lambda a: _worded(a, Signer(KeyKind.ACCOUNT, b"w" * 32)),
    "the word of an account without a key": lambda a: _worded(
        a, Signer(KeyKind.ACCOUNT, b"v" * 32), issuer_account=a.where.trust.account("WRIT").public
    ),
    "a forged operator": lambda a: _worded(a, Signer(KeyKind.OPERATOR, b"o" * 32)),
    "the sentinel with nothing beside it": _login,
}


# --- the test -------------------------------------------------------------------------------------------


def test_there_are_enough_of_them() -> None:
    assert len(FAMILIES) >= 15
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert sum(len(family.attempts) for family in FAMILIES) >= 150
    assert all(len(set(family.attempts)) == len(family.attempts) >= 8 for family in FAMILIES)
    assert {a.subject for f in FAMILIES for a in f.attempts if a.how == "login"} == LOGINS.keys()


async def _everything(world: World) -> dict[str, Any]:
    link = world.node.engine
    assert link is not None
    return {
        "roles": {name: [g.role for g in p.grants] for name, p in link.state.principals.items()},
        "keys": {name: p.keys for name, p in link.state.principals.items()},
        "leader": link.state.leader,
    }


async def _missing(world: World, attackers: list[Attacker]) -> list[str]:
    """What the audit does not tell of yet."""
    missing: list[str] = []
    acts = list((await world.owner.audit(refused=True, verb="login", limit=500)).acts)
    acts += (await world.owner.audit(refused=True, verb="request", actor=NOBODY, limit=500)).acts
    for attacker in attackers:
        own = (await world.owner.audit(actor=attacker.name, refused=True, limit=500)).acts
        for (verb, named), times in attacker.expected().items():
            found = [x for x in (acts if verb in {"login", "request"} else own) if x.verb == verb]
            of = sum(x.of or 1 for x in found if named in (x.reason or "") or named == x.queue)
            if of < times:
                missing.append(f"{attacker.family.name}: {verb} {named} {times} times, and it has {of}")
    return missing


async def test_every_escalation_is_refused_and_in_the_audit(world: World) -> None:
    """Must hold: see the families; each has a lawful request of the same kind that works."""
    attackers = [await world.attacker(number, family) for number, family in enumerate(FAMILIES)]
    async with asyncio.timeout(30):
        while len(world.node.broker.principals) < len(attackers) + 2:  # noqa: ASYNC110 - another's state
            await asyncio.sleep(0.05)
    before = await _everything(world)
    loop = asyncio.get_running_loop()
    # Threads of their own: the node is in this process, and needs the loop's to answer them.
    with ThreadPoolExecutor(len(attackers)) as threads:
        found = await asyncio.gather(*[loop.run_in_executor(threads, each.run) for each in attackers])
    assert not any(found), "\n".join([each for wrong in found for each in wrong])
    async with asyncio.timeout(FOUND_S):
        while missing := await _missing(world, attackers):
            last = missing
            try:
                await asyncio.sleep(0.5)
            except asyncio.CancelledError:
                raise AssertionError(last) from None
    assert await _everything(world) == before
    jobs = (await world.owner.jobs(limit=500)).jobs
    assert {job.queue for job in jobs} == {"q"}
    assert {job.actor for job in jobs} <= {each.name for each in attackers}
    assert await _judged(world) == [], "what was refused is no fault of the log"


async def _judged(world: World) -> list[str]:
    """What `writ replay --verify` finds in the log."""
    link = await connect(
        Target(world.node.url, world.node.broker.key_path("log")), "test", inbox_prefix="_INBOX"
    )
    try:
        log = await JetStreamLog.open(link)
        verifier = Verifier(log.epoch, 0, Coverage.WHOLE, JUDGES)
        async for part in log.read():
            for stored in part:
                verifier.take(Entry(stored.seq, stored.subject, stored.body))
        return [str(fault) for fault in verifier.report().faults]
    finally:
        await link.close()
