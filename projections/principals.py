"""The principals view: who is known, what they hold, when they last did something; and the readers' gate."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from writ.schemas.links import MessageAccepted, PrincipalTold, TenantHosted
from writ.schemas.lists import (
    Bearer,
    GrantView,
    PrincipalsPage,
    PrincipalsQuery,
    PrincipalView,
    ProposalView,
    SessionView,
    TokenView,
)
from writ.schemas.principals import Principal, TenantCreated, evolve_principal
from writ.schemas.records import Record

from .collecting import Collecting
from .file import position_of
from .shown import timestamp
from .view import Write

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tenants (tenant TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS principals (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    waiting INTEGER NOT NULL, -- proposals
    body TEXT NOT NULL, -- the principal, as JSON
    PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uses (
    tenant TEXT NOT NULL, name TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens ( -- and sessions, those that count or will have counted
    digest TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL
) WITHOUT ROWID;
"""
_TENANT: Final = "INSERT INTO tenants VALUES (?) ON CONFLICT DO NOTHING"
_PUT: Final = "INSERT OR REPLACE INTO principals VALUES (?, ?, ?, ?)"
_USE: Final = "INSERT OR REPLACE INTO uses VALUES (?, ?, ?)"
_DROP_TOKENS: Final = "DELETE FROM tokens WHERE tenant = ? AND name = ?"
_TOKEN: Final = "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)"
_ONE: Final = "SELECT body FROM principals WHERE tenant = ? AND name = ?"
_decode = msgspec.json.Decoder(Principal).decode
_encode = msgspec.json.Encoder().encode

Name = tuple[str, str]
"""Tenant and name."""


class PrincipalsView(Collecting):
    """The fold, by the same function as the orchestrator's."""

    name = "principals"
    version = 1
    schema = _SCHEMA
    statements = (_TENANT, _PUT, _USE, _DROP_TOKENS, _TOKEN)

    def __init__(self) -> None:
        self._known: dict[Name, Principal | None] = {}
        self._changed: set[Name] = set()
        self._used: dict[Name, int] = {}
        super().__init__()

    def load(self, db: sqlite3.Connection, records: Sequence[Record]) -> None:
        for name in {(record.tenant, record.key) for record in records if record.kind == "principal"}:
            row = db.execute(_ONE, name).fetchone()
            self._known[name] = None if row is None else _decode(row[0])

    def fold(self, records: Sequence[Record]) -> None:
        for name, at in {(record.tenant, record.actor): record.at for record in records}.items():
            if not name[1].startswith("writ:"):
                self._used[name] = at
        for record in records:
            if record.kind == "principal":
                self._evolve(record)
            elif record.kind == "tenant" and isinstance(record.events[0], TenantCreated):
                self._put(_TENANT, record.key)
            elif record.kind == "link":
                self._hear(record)

    def _hear(self, record: Record) -> None:
        """What the partition that is the tenant's home tells of it."""
        for event in record.events:
            told = event.content if isinstance(event, MessageAccepted) else None
            if isinstance(told, TenantHosted):
                self._put(_TENANT, told.tenant)
            if isinstance(told, PrincipalTold | TenantHosted):
                principal = told.principal if isinstance(told, PrincipalTold) else told.owner
                self._known[principal.tenant, principal.name] = principal
                self._changed.add((principal.tenant, principal.name))

    def _evolve(self, record: Record) -> None:
        name = (record.tenant, record.key)
        before = principal = self._known.get(name)
        for event in record.events:
            principal = evolve_principal(principal, event, *name, record.actor, record.at)
        if principal is not before:
            self._known[name] = principal
            self._changed.add(name)

    def writes(self) -> list[Write]:
        for name in sorted(self._changed):
            principal = self._known[name]
            if principal is not None:
                self._put(_PUT, *name, len(principal.proposals), _encode(principal).decode())
                self._put(_DROP_TOKENS, *name)
                digests = [each.digest for each in principal.tokens]
                for digest in digests + [each.digest for each in principal.sessions]:
                    self._put(_TOKEN, digest, *name)
        for name, at in self._used.items():
            self._put(_USE, *name, at)
        return super().writes()

    def discard(self) -> None:
        self._known, self._changed, self._used = {}, set(), {}
        super().discard()


class Standing(NamedTuple):
    """Whether a tenant is governed, and a principal in it, as of the view."""

    governed: bool
    principal: Principal | None


def standing(db: sqlite3.Connection, tenant: str, name: str) -> Standing:
    """What the readers' gate decides from."""
    governed = db.execute("SELECT EXISTS (SELECT 1 FROM tenants WHERE tenant > '')").fetchone()[0]
    row = db.execute(_ONE, (tenant, name)).fetchone()
    return Standing(bool(governed), None if row is None else _decode(row[0]))


def bearer(db: sqlite3.Connection, digest: str, now: int) -> Bearer:
    """The principal whose API token or session has that digest, where that counts still."""
    row = db.execute("SELECT tenant, name FROM tokens WHERE digest = ?", (digest,)).fetchone()
    principal = None if row is None else standing(db, *row).principal
    if principal is None or principal.revoked is not None:
        return Bearer()
    of = (principal.tenant, principal.name)
    for session in principal.sessions:
        if session.digest == digest and now < session.until:
            moments = (timestamp(session.at), timestamp(session.until))
            return Bearer(None, 0, *of, session.token, session.name, *moments)
    for token in principal.tokens:
        if token.digest == digest and (token.until is None or now < token.until):
            return Bearer(None, 0, *of, token.name)
    return Bearer()


def principals(db: sqlite3.Connection, tenant: str, query: PrincipalsQuery) -> PrincipalsPage:
    """Principals by name."""
    where, parts, order = "p.name > ?", [tenant, query.cursor or ""], "ORDER BY p.name"
    if query.name is not None:
        where, parts, order = "p.name = ?", [tenant, query.name], ""
    if query.waiting:
        where += " AND p.waiting > 0"
    joined = "principals p LEFT JOIN uses u ON u.tenant = p.tenant AND u.name = p.name"
    # Words of ours alone.
    sql = f"SELECT p.body, u.at FROM {joined} WHERE p.tenant = ? AND {where} {order} LIMIT ?"  # noqa: S608
    rows: list[tuple[str, int | None]] = db.execute(sql, (*parts, query.limit + 1)).fetchall()
    views = tuple([view_of(_decode(body), at) for body, at in rows[: query.limit]])
    return PrincipalsPage(None, position_of(db), views, views[-1].name if len(rows) > query.limit else None)


def view_of(principal: Principal, used_at: int | None) -> PrincipalView:
    """A principal as it is shown: tokens without their digests."""

    def moment(at: int | None) -> Any:
        return None if at is None else timestamp(at)

    return PrincipalView(
        principal.name,
        principal.tenant,
        principal.kind,
        timestamp(principal.created_at),
        principal.created_by,
        moment(used_at),
        principal.revoked,
        principal.keys,
        tuple([TokenView(t.name, timestamp(t.at), moment(t.until)) for t in principal.tokens]),
        tuple(
            [
                GrantView(
                    g.role, g.scope, g.granted_by, g.proposed_by, timestamp(g.at), moment(g.until), g.reason
                )
                for g in principal.grants
            ]
        ),
        tuple(
            [
                ProposalView(
                    *(p.number, p.role, p.scope, p.proposed_by, timestamp(p.at), moment(p.until), p.for_s),
                    p.reason,
                )
                for p in principal.proposals
            ]
        ),
        tuple([SessionView(s.name, timestamp(s.at), timestamp(s.until), s.by) for s in principal.sessions]),
    )
