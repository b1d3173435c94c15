"""What is asked about principals: who there is, what they may do, and changing that."""

from __future__ import annotations

import datetime
import hashlib
import secrets
from typing import Final, Literal

from writ.schemas import granting
from writ.schemas.commands import Command
from writ.schemas.lists import CanQuery, PrincipalsPage, PrincipalsQuery, PrincipalView, Verdict, WhoamiQuery
from writ.schemas.principals import Role
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.subjects import NO_QUEUE

from .errors import Refused
from .looking import Looking
from .operating import Operating

TOKEN_BYTES: Final = 32


class Granting(Looking, Operating):
    """Each change is one recorded decision. PermissionDenied names the rule where one may not do it."""

    async def _change(self, command: Command, timeout_s: float) -> int:
        return (await self.send(NO_QUEUE, command, timeout_s=timeout_s)).position

    async def whoami(self, *, timeout_s: float = 10.0) -> PrincipalView | None:
        """The principal that this client is, with its grants; None where the log does not know it."""
        page = await self.ask(WhoamiQuery(), timeout_s=timeout_s)
        assert isinstance(page, PrincipalsPage)
        return page.principals[0] if page.principals else None

    async def can(
        self, operation: str, queue: str = "*", *, principal: str | None = None, timeout_s: float = 10.0
    ) -> Verdict:
        """Whether this or another `principal` may do an operation in a queue or scope, and by which rule."""
        query = CanQuery(operation=operation, queue=queue, principal=principal)
        answer = await self.ask(query, timeout_s=timeout_s)
        assert isinstance(answer, Verdict)
        return answer

    async def principals(
        self,
        *,
        name: str | None = None,
        waiting: bool = False,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> PrincipalsPage:
        """Principals by name, page by page; `waiting` for those with proposals."""
        query = PrincipalsQuery(name=name, waiting=waiting, limit=limit, cursor=cursor)
        answer = await self.ask(query, timeout_s=timeout_s)
        assert isinstance(answer, PrincipalsPage)
        return answer

    async def principal(self, name: str, *, timeout_s: float = 10.0) -> PrincipalView:
        """One principal. Raises Refused, of kind not_found, where there is none."""
        page = await self.principals(name=name, timeout_s=timeout_s)
        if not page.principals:
            raise Refused(Rejection(RejectionKind.NOT_FOUND, f"there is no principal {name}", "name"))
        return page.principals[0]

    async def create_principal(
        self,
        name: str,
        kind: Literal["person", "service", "worker"] = "person",
        *,
        key: str | None = None,
        reason: str = "requested",
        timeout_s: float = 10.0,
    ) -> int:
        """Makes a principal known, which may do nothing yet. `key` is the public NKey it logs in with."""
        return await self._change(
            granting.CreatePrincipal(name=name, kind=kind, key=key, reason=reason), timeout_s
        )

    async def add_key(
        self, name: str, key: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """A further NKey that a principal may log in with."""
        return await self._change(granting.AddKey(name=name, key=key, reason=reason), timeout_s)

    async def remove_key(
        self, name: str, key: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """An NKey counts no more."""
        return await self._change(granting.RemoveKey(name=name, key=key, reason=reason), timeout_s)

    async def create_token(
        self,
        token: str,
        name: str | None = None,
        *,
        until: datetime.datetime | None = None,
        reason: str = "requested",
        timeout_s: float = 10.0,
    ) -> str:
        """A new API token for this principal, or another `name`, called `token`, told here alone.

        It is drawn here, and only its SHA-256 is sent.
        """
        secret = f"writ_{secrets.token_urlsafe(TOKEN_BYTES)}"
        digest = hashlib.sha256(secret.encode()).hexdigest()
        command = granting.IssueToken(
            name=name or self.target.principal, token=token, digest=digest, until=until, reason=reason
        )
        await self._change(command, timeout_s)
        return secret

    async def revoke_token(
        self, token: str, name: str | None = None, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """An API token counts no more."""
        command = granting.RevokeToken(name=name or self.target.principal, token=token, reason=reason)
        return await self._change(command, timeout_s)

    async def start_session(
        self, session: str, secret: str, until: datetime.datetime, by: str,
        *, token: str | None = None, timeout_s: float = 10.0,
    ) -> int:  # fmt: skip
        """This principal has logged in; of the `secret` that its browser keeps only the SHA-256 is sent.

        `by` says how, `token` names the API token that it showed.
        """
        digest = hashlib.sha256(secret.encode()).hexdigest()
        command = granting.StartSession(
            name=self.target.principal, session=session, digest=digest, until=until, by=by, token=token
        )  # fmt: skip
        return await self._change(command, timeout_s)

    async def end_session(
        self, session: str, name: str | None = None, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """A session of this principal, or another `name`, counts no more."""
        command = granting.EndSession(name=name or self.target.principal, session=session, reason=reason)
        return await self._change(command, timeout_s)

    async def grant(
        self,
        name: str,
        role: Role | str,
        scope: str = "*",
        reason: str = "requested",
        *,
        until: datetime.datetime | None = None,
        timeout_s: float = 10.0,
    ) -> int | None:
        """Gives a principal a role in a scope: `*`, a queue, or a beginning of queues' names, as `billing/*`.

        Returns the number of the proposal where the role takes a second person, None where it is granted.
        """
        command = granting.GrantRole(name=name, role=Role(role), scope=scope, until=until, reason=reason)
        return await self._granted(command, timeout_s)

    async def ungrant(
        self,
        name: str,
        role: Role | str,
        scope: str = "*",
        reason: str = "requested",
        *,
        timeout_s: float = 10.0,
    ) -> int:
        """Takes a role in a scope away, as it was granted."""
        command = granting.UngrantRole(name=name, role=Role(role), scope=scope, reason=reason)
        return await self._change(command, timeout_s)

    async def elevate(
        self,
        role: Role | str,
        scope: str = "*",
        *,
        reason: str,
        for_s: int = 3_600,
        timeout_s: float = 10.0,
    ) -> int:
        """Asks for a role for a time, at most 8 h; the number by which another person approves it."""
        command = granting.Elevate(role=Role(role), scope=scope, for_s=for_s, reason=reason)
        number = await self._granted(command, timeout_s)
        assert number is not None, "what is asked for a time waits for another person"
        return number

    async def _granted(self, command: Command, timeout_s: float) -> int | None:
        answer = await self.send(NO_QUEUE, command, timeout_s=timeout_s)
        assert isinstance(answer, granting.Granted)
        return answer.proposal

    async def approve_access(
        self, name: str, number: int, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Says yes to what was proposed for a principal, as another person than who proposed it."""
        return await self._change(granting.ApproveAccess(name=name, number=number, reason=reason), timeout_s)

    async def decline_access(
        self, name: str, number: int, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """Says no to what was proposed for a principal."""
        return await self._change(granting.DeclineAccess(name=name, number=number, reason=reason), timeout_s)

    async def revoke_principal(self, name: str, reason: str = "requested", *, timeout_s: float = 10.0) -> int:
        """Nothing is answered to a principal any more, whatever it holds."""
        return await self._change(granting.RevokePrincipal(name=name, reason=reason), timeout_s)

    async def restore_principal(
        self, name: str, reason: str = "requested", *, timeout_s: float = 10.0
    ) -> int:
        """A revoked principal is what it was."""
        return await self._change(granting.RestorePrincipal(name=name, reason=reason), timeout_s)
