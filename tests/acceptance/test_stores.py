"""Files and memory, on a node of the command line, with isolated attempts and without."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from writ import Client, File, JobFailed, QueuePolicy, Retry, Target
from writ.schemas.policy import Isolation
from writ.workers.runner.levels import lacking

from .secrets.boxing import Boxed

if TYPE_CHECKING:
    from .conftest import Place

HERE = Path(__file__).parent / "secrets"


@pytest.mark.parametrize("level", ["none", "plain", "landlock", "bubblewrap"])
async def test_files_and_memory_reach_tasks_and_outlive_them(place: Place, level: str) -> None:
    lacks = None if level == "none" else lacking(Isolation(level))
    if lacks is not None:
        pytest.skip(f"not run: {lacks}")
    shutil.copy(HERE / "keeping.py", place.root)
    queue, content = f"keeps-{level}", secrets.token_bytes(1_300_000)
    (place.root / "in.bin").write_bytes(content)
    given = place.json("file", "put", "in.bin")
    assert (given["sha256"], given["name"]) == (hashlib.sha256(content).hexdigest(), "in.bin")
    isolate = () if level == "none" else ("--isolate", level)
    env = place.json("env")
    async with Client(Target(env["NATS_URL"], Path(env["NATS_NKEY"]))) as client:
        policy = QueuePolicy(retry=Retry(max_attempts=1), assets={"secret-*": ("keeps_*",)})
        await client.declare_queue(queue, policy)
        secret = f"{secrets.token_hex(16)}+{level}"
        await client.set_asset("secret-of-files", secret, secret=True)
        with place.worker("keeping.py", "--queue", queue, *isolate):
            made = await client.result(await client.submit(queue, "copies", given), timeout_s=40)
            assert made["sha256"] == given["sha256"]
            missing = await client.result(await client.submit(queue, "misses"), timeout_s=40)
            assert missing.startswith("there is no file 0000")
            first = await client.submit(queue, "counts", id="first")
            assert await client.result(first, timeout_s=40) == [0, 0, ["total"]]
            second = await client.submit(queue, "counts", id="second")
            assert await client.result(second, timeout_s=40) == [0, 1, ["total"]]
            again = await client.reproduce("first", queue)
            assert await client.result(again, timeout_s=40) == [0, 0, ["total"]], "as the record has it"
            hides = await client.submit(queue, "keeps_a_secret", id="hides")
            kept = msgspec.convert(await client.result(hides, timeout_s=40), File)
        assert await client.get_file(kept) == b"x" * 524_280 + b"[redacted]end"
        told = await client.read_memory(queue, "it", run="hides")
        assert bytes(told.value) == b'{"is":"[redacted]"}'
        total = await client.read_memory(queue, "total", agent="counter")
        assert bytes(total.value) == b"2", "a reproduction has changed what is remembered"
    out = place.root / f"out-{level}.bin"
    place.writ("file", "get", made["sha256"], "--out", str(out))
    assert out.read_bytes() == content
    assert place.json("memory", "list", "--queue", queue, "--agent", "counter") == ["total"]
    place.writ("memory", "forget", "--queue", queue, "--agent", "counter")
    assert place.json("memory", "list", "--queue", queue, "--agent", "counter") == []


@pytest.mark.parametrize("level", ["none", "plain"])
async def test_with_a_codec_nothing_between_client_and_worker_can_be_read(place: Place, level: str) -> None:
    """Not in any file of the node or the worker, nor by what the command line shows."""
    for name in ("keeping.py", "boxing.py"):
        shutil.copy(HERE / name, place.root)
    queue, word = f"coded-{level}", secrets.token_hex(16)
    isolate = () if level == "none" else ("--isolate", level)
    env = place.json("env")
    target = Target(env["NATS_URL"], Path(env["NATS_NKEY"]))
    async with Client(target, codecs=[Boxed()]) as client:
        with place.worker("keeping.py", "--queue", queue, "--codec", "boxing:Boxed", *isolate):
            job = await client.submit(queue, "repeats", {"word": word}, id=f"coded-{level}")
            assert await client.result(job, timeout_s=40) == [word, word * 2]
            again = await client.reproduce(job.id, queue)
            assert await client.result(again, timeout_s=40) == [word, word * 2]
            broken = await client.submit(queue, "breaks", {"word": word}, retry=Retry(max_attempts=1))
            with pytest.raises(JobFailed, match=f"ValueError: {word}"):
                await client.result(broken, timeout_s=40)
    shown = place.writ("job", job.id, "--queue", queue).stdout + place.writ("explain", broken.id).stdout
    assert "encoded by codec boxed" in shown
    assert word not in shown
    files = [path for path in place.root.rglob("*") if path.is_file()]
    assert not [path for path in files if word.encode() in path.read_bytes()]
