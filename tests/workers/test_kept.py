"""Assets, files, memory and codecs in the whole system in memory."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import msgspec
import pytest
from nacl.secret import SecretBox

from writ import Client, Context, File, JobFailed, QueuePolicy, Refused, Retry, task
from writ.broker.coding import shown
from writ.orchestrator.replay.verify import verify
from writ.schemas.assets import AssetRead
from writ.schemas.lifecycle import State
from writ.testing import System, virtual
from writ.vectors import remembered

ONCE = Retry(max_attempts=1)
OPEN = QueuePolicy(assets={"key-*": ("tells", "plain*"), "colour": ("*",)}, retry=ONCE)


@task
async def tells(ctx: Context, name: str) -> str:
    return f"it is {await ctx.secret(name)}, twice {await ctx.secret(name)}"


@task
async def looks(ctx: Context, name: str = "colour") -> str:
    return await ctx.asset(name)


@task
def plainly(ctx: Context) -> list[object]:
    file = ctx.files.put_sync("words")
    ctx.memory.put_sync("n", 1)
    return [len(ctx.secret_sync("key-a")), ctx.files.get_sync(file).decode(), ctx.memory.get_sync("n")]


@task
async def denied(ctx: Context) -> None:
    await ctx.memory.put("n", 1)


@virtual
async def test_only_what_the_queue_grants_the_task_is_read_and_the_version_is_recorded() -> None:
    async with System([tells, looks, plainly]) as system:
        client = system.client
        await client.set_asset("key-a", "a long secret", secret=True)
        await client.set_asset("colour", "blue")
        refused = await client.submit("test", "tells", {"name": "key-a"}, retry=ONCE)
        with pytest.raises(JobFailed, match="does not grant key-a to task tells: list it in its assets"):
            await client.result(refused)
        await client.declare_queue("test", OPEN)
        first = await client.submit("test", "tells", {"name": "key-a"}, id="first")
        assert await client.result(first) == "it is [redacted], twice [redacted]"
        with pytest.raises(JobFailed, match="does not grant key-a to task looks"):
            await client.result(await client.submit("test", "looks", {"name": "key-a"}))
        assert await client.result(await client.submit("test", "looks")) == "blue"
        assert await client.result(await client.submit("test", "plainly")) == [13, "words", 1]
        reads = [e for r in await system.records() for e in r.events if isinstance(e, AssetRead)]
        assert [(e.asset, e.version, e.secret) for e in reads] == [
            *[("key-a", 1, True), ("colour", 1, False), ("key-a", 1, True)]
        ]
        assert not (await verify(system.log)).faults


@virtual
async def test_a_reproduction_reads_the_version_of_the_first_run_while_its_value_is_there() -> None:
    async with System([looks]) as system:
        client = system.client
        await client.declare_queue("test", OPEN)
        await client.set_asset("colour", "blue")
        first = await client.submit("test", "looks", id="first")
        assert await client.result(first) == "blue"
        await client.set_asset("colour", "red", rotate=True)
        assert await client.result(await client.submit("test", "looks")) == "red"
        assert await client.result(await client.reproduce("first", "test")) == "blue"
        assert (await client.asset("colour", 1)).value == b"blue"
        await client.set_asset("colour", "green", rotate=True, forget=True)
        with pytest.raises(JobFailed, match="the value of version 1 of colour was erased"):
            await client.result(await client.reproduce("first", "test"))
        history = (await client.assets("colour")).assets
        assert [(each.version, each.erased) for each in history] == [(1, True), (2, True), (3, False)]
        await client.remove_asset("colour")
        assert (await client.assets()).assets == ()
        with pytest.raises(Refused, match="there is no asset colour"):
            await client.asset("colour")
        assert (await client.set_asset("colour", "grey")).version == 4
        assert not (await verify(system.log)).faults


@virtual
async def test_what_cannot_be_an_asset_is_refused_and_no_value_is_quoted() -> None:
    async with System() as system:
        client = system.client
        await client.set_asset("key", "a long secret", secret=True)
        for name, value, options, why in (
            ("short", "12345", {"secret": True}, "a secret of 5 bytes is guessed at once"),
            ("key", "another value", {}, "key is a secret, and an asset is given"),
            ("none", "another value", {"rotate": True}, "there is no asset none"),
            ("large", b"x" * 70_000, {}, "65536"),
        ):
            with pytest.raises(Refused, match=why):
                await client.set_asset(name, value, **options)  # type: ignore[arg-type]
        with pytest.raises(Refused, match="key is a secret: its value is given to jobs alone"):
            await client.asset("key")
        told = b"".join([msgspec.json.encode(record) for record in await system.records()])
        assert not any(each in told for each in (b"a long secret", b"another value", b"12345", b"xxxx"))


@virtual
async def test_memory_ends_with_its_time_and_may_be_denied_by_the_policy() -> None:
    @task
    async def remembers(ctx: Context, put: bool) -> Any:
        agent = ctx.memory.agent("bot")
        if put:
            first = await agent.put("k", {"v": 1}, ttl_s=100)
            return [first, await agent.put("k", 2, revision=0)]
        return await agent.get("k", "gone")

    async with System([remembers, denied]) as system:
        client = system.client
        made = await client.result(await client.submit("test", "remembers", {"put": True}))
        assert made == [1, None], "another was written in between: nothing is changed"
        assert await client.result(await client.submit("test", "remembers", {"put": False})) == {"v": 1}
        late = await client.submit("test", "remembers", {"put": False}, delay_s=200)
        assert await client.result(late) == "gone"
        await client.declare_queue("test", msgspec.convert({"tools": {"deny": ["memory.*"]}}, QueuePolicy))
        with pytest.raises(JobFailed, match=r"tool memory.put is denied by version 1 of the policy"):
            await client.result(await client.submit("test", "denied", retry=ONCE))


@virtual
async def test_files_are_swept_when_their_time_is_over() -> None:
    async with System() as system:
        client = system.client
        short = await client.put_file(b"short", keep_s=3_600)
        long = await client.put_file([b"lo", b"ng"], name="long.txt")
        assert await client.get_file(short) == b"short"
        late = await client.put_file(b"short", keep_s=7_200)
        assert late == short
        assert {each.file.sha256 for each in (await client.files()).files} == {short.sha256, long.sha256}
        await asyncio.sleep(7_300)
        assert await system.house.sweep() == 1
        assert [each.file for each in (await client.files()).files] == [long]
        assert await client.get_file(File(long.sha256, 4)) == b"long"


@task
async def learns(word: str, at: list[float], ctx: Context) -> list[Any]:
    async with remembered(ctx, "librarian", "words", dimensions=3) as vectors:
        near = vectors.search(at, 2)
        vectors.add(word, at, {"word": word})
    return [[hit.key, round(hit.score, 2), hit.data] for hit in near]


@virtual
async def test_an_agent_finds_what_is_near_of_what_it_has_learnt_and_a_reproduction_the_same() -> None:
    async with System([learns]) as system:
        client = system.client

        async def learn(word: str, at: list[float]) -> Any:
            return await client.result(
                await client.submit("test", "learns", {"word": word, "at": at}, id=word, retry=ONCE)
            )

        assert await learn("east", [1, 0, 0]) == []
        assert await learn("north", [0, 1, 0]) == [["east", 0.0, {"word": "east"}]]
        found = await learn("north-east", [1, 1.2, 0])
        assert [each[0] for each in found] == ["north", "east"]
        assert await learn("again", [1, 0, 0]) == [
            ["east", 1.0, {"word": "east"}],
            ["north-east", 0.64, {"word": "north-east"}],
        ]
        assert await client.result(await client.reproduce("north-east", "test")) == found
        assert len(await learn("east-again", [1, 0, 0])) == 2


# --- codecs -----------------------------------------------------------------------------------------------


class Boxed:
    """An encryption codec."""

    name = "boxed"
    digest_key = b"d" * 32

    def __init__(self) -> None:
        self._box = SecretBox(b"k" * 32)

    def encode(self, content: bytes) -> bytes:
        return bytes(self._box.encrypt(content))

    def decode(self, data: bytes) -> bytes:
        return self._box.decrypt(data)


class Zipped:
    name = "zipped"

    def encode(self, content: bytes) -> bytes:
        return zlib.compress(content)

    def decode(self, data: bytes) -> bytes:
        return zlib.decompress(data)


@task
async def works(word: str, ctx: Context) -> dict[str, Any]:
    async def same(given: str) -> dict[str, str]:
        return {"given": given}

    step = await ctx.step("same", same, word)
    await ctx.checkpoint({"left": word})
    came = await ctx.wait_for_signal("go")
    child = await ctx.run("shouts", {"word": word})
    await ctx.memory.put("word", 1)
    return {"step": step, "came": came, "child": child}


@task
async def shouts(word: str) -> str:
    return word.upper()


@task
async def fails(word: str) -> None:
    raise ValueError(word * 2_000)


@task
async def joins(a: str, word: str) -> list[str]:
    return [a, word]


@virtual
async def test_with_an_encryption_codec_the_log_holds_nothing_that_can_be_read() -> None:
    async with System([works, shouts, fails, joins], codecs=[Boxed(), Zipped()]) as system:
        client = Client(system.client.target, wire=system.wire, clock=system.clock, codecs=[Boxed()])
        job = await client.submit("test", "works", {"word": "sesame"}, id="first", retry=ONCE)
        await system.when(job, State.SUSPENDED)
        await client.signal(job.id, "test", "go", {"x": "sesame"})
        expected = {"step": {"given": "sesame"}, "came": {"x": "sesame"}, "child": "SESAME"}
        assert await client.result(job) == expected
        assert bytes((await client.job("first", "test")).input) == b'{"word":"sesame"}'
        assert await client.result(await client.reproduce("first", "test")) == expected
        with pytest.raises(JobFailed, match="ValueError: sesamesesame"):
            await client.result(await client.submit("test", "fails", {"word": "sesame"}, retry=ONCE))
        before = await client.submit("test", "shouts", {"word": "sesame"})
        after: dict[str, Any] = {"after": [before], "input_from": {"a": before}}
        joined = await client.submit("test", "joins", {"word": "open"}, **after)
        assert await client.result(joined) == ["SESAME", "open"]
        told = b"".join([msgspec.json.encode(record) for record in await system.records()])
        assert b"sesame" not in told.lower()
        seen = await system.client.job("first", "test")
        assert msgspec.json.decode(seen.input)["writ.codec"] == "boxed"
        assert shown(bytes(seen.input).decode()).startswith('"encoded by codec boxed, ')
        assert shown('{"plain": 1}') == '{"plain": 1}'
        assert not (await verify(system.log)).faults


@virtual
async def test_a_worker_without_the_codec_says_so() -> None:
    async with System([shouts]) as system:
        client = Client(system.client.target, wire=system.wire, clock=system.clock, codecs=[Zipped()])
        with pytest.raises(JobFailed, match="encoded by codec 'zipped', and this worker cannot decode it"):
            await client.result(await client.submit("test", "shouts", {"word": "x"}, retry=ONCE))
