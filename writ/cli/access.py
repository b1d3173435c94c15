"""`writ principal`, `grant`, `token`, `session`, `can` and so on: who there is, and who may do what."""

from __future__ import annotations

import asyncio
import datetime
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fetch import pages
from .moments import moment
from .output import Table, ago, fields, next_steps, print_json, when
from .reach import connected, find

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from writ.broker.client import Client
    from writ.schemas.lists import PrincipalView


def run(args: Namespace) -> int:
    """One of the commands that connect, by its name and verb."""
    name = args.command if getattr(args, "verb", None) is None else f"{args.command} {args.verb}"
    return asyncio.run(_run(args, _COMMANDS[name]))


async def _run(args: Namespace, work: Callable[[Namespace, Client], Awaitable[int]]) -> int:
    async with connected(args) as client:
        return await work(args, client)


def policy(args: Namespace) -> int:
    """Prints the policy file as it is."""
    from writ.schemas.access import built_in, policy_text

    if args.json:
        print_json(built_in().lines)
    else:
        print(policy_text(), end="")
    return 0


# --- principals -----------------------------------------------------------------------------------------


async def _list(args: Namespace, client: Client) -> int:
    found, _ = await pages(lambda place: client.principals(waiting=args.waiting, **place), "principals", None)
    if args.json:
        print_json(found)
        return 0
    table = Table(["principal", "kind", "roles", "tokens", "waiting", "last use", "is"], ["principal"])
    for each in found:
        table.add(
            each.name,
            each.kind.value,
            ", ".join(f"{g.role.value} in {g.scope}" for g in each.grants),
            str(len(each.tokens)),
            str(len(each.proposals) or ""),
            ago(each.used_at) if each.used_at else "",
            ("revoked", "red") if each.revoked is not None else "",
        )
    table.print()
    return 0


async def _show(args: Namespace, client: Client) -> int:
    return _tell(args, await client.principal(args.name))


async def _whoami(args: Namespace, client: Client) -> int:
    found = await client.whoami()
    if found is None:
        place = find(args)
        if args.json:
            print_json({"tenant": place.tenant, "name": place.principal})
        else:
            print(f"{place.principal} of tenant {place.tenant}, which the log does not know")
        return 0
    return _tell(args, found)


def _tell(args: Namespace, found: PrincipalView) -> int:
    if args.json:
        print_json(found)
        return 0
    facts = {
        "principal": found.name,
        "tenant": found.tenant,
        "kind": found.kind.value,
        "created": f"{when(found.created_at)} by {found.created_by}",
    }
    if found.used_at:
        facts["last use"] = when(found.used_at)
    if found.revoked is not None:
        facts["revoked"] = found.revoked
    for key in found.keys:
        facts[f"key {key[:6]}"] = key
    for token in found.tokens:
        facts[f"token {token.token}"] = f"until {when(token.until)}" if token.until else "for good"
    for grant in found.grants:
        until = f", until {when(grant.until)}" if grant.until else ""
        by = f"{grant.granted_by}" + (f", proposed by {grant.proposed_by}" if grant.proposed_by else "")
        facts[f"{grant.role.value} in {grant.scope}"] = f"{grant.reason} ({by}{until})"
    for each in found.proposals:
        facts[f"waits, number {each.number}"] = f"{each.role.value} in {each.scope}: {each.reason}"
    fields(facts.items())
    if found.proposals:
        next_steps(f"writ approve-access {found.name} {found.proposals[0].number}")
    return 0


async def _create(args: Namespace, client: Client) -> int:
    key = args.key
    if args.creds_out is not None:
        from writ.broker.keys import load_or_create

        key = load_or_create(Path(args.creds_out)).public
    await client.create_principal(args.name, args.kind, key=key, reason=args.reason)
    how = f", whose seed is in {args.creds_out}" if args.creds_out else ""
    if key is None:
        how = f", which cannot log in yet: writ principal add-key {args.name} U..."
    _say(args, f"created {args.kind} {args.name}{how}", name=args.name, key=key)
    next_steps(f"writ grant {args.name} ROLE --in QUEUE --reason R", "writ policy show")
    return 0


async def _add_key(args: Namespace, client: Client) -> int:
    await client.add_key(args.name, args.key, args.reason)
    return _say(args, f"{args.name} may log in with {args.key}", name=args.name, key=args.key)


async def _remove_key(args: Namespace, client: Client) -> int:
    await client.remove_key(args.name, args.key, args.reason)
    return _say(args, f"{args.name} may not log in with {args.key} any more", name=args.name, key=args.key)


async def _revoke(args: Namespace, client: Client) -> int:
    await client.revoke_principal(args.name, args.reason)
    return _say(args, f"{args.name} is revoked", name=args.name)


async def _restore(args: Namespace, client: Client) -> int:
    await client.restore_principal(args.name, args.reason)
    return _say(args, f"{args.name} is restored", name=args.name)


# --- roles ----------------------------------------------------------------------------------------------


async def _grant(args: Namespace, client: Client) -> int:
    until = None if args.until is None else moment(args.until, "--until")
    number = await client.grant(args.name, args.role, args.scope, args.reason, until=until)
    what = f"{args.role} in {args.scope}"
    return _proposed(args, args.name, number, f"{args.name} is {what}", what)


async def _ungrant(args: Namespace, client: Client) -> int:
    await client.ungrant(args.name, args.role, args.scope, args.reason)
    return _say(args, f"{args.name} is not {args.role} in {args.scope} any more", name=args.name)


async def _elevate(args: Namespace, client: Client) -> int:
    for_s = int(args.for_minutes * 60)
    number = await client.elevate(args.role, args.scope, for_s=for_s, reason=args.reason)
    what = f"{args.role} in {args.scope} for {args.for_minutes:g} minutes"
    return _proposed(args, client.target.principal, number, "", what)


def _proposed(args: Namespace, name: str, number: int | None, done: str, what: str) -> int:
    if number is None:
        return _say(args, done, name=name, proposal=None)
    _say(args, f"{what} is proposed for {name}, as number {number}; another person approves it",
         name=name, proposal=number)  # fmt: skip
    next_steps(f"writ approve-access {name} {number}")
    return 0


async def _approve(args: Namespace, client: Client) -> int:
    await client.approve_access(args.name, args.number, args.reason)
    return _say(args, f"number {args.number} of {args.name} is approved", name=args.name, number=args.number)


async def _decline(args: Namespace, client: Client) -> int:
    await client.decline_access(args.name, args.number, args.reason)
    return _say(args, f"number {args.number} of {args.name} is declined", name=args.name, number=args.number)


async def _can(args: Namespace, client: Client) -> int:
    """Exits 1 where the answer is no."""
    verdict = await client.can(args.operation, args.resource, principal=args.name)
    if args.json:
        print_json({"allowed": verdict.allowed, "rule": verdict.rule, "reason": verdict.reason})
    else:
        print(f"{'yes' if verdict.allowed else 'no'}, by {verdict.rule}: {verdict.reason}")
    return 0 if verdict.allowed else 1


# --- tokens ---------------------------------------------------------------------------------------------


async def _token_create(args: Namespace, client: Client) -> int:
    until = None if args.until is None else moment(args.until, "--until")
    secret = await client.create_token(args.token, args.name, until=until, reason=args.reason)
    if args.json:
        print_json({"name": args.name or client.target.principal, "token": args.token, "secret": secret})
    else:
        print(secret)
        next_steps("it is shown this once; send it as `Authorization: Bearer ...`")
    return 0


async def _token_list(args: Namespace, client: Client) -> int:
    found = await _himself_or(args.name, client)
    tokens = found.tokens if found is not None else ()
    if args.json:
        print_json(tokens)
        return 0
    table = Table(["token", "issued", "until"], ["token"])
    for each in tokens:
        table.add(each.token, when(each.at), when(each.until) if each.until else "")
    table.print()
    return 0


async def _himself_or(name: str | None, client: Client) -> PrincipalView | None:
    """A principal; of oneself it is told to everybody."""
    own = name in {None, client.target.principal}
    return await client.whoami() if own or name is None else await client.principal(name)


async def _token_revoke(args: Namespace, client: Client) -> int:
    await client.revoke_token(args.token, args.name, args.reason)
    return _say(args, f"the token {args.token} counts no more", token=args.token)


# --- sessions -------------------------------------------------------------------------------------------


async def _session_list(args: Namespace, client: Client) -> int:
    found = await _himself_or(args.name, client)
    now = datetime.datetime.now(datetime.UTC)
    going = [
        each
        for each in (found.sessions if found is not None else ())
        if now < datetime.datetime.fromisoformat(each.until)
    ]
    if args.json:
        print_json(going)
        return 0
    table = Table(["session", "since", "until", "logged in by"], ["session"])
    for each in going:
        table.add(each.session, when(each.at), when(each.until), each.by)
    table.print()
    return 0


async def _session_end(args: Namespace, client: Client) -> int:
    await client.end_session(args.session, args.name, args.reason)
    return _say(args, f"the session {args.session} counts no more", session=args.session)


def _say(args: Namespace, text: str, **facts: Any) -> int:
    if args.json:
        print_json(facts)
    else:
        print(text)
    return 0


_COMMANDS: dict[str, Callable[[Namespace, Client], Awaitable[int]]] = {
    "whoami": _whoami,
    "can": _can,
    "grant": _grant,
    "ungrant": _ungrant,
    "elevate": _elevate,
    "approve-access": _approve,
    "decline-access": _decline,
    "principal list": _list,
    "principal show": _show,
    "principal create": _create,
    "principal add-key": _add_key,
    "principal remove-key": _remove_key,
    "principal revoke": _revoke,
    "principal restore": _restore,
    "token create": _token_create,
    "token list": _token_list,
    "token revoke": _token_revoke,
    "session list": _session_list,
    "session end": _session_end,
}
