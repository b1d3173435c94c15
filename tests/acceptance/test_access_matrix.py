"""Must hold: one policy file generates the matrix: at least 8 roles x 60 operations x 2 scopes, each cell
tried against the running API and the real broker, no mismatch; flipping any policy line makes a cell fail.

The expected cells are in `access_matrix.toml`, written by hand.
"""

from __future__ import annotations

import asyncio
import functools
import http.client
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import pytest

from writ import Client
from writ.broker.connect import Target
from writ.broker.errors import NoAnswer, NoResponders, PermissionDenied
from writ.broker.keys import load_or_create
from writ.broker.wire import NatsWire
from writ.http.keeper import Http
from writ.http.routes import ROUTES
from writ.node import Node
from writ.schemas.access import OPERATIONS as KNOWN
from writ.schemas.access import Policy, Resource, allowed, built_in
from writ.schemas.principals import Grant, Principal, PrincipalKind, Role
from writ.schemas.queries import JobQuery, JobsPage
from writ.schemas.subjects import NO_QUEUE

from .access_matrix import BANK, ONESELF, OPERATIONS, ROLES, SHOP, TENANT, TWO_PERSONS, Cell, cells, message

_CELLS: Final = list(cells())
_DECIDED: Final = frozenset({"approve_access", "decline_access"})


# --- the policy alone -----------------------------------------------------------------------------------


@functools.cache
def _of_role(role: str) -> list[Cell]:
    return [cell for cell in _CELLS if cell.role == role]


def _mismatches(policy: Policy, role: str = "", operation: str = "") -> Iterator[str]:
    """The cells, and what else the matrix tells, that a policy does not give.

    First come those of the role and operation that are named, then of the role, where a fault is looked for.
    """
    likely = [cell for cell in _of_role(role) if cell.operation == operation]
    for cell in itertools.chain(likely, _of_role(role), _CELLS):
        grant = Grant(cell.role, cell.scope, "owner", 0, "")
        who = Principal("default", "who", PrincipalKind.PERSON, grants=(grant,))
        decision = allowed(who, cell.operation, Resource("default", cell.queue), 1, policy)
        if decision.allowed != cell.allowed:
            yield f"{cell}: {decision.rule}"
    nobody = Principal("default", "who", PrincipalKind.PERSON)
    for each in OPERATIONS:
        of_itself = allowed(nobody, each, Resource("default", TENANT, "who"), 1, policy).allowed
        of_others = allowed(nobody, each, Resource("default", TENANT, "other"), 1, policy).allowed
        if of_itself != (of_others or each in ONESELF):
            yield f"{each} of oneself: {of_itself}"
    if policy.two_persons != TWO_PERSONS:
        yield f"two persons: {sorted(policy.two_persons ^ TWO_PERSONS)}"


def test_the_matrix_is_of_all_operations_and_the_policy_gives_it() -> None:
    assert set(OPERATIONS) == set(KNOWN)
    assert set(ROLES) == set(Role)
    assert len(ROLES) >= 8
    assert len(OPERATIONS) >= 60
    assert list(_mismatches(built_in())) == []


def _flipped(policy: Policy) -> Iterator[tuple[str, str, str, Policy]]:
    """The policy with one word of one line taken away, or one put there that is missing, for each.

    With what was flipped, and the role and the operation that it is of.
    """
    from msgspec.structs import replace

    every = frozenset(OPERATIONS)
    for role, lines in policy.lines.items():
        for name, line in lines.items():
            yield f"without {role}.{name}", role, "", replace(policy, lines=policy.lines | {
                role: {key: ops for key, ops in lines.items() if key != name}
            })  # fmt: skip
            others = frozenset(policy.lines["everybody"]["self"] if role != "everybody" else ())
            others = others.union(*[ops for key, ops in lines.items() if key != name])
            if "*" in line:
                continue
            # What another line allows already is none that this line decides.
            for each in sorted(every - others):
                flipped = policy.lines | {role: lines | {name: line ^ {each}}}
                yield f"{each} flipped in {role}.{name}", role, each, replace(policy, lines=flipped)
    for name in ("whole_tenant", "oneself"):
        for each in sorted(getattr(policy, name)):
            flipped_rule: dict[str, Any] = {name: getattr(policy, name) - {each}}
            yield f"{each} out of rules.{name}", "", each, replace(policy, **flipped_rule)
    for role in Role:
        two_persons = policy.two_persons ^ {role.value}
        yield f"{role} flipped in two_persons", "", "", replace(policy, two_persons=two_persons)


def test_no_operation_stands_in_two_lines_of_a_role() -> None:
    for role, lines in built_in().lines.items():
        for one, other in itertools.combinations(lines, 2):
            assert not lines[one] & lines[other], (role, one, other)


def test_whichever_word_of_the_policy_is_flipped_a_cell_fails() -> None:
    unnoticed = [
        name for name, role, each, policy in _flipped(built_in()) if not any(_mismatches(policy, role, each))
    ]
    assert unnoticed == []


# --- a running node -------------------------------------------------------------------------------------


@dataclass
class Actor:
    """A principal with one grant, by its connection and its API token."""

    role: Role
    scope: str
    name: str
    wire: NatsWire
    token: str
    decided: Iterator[int]
    """The proposals that wait to be decided on, shared by all."""

    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


@dataclass
class Running:
    node: Node
    owner: Client
    actors: dict[tuple[Role, str], Actor]
    http_port: int


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    directory = tmp_path / "writ"
    web = Http(directory)
    async with AsyncExitStack() as parts:
        node = await Node.start(directory, http=web)
        parts.push_async_callback(node.stop)
        owner = Client(Target(node.url, node.broker.key_path("owner")))
        await parts.enter_async_context(owner)

        async def join(name: str) -> tuple[Client, NatsWire]:
            path = directory / "keys" / f"test.{name}.nk"
            await owner.create_principal(name, key=load_or_create(path).public)
            target = Target(node.url, path, "default", name)
            wire = await NatsWire.connect(target, name, wait_s=20)
            parts.push_async_callback(wire.close)
            return Client(target, wire=wire), wire

        second, _ = await join("second")
        assert await owner.grant("second", Role.OWNER) is None, "nobody else could approve it"
        actors: dict[tuple[Role, str], Actor] = {}
        decided = itertools.count(1)
        for role, scope in itertools.product(ROLES, (TENANT, SHOP)):
            name = f"{role}-{'all' if scope == TENANT else scope}"
            client, wire = await join(name)
            token = await client.create_token("test")
            number = await owner.grant(name, role, scope)
            assert (number is not None) == (role in TWO_PERSONS)
            if number is not None:
                await second.approve_access(name, number)
            actors[role, scope] = Actor(role, scope, name, wire, token, decided)
        asker, _ = await join("asker")
        for each in range(18):
            await asker.elevate(Role.VIEWER, SHOP, for_s=60 + each, reason="to be decided on")
        await asker.elevate(Role.VIEWER, BANK, reason="of another queue")
        yield Running(node, owner, actors, int(str(urlsplit(web.url).port)))


def _of(actor: Actor) -> list[Cell]:
    return [cell for cell in _CELLS if (cell.role, cell.scope) == (actor.role, actor.scope)]


def _number(cell: Cell, actor: Actor) -> int:
    """The proposal to decide on: each is decided on once, by those who may; the one of the bank by nobody."""
    if cell.operation not in _DECIDED:
        return next(actor.numbers)
    if cell.queue == BANK:
        return 19
    return next(actor.decided) if cell.allowed else 18


async def _over_nats(actor: Actor, cell: Cell) -> bool:
    """Whether it was let through by the broker and by Writ."""
    word, verb = KNOWN[cell.operation], cell.operation
    subject = f"writ.{word}.default.{actor.name}.{verb}"
    if word in {"lease", "control", "store"}:
        # More is asked for of no queue, as the scope is in the message; the broker lets anybody do so.
        subject += f".{NO_QUEUE if verb == 'elevate' else cell.queue}"
    body = json.dumps(message(cell, _number(cell, actor))).encode()
    while True:
        try:
            answer: dict[str, Any] = json.loads(await actor.wire.request(subject, body, 10.0))
        except PermissionDenied:
            return False
        except (NoAnswer, NoResponders):
            continue  # the broker takes new principals in at this moment
        error: dict[str, str] = answer.get("error") or {}
        kind = error.get("kind")
        if kind != "try_later":
            return bool(kind != "denied")


async def _submitted(running: Running, actor: Actor, cell: Cell) -> bool:
    """Whether a submit became a job."""
    job_id = f"{actor.name}-{cell.queue}"
    subject = f"writ.submit.default.{actor.name}.{cell.queue}"
    try:
        await actor.wire.publish_submit(subject, json.dumps({"task": "t", "id": job_id}).encode(), job_id)
    except PermissionDenied:
        return False
    while True:  # the one or the other stands in the log, sooner or later
        page = await running.owner.ask(JobQuery(id=job_id, queue=cell.queue))
        assert isinstance(page, JobsPage)
        told = await running.owner.audit(actor=actor.name, verb="submit", queue=cell.queue, refused=True)
        if page.jobs or told.acts:
            return bool(page.jobs)


async def test_each_cell_holds_against_the_real_broker(running: Running) -> None:
    async def of(actor: Actor, *, submits: bool) -> list[str]:
        wrong: list[str] = []
        for cell in _of(actor):
            if KNOWN[cell.operation] != "node" and (cell.operation == "submit") == submits:
                let = await (_submitted(running, actor, cell) if submits else _over_nats(actor, cell))
                wrong += [] if let == cell.allowed else [f"{cell}, and it was {let}"]
        return wrong

    for submits in (True, False):  # apart, as a queue that somebody drains takes none
        found = await asyncio.gather(*[of(actor, submits=submits) for actor in running.actors.values()])
        assert [each for wrong in found for each in wrong] == []


# --- HTTP -----------------------------------------------------------------------------------------------

_NAMES: Final = {
    "submit": "submit_job",
    "declare": "declare_queue",
    "job": "get_job",
    "jobs": "list_jobs",
    "dead": "list_dead_letters",
    "status": "get_status",
    "operations": "list_operations",
}
_BY_NAME: Final = {route.name: route for route in ROUTES}


def _route(operation: str) -> Any:
    """The route of an operation; None for what workers ask, which is not to be had over HTTP."""
    names = (_NAMES.get(operation, operation), f"{operation}_job", f"list_{operation}")
    return next((_BY_NAME[name] for name in names if name in _BY_NAME), None)


def _over_http(connection: http.client.HTTPConnection, actor: Actor, cell: Cell) -> bool | None:
    """Whether it was let through; None where there is no such route."""
    route = _route(cell.operation)
    if route is None:
        return None
    body = message(cell, _number(cell, actor))
    if cell.operation == "submit":
        body = {"task": "t", "id": f"http-{actor.name}-{cell.queue}"}
    if cell.operation == "list_processes":
        body["queue"] = cell.queue  # each partition knows them, and so they are asked for where one may look
    values = body | {"queue": cell.queue}
    path = route.path
    for name in [part[1:-1] for part in route.path.split("/") if part.startswith("{")]:
        path = path.replace(f"{{{name}}}", quote(str(values[name]), safe=""))
        body.pop(name, None)
    headers = {"Authorization": f"Bearer {actor.token}"}
    sent: str | None = None
    if route.body is not None:
        headers["Content-Type"] = "application/json"
        sent = json.dumps(body)
    elif body:
        path += "?" + urlencode(body)
    while True:
        connection.request(route.method, path, sent, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status in {429, 503}:
            continue
        assert answer.status not in {400, 401, 405, 415, 422, 500}, (cell, said)
        return answer.status != 403


async def test_each_cell_holds_over_http(running: Running) -> None:
    def of(actor: Actor) -> list[str]:
        wrong: list[str] = []
        connection = http.client.HTTPConnection("127.0.0.1", running.http_port, timeout=60)
        for cell in _of(actor):
            let = _over_http(connection, actor, cell)
            wrong += [] if let in {None, cell.allowed} else [f"{cell}, and it was {let}"]
        connection.close()
        return wrong

    # Threads of their own: the node is in this process, and needs the loop's for its disk.
    with ThreadPoolExecutor(len(running.actors)) as threads:
        loop, actors = asyncio.get_running_loop(), running.actors.values()
        found = await asyncio.gather(*[loop.run_in_executor(threads, of, actor) for actor in actors])
    assert [each for wrong in found for each in wrong] == []
    tried = [operation for operation in OPERATIONS if _route(operation) is not None]
    assert len(tried) >= 60
