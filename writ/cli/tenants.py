"""`writ tenant`: which tenants the node has, what each may use, and what it uses."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .output import Table, dollars, fields, next_steps, print_json, when
from .prices import microusd
from .reach import connected, find
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from writ.broker.client import Client
    from writ.schemas.hosting import HostedTenant, Used
    from writ.schemas.quotas import Quotas

NONE: Final = "none"
_FREE: Final = "-"
HELP: Final = ["writ tenant set --help"]


def tenant(args: Namespace) -> int:
    """One of the verbs."""
    return asyncio.run(_run(args, _VERBS[args.verb]))


async def _run(args: Namespace, work: Callable[[Namespace, Client], Awaitable[int]]) -> int:
    async with connected(args) as client:
        return await work(args, client)


async def _create(args: Namespace, client: Client) -> int:
    key = args.key
    if args.creds_out is not None:
        from writ.broker.keys import load_or_create

        key = load_or_create(Path(args.creds_out)).public
    await client.create_tenant(args.name, key, args.owner, reason=args.reason)
    if args.json:
        print_json({"name": args.name, "owner": args.owner, "key": key})
        return 0
    how = f", whose seed is in {args.creds_out}" if args.creds_out else ""
    print(f"created tenant {args.name} with its owner {args.owner}{how}")
    creds = args.creds_out or "FILE"
    next_steps(
        f"writ tenant set {args.name} --jobs 10000 --budget 25 --reserve 0.05",
        f"writ login --url {find(args).url} --creds {creds} --tenant {args.name} --principal {args.owner}",
    )
    return 0


async def _list(args: Namespace, client: Client) -> int:
    found = await client.tenants()
    if args.json:
        print_json(found)
        return 0
    table = Table(["tenant", "principals", "jobs", "input bytes", "workers", "budget", "spent", "reserved"],
                  ["tenant"], right=["principals", "jobs", "input bytes", "workers", "budget", "spent",
                                     "reserved"])  # fmt: skip
    for each in found:
        quotas, used, budget = each.quotas, each.used, each.quotas.budget
        table.add(
            each.name,
            str(each.principals),
            _of(used.jobs, quotas.jobs),
            _of(used.input_bytes, quotas.input_bytes),
            _of(used.workers, quotas.workers),
            _FREE if budget is None else f"{dollars(budget.limit_microusd)} a {budget.period.value}",
            _FREE if budget is None else dollars(used.spent_microusd),
            _FREE if budget is None else dollars(used.reserved_microusd),
        )
    table.print()
    return 0


def _of(count: int, most: int | None) -> str:
    return f"{count:,}" if most is None else f"{count:,} of {most:,}"


async def _show(args: Namespace, client: Client) -> int:
    """One's own tenant by the tenant's word, another by the host's."""
    name = args.name or client.target.tenant
    if name == client.target.tenant:
        told = await client.tenant()
        quotas, used, version = told.quotas, told.used, told.quotas_version
    else:
        each = await _hosted(client, name)
        quotas, used, version = each.quotas, each.used, each.version
    if args.json:
        print_json({"name": name, "version": version, "quotas": quotas, "used": used})
        return 0
    fields(_facts(name, version, quotas, used).items())
    return 0


def _facts(name: str, version: int, quotas: Quotas, used: Used) -> dict[str, str]:
    from writ.projections.shown import timestamp

    rate = quotas.submits_per_s
    facts = {
        "tenant": name,
        "quotas": f"version {version}" if version else "none were set",
        "jobs": _of(used.jobs, quotas.jobs),
        "input bytes": _of(used.input_bytes, quotas.input_bytes),
        "workers": _of(used.workers, quotas.workers),
        "submits": "any" if rate is None else f"{rate:g} a second, {quotas.submits_burst} at once",
    }
    budget = quotas.budget
    if budget is None:
        return facts | {"budget": "none"}
    left = budget.limit_microusd - used.spent_microusd - used.reserved_microusd
    since = "" if not used.since else f" since {when(timestamp(used.since))}"
    facts["budget"] = f"{dollars(budget.limit_microusd)} a {budget.period.value}"
    facts["spent"] = f"{dollars(used.spent_microusd)}{since}"
    facts["reserved"] = f"{dollars(used.reserved_microusd)}, {dollars(budget.reserve_microusd)} an attempt"
    if left < budget.reserve_microusd:
        facts["held"] = f"{dollars(max(left, 0))} are left: nothing starts until it is raised or begins anew"
    return facts


async def _hosted(client: Client, name: str) -> HostedTenant:
    found = next((each for each in await client.tenants() if each.name == name), None)
    if found is None:
        raise CommandError(f"there is no tenant {name}", ["writ tenant list", f"writ tenant create {name}"])
    return found


async def _set(args: Namespace, client: Client) -> int:
    """Changes what is given; what is not stays as it is."""
    known = await _hosted(client, args.name)
    quotas = _changed(known.quotas, args)
    await client.set_quotas(args.name, quotas, args.reason, version=known.version)
    found = await _hosted(client, args.name)
    if args.json:
        print_json(found)
        return 0
    fields(_facts(found.name, found.version, found.quotas, found.used).items())
    return 0


def _changed(known: Quotas, args: Namespace) -> Quotas:
    from msgspec.structs import replace

    given: dict[str, Any] = {}
    for option, field, read in (
        ("jobs", "jobs", _whole),
        ("bytes", "input_bytes", _whole),
        ("workers", "workers", _whole),
        ("rate", "submits_per_s", _rate),
    ):
        text = getattr(args, option)
        if text is not None:
            given[field] = None if text == NONE else read(text, f"--{option}")
    if args.burst is not None:
        given["submits_burst"] = args.burst
    given["budget"] = _budget(known, args)
    return replace(known, **given)


def _budget(known: Quotas, args: Namespace) -> Any:
    from msgspec.structs import replace

    from writ.schemas.quotas import Budget, Period

    budget = known.budget
    if args.budget == NONE:
        return None
    if args.budget is not None and budget is None and args.reserve is None:
        reason = "--budget needs --reserve: what an attempt may cost, where neither job nor queue says so"
        raise UsageError(reason, [f"writ tenant set {args.name} --budget {args.budget} --reserve 0.05"])
    limit = None if args.budget is None else microusd(args.budget, "--budget")
    reserve = None if args.reserve is None else microusd(args.reserve, "--reserve")
    if reserve == 0:
        raise UsageError("--reserve 0 reserves nothing; give at least 0.000001", HELP)
    if budget is None:
        if limit is None or reserve is None:
            if (reserve, args.period) != (None, None):
                raise UsageError("the tenant has no budget yet: give --budget too", HELP)
            return None
        return Budget(limit, reserve, Period(args.period or "day"))
    return replace(
        budget,
        limit_microusd=budget.limit_microusd if limit is None else limit,
        reserve_microusd=budget.reserve_microusd if reserve is None else reserve,
        period=budget.period if args.period is None else Period(args.period),
    )


def _whole(text: str, option: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{option} {text!r} is no whole number, nor `none`", HELP)
    return int(text)


def _rate(text: str, option: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1_000_000:
        raise UsageError(f"{option} {text!r} is no rate above 0, nor `none`", HELP)
    return rate


_VERBS: Final[dict[str, Callable[[Namespace, Client], Awaitable[int]]]] = {
    "create": _create,
    "list": _list,
    "show": _show,
    "set": _set,
}
