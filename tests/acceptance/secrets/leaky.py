"""Tasks that say what they were told, by every way out of a worker. Copied beside a node, and run there."""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import urllib.parse
from pathlib import Path

from writ import Context, Retry, task, tool


async def _value(ctx: Context, name: str, secret: bool) -> str:
    return await (ctx.secret(name) if secret else ctx.asset(name))


@task
async def returns(ctx: Context, name: str, secret: bool) -> dict[str, object]:
    value = await _value(ctx, name, secret)
    return {"is": value, value: [f"in {value} text"], "json": json.dumps({"deep": value})}


@task
async def raises(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)
    try:
        raise KeyError(value)
    except KeyError as cause:
        raise type(f"Of{value}", (ValueError,), {})("x" * 3_990 + value) from cause


@task
async def prints(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)
    for stream in (sys.stdout, sys.stderr):
        for character in f"begin {value} end\n":
            stream.write(character)
            stream.flush()
    print("y" * (128 * 1024 - 10) + value + "z" * (64 * 1024 - len(value) // 2))


@task
async def logs(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)
    ctx.log.warning("it is %s", value)
    logging.getLogger("of.mine").error("it is %r", {"value": value})
    try:
        raise ValueError(value)
    except ValueError:
        ctx.log.exception("raised")


@task
async def says(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)
    ctx.progress({"at": value})
    await ctx.checkpoint({"left": value})
    ctx.usage(model=value, input_tokens=1)


@task
async def steps(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)

    async def same(given: str) -> dict[str, str]:
        return {"given": given}

    async def fails(given: str) -> None:
        raise ValueError(given)

    await ctx.step(f"takes {value}", same, value)
    await ctx.step("fails", fails, value)


@tool
async def echo(given: str) -> str:
    return f"{given}, it is"


@tool
async def breaks(given: str) -> str:
    raise ValueError(given)


@task
async def calls(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)
    await echo(value)
    await breaks(given=value)


@task
async def encodes(ctx: Context, name: str, secret: bool) -> list[str]:
    value = await _value(ctx, name, secret)
    raw = value.encode()
    shifted = [base64.b64encode(b"x" * before + raw + b"yz").decode() for before in range(3)]
    print(*shifted, raw.hex(), raw, ascii(value), sep="\n")
    return [*shifted, raw.hex(), urllib.parse.quote(value), urllib.parse.quote_plus(value), repr(raw)]


@task
async def child(given: str) -> str:
    return given


@task
async def starts(ctx: Context, name: str, secret: bool) -> object:
    value = await _value(ctx, name, secret)
    return await ctx.run("child", {"given": value}, retry=Retry(max_attempts=1))


def _of_process() -> list[bytes]:
    return [Path(f"/proc/self/{each}").read_bytes() for each in ("environ", "cmdline")]


@task
async def exits(ctx: Context, name: str, secret: bool) -> None:
    value = await _value(ctx, name, secret)
    if any(value.encode() in each for each in _of_process()):
        print("FOUND IN ARGV OR ENVIRONMENT", file=sys.stderr)
    print(value, file=sys.stderr, flush=True)
    os._exit(3)
