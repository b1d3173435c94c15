"""The tasks of the conformance kit, for the worker of this project."""

from __future__ import annotations

import asyncio
from typing import Any

from writ import Context, FailJob, task


class Planned(Exception):
    """The failure that is asked for."""


class Refused(FailJob):
    """The hard stop that is asked for."""


@task(name="conformance.echo")
async def echo(given: dict[str, Any]) -> dict[str, Any]:
    return given


@task(name="conformance.fail")
async def fail() -> None:
    raise Planned("as asked")


@task(name="conformance.refuse")
async def refuse() -> None:
    raise Refused("as asked")


@task(name="conformance.asset")
async def asset(name: str, ctx: Context) -> dict[str, str]:
    return {"said": await ctx.secret(name)}


@task(name="conformance.sleep")
async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
