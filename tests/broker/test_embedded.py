"""The embedded broker: starting, stopping, and what survives the death of its owner and its own."""
# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from writ.broker.accounts import BrokerSettings
from writ.broker.connect import login
from writ.broker.doors import local_principal
from writ.broker.embedded import EmbeddedBroker
from writ.broker.free_ports import PortInUseError
from writ.broker.keys import KeyFileError, load_or_create
from writ.broker.owned import AlreadyRunningError, BrokerError, BrokerStartError, owner_pid, server_binary

WAIT_S = 10.0

# An owner in a process of its own: starts the broker, stores a message, says so, and waits to be killed.
OWNER = """
import asyncio, sys
from pathlib import Path
import nats
from writ.broker.connect import login
from writ.broker.embedded import EmbeddedBroker

async def main():
    broker = await EmbeddedBroker.start(Path(sys.argv[1]))
    client = await nats.connect(broker.url, **login(broker.key_path("log")))
    stream = client.jetstream()
    await stream.add_stream(name="S", subjects=["s.>"])
    for number in range(20):
        await stream.publish("s.x", b"%d" % number)
    print(broker.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie, which in a container may have nobody to reap it, does not."""
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.strip()[:1] not in ("", "Z")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def open_files(pid: int) -> list[Path]:
    return [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - watches another process, which has no event
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connected(broker: EmbeddedBroker, name: str = "log") -> AsyncGenerator[Client]:
    client = await nats.connect(broker.url, **login(broker.key_path(name)), allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def owner(tmp_path: Path) -> Callable[[], tuple[subprocess.Popen[str], int]]:
    """Start an owner on `tmp_path`; returns it and the broker's process id."""

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    return start


async def stored(broker: EmbeddedBroker) -> list[bytes]:
    async with connected(broker) as client:
        stream = client.jetstream()
        info = await stream.stream_info("S")
        return [(await stream.get_msg("S", n)).data or b"" for n in range(1, info.state.last_seq + 1)]


async def test_a_started_broker_answers_and_a_stopped_one_is_gone(tmp_path: Path) -> None:
    directory = tmp_path / "new" / ".writ"
    broker = await EmbeddedBroker.start(directory)
    async with connected(broker) as client:
        assert (await client.jetstream().account_info()).streams == 0
    assert json.loads((directory / "ports").read_text()) == {"nats": broker.port}
    assert (directory / "broker.pid").read_text().strip() == str(broker.pid)
    assert owner_pid(directory) == os.getpid()
    await broker.stop()
    assert not alive(broker.pid)
    assert not (directory / "broker.pid").exists()
    assert owner_pid(directory) is None
    ended = await broker.wait()
    assert ended.expected
    await broker.stop()  # again changes nothing


async def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path / "d") as broker:
        for name in ("log", "answer", "owner", "default.owner"):
            assert stat.S_IMODE(broker.key_path(name).stat().st_mode) == 0o600
        assert stat.S_IMODE((broker.directory / "keys").stat().st_mode) == 0o700
        assert stat.S_IMODE(broker.directory.stat().st_mode) == 0o700
        configuration = (broker.directory / "broker.conf").read_text()
        seeds = [broker.key_path(name).read_text().strip() for name in ("log", "answer", "owner")]
        assert not [seed for seed in seeds if seed in configuration]
        with pytest.raises(KeyError, match="no seed of 'nobody'"):
            broker.key_path("nobody")


async def test_the_port_is_found_again_and_given_up_when_taken(tmp_path: Path) -> None:
    first = await EmbeddedBroker.start(tmp_path)
    await first.stop()
    second = await EmbeddedBroker.start(tmp_path)
    await second.stop()
    assert second.port == first.port
    with socket.create_server(("127.0.0.1", first.port)):
        third = await EmbeddedBroker.start(tmp_path)
        await third.stop()
    assert third.port != first.port


async def test_a_taken_port_that_was_asked_for_is_an_error_naming_its_user(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        said = rf"port {port} is in use by .* \(pid {os.getpid()}\); .* --port"
        with pytest.raises(PortInUseError, match=said):
            await EmbeddedBroker.start(tmp_path, port)
    async with await EmbeddedBroker.start(tmp_path, port) as broker:
        assert broker.url == f"nats://127.0.0.1:{port}"


async def test_a_second_owner_is_refused_and_the_first_left_alone(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path) as broker:
        with pytest.raises(AlreadyRunningError, match=rf"\(pid {os.getpid()}\); use `writ down`, or --dir"):
            await EmbeddedBroker.start(tmp_path)
        async with connected(broker) as client:
            await client.jetstream().account_info()


async def test_the_lock_is_not_inherited_by_the_broker(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    async with await EmbeddedBroker.start(tmp_path) as broker:
        held = open_files(broker.pid)
        assert tmp_path / "broker.log" in held
        assert tmp_path / "lock" not in held


async def test_a_failing_start_shows_the_log_and_frees_the_directory(tmp_path: Path) -> None:
    def wrong(settings: BrokerSettings) -> BrokerSettings:
        return replace(settings, sync_interval="sometimes")

    with pytest.raises(BrokerStartError, match=r"(?s)ended with code 1.*broker\.log.*sync_interval"):
        await EmbeddedBroker.start(tmp_path, configure=wrong)
    async with await EmbeddedBroker.start(tmp_path):
        pass


async def test_a_start_that_takes_too_long_leaves_no_process(tmp_path: Path) -> None:
    sleeper = tmp_path / "nats-server"
    sleeper.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    sleeper.chmod(0o700)
    with pytest.raises(BrokerStartError, match=r"not ready after 0\.3 s"):
        await EmbeddedBroker.start(tmp_path / "d", binary=sleeper, ready_timeout_s=0.3)
    assert not alive(int((tmp_path / "d" / "broker.pid").read_text()))
    async with await EmbeddedBroker.start(tmp_path / "d"):
        pass


async def test_data_survive_the_brokers_death_and_the_owner_learns_of_it(tmp_path: Path) -> None:
    broker = await EmbeddedBroker.start(tmp_path)
    async with connected(broker) as client:
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s.>"])
        for number in range(20):
            await stream.publish("s.x", b"%d" % number)
        os.kill(broker.pid, signal.SIGKILL)
        ended = await asyncio.wait_for(broker.wait(), WAIT_S)
    assert (ended.code, ended.expected) == (-signal.SIGKILL, False)
    assert "Server is ready" in ended.log_tail
    await broker.stop()
    async with await EmbeddedBroker.start(tmp_path) as again:
        assert again.url == broker.url
        assert await stored(again) == [b"%d" % n for n in range(20)]


async def test_kill_ends_it_at_once_and_data_survive(tmp_path: Path) -> None:
    broker = await EmbeddedBroker.start(tmp_path)
    async with connected(broker) as client:
        await client.jetstream().add_stream(name="S", subjects=["s.>"])
        await client.jetstream().publish("s.x", b"kept")
        await broker.kill()
    assert (await broker.wait()).code == -signal.SIGKILL
    async with await EmbeddedBroker.start(tmp_path) as again:
        assert await stored(again) == [b"kept"]


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_the_broker_stops_with_its_owner(
    tmp_path: Path, owner: Callable[[], tuple[subprocess.Popen[str], int]], how: signal.Signals
) -> None:
    process, broker_pid = owner()
    assert alive(broker_pid)
    assert owner_pid(tmp_path) == process.pid
    process.send_signal(how)
    with process:
        await until(lambda: not alive(broker_pid))
    # It ended by the signal that lets it finish, not by force.
    assert "Server Exiting" in (tmp_path / "broker.log").read_text()
    async with await EmbeddedBroker.start(tmp_path) as again:
        assert await stored(again) == [b"%d" % n for n in range(20)]


async def test_an_orphan_is_stopped_before_a_new_start(tmp_path: Path) -> None:
    first = await EmbeddedBroker.start(tmp_path)
    async with connected(first) as client:
        await client.jetstream().add_stream(name="S", subjects=["s.>"])
        await client.jetstream().publish("s.x", b"kept")
    await first.stop()
    # A broker that nothing ties to an owner, as where the kernel has no such signal.
    orphan = await asyncio.create_subprocess_exec(server_binary(), "-c", tmp_path / "broker.conf")
    await until(lambda: listens(first.port))
    (tmp_path / "broker.pid").write_text(f"{orphan.pid}\n")
    async with await EmbeddedBroker.start(tmp_path) as second:
        assert not alive(orphan.pid)
        assert second.port == first.port
        assert await stored(second) == [b"kept"]
    assert await orphan.wait() == 0


@pytest.mark.parametrize("other_directory", [False, True])
async def test_a_process_that_is_not_our_broker_is_left_alone(tmp_path: Path, other_directory: bool) -> None:
    if other_directory:
        elsewhere = await EmbeddedBroker.start(tmp_path / "elsewhere")
        pid, end = elsewhere.pid, elsewhere.stop
    else:
        stranger = await asyncio.create_subprocess_exec("sleep", "60")

        async def end() -> None:
            stranger.kill()
            await stranger.wait()

        pid = stranger.pid
    try:
        (tmp_path / "broker.pid").write_text(f"{pid}\n")
        async with await EmbeddedBroker.start(tmp_path):
            assert alive(pid)
    finally:
        await end()


@pytest.mark.parametrize("content", ["", "nonsense", '{"nats": "x"}', '{"nats": 99999}', "[]"])
async def test_damaged_state_files_do_not_stop_a_start(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports").write_text(content)
    (tmp_path / "broker.pid").write_text(content)
    async with await EmbeddedBroker.start(tmp_path) as broker:
        assert json.loads((tmp_path / "ports").read_text()) == {"nats": broker.port}


async def test_impossible_ports_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="port 70000 does not exist"):
        await EmbeddedBroker.start(tmp_path, 70_000)
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match="choose another with --dir"):
        await EmbeddedBroker.start(tmp_path / "file")


async def test_many_principals_start_fast_enough(tmp_path: Path) -> None:
    principals = [local_principal(tmp_path, f"t{n % 5}", f"p{n}") for n in range(200)]
    async with await EmbeddedBroker.start(tmp_path, principals=principals) as broker:
        async with connected(broker, "t1.p1") as client:
            assert client.is_connected
        assert len(broker.principals) == 201


async def test_a_server_whose_log_is_being_turned_over_has_not_given_up(tmp_path: Path) -> None:
    async with await EmbeddedBroker.start(tmp_path) as broker:
        assert not broker.gave_up_writing()
        (tmp_path / "broker.log").rename(tmp_path / "broker.log.1")
        assert not broker.gave_up_writing()


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "x.nk"
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(load_or_create(path).public)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [load_or_create(path).public] * 8
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["x.nk"]


@pytest.mark.parametrize("content", ["", "SUAAAA", "not a seed at all", "UBHKL3QGEG6OHZM3EVJG2HOTCYHACWR"])
def test_a_file_without_a_seed_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.nk"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="does not hold an NKey user seed"):
        load_or_create(path)
    assert path.read_text() == content


def test_a_seed_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = load_or_create(tmp_path / "x.nk").seed_path
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match=r"mode 0644.*chmod 600"):
        load_or_create(path)
