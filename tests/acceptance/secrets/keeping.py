"""Tasks that keep files and memory. Copied beside a node, and run there."""

from __future__ import annotations

from pathlib import Path

from writ import Context, File, FileMissing, task


@task
async def copies(doc: File, ctx: Context) -> File:
    await ctx.files.save(doc, "copy.bin")
    content = Path("copy.bin").read_bytes()  # noqa: ASYNC240 - it is small
    assert content == await ctx.files.get(doc.sha256)
    return await ctx.files.put([content[:7], content[7:]], name="copy.bin")


@task
async def misses(ctx: Context) -> str:
    try:
        return (await ctx.files.get("0" * 64)).decode()
    except FileMissing as error:
        return str(error)


@task
def counts(ctx: Context) -> list[object]:
    before = ctx.memory.get_sync("runs", 0)
    ctx.memory.put_sync("runs", before + 1, ttl_s=3_600)
    agent = ctx.memory.agent("counter")
    total = agent.get_sync("total", 0)
    agent.put_sync("total", total + 1)
    return [before, total, agent.keys_sync()]


@task
async def keeps_a_secret(ctx: Context) -> File:
    value = await ctx.secret("secret-of-files")
    await ctx.memory.put("it", {"is": value})
    half = len(value) // 2
    return await ctx.files.put([b"x" * 524_280, value[:half].encode(), value[half:].encode(), b"end"])


@task
async def repeats(word: str, ctx: Context) -> list[str]:
    async def same(given: str) -> str:
        return given * 2

    ctx.progress({"at": word})
    return [word, await ctx.step("same", same, word)]


@task
async def breaks(word: str) -> None:
    raise ValueError(word)
