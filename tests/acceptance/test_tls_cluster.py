"""Three servers that speak TLS to clients and to each other, on the configuration that is shipped."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import struct
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance import chaos as system
from tests.acceptance.certificates import certify
from tests.acceptance.chaos import LIVE, Chaos, Fault
from tests.acceptance.cluster import Cluster
from tests.acceptance.kills import harness
from writ.broker.accounts import SERVERS
from writ.broker.connect import Target, connect
from writ.broker.errors import Unreachable
from writ.broker.owned import server_binary

LEASE_S: Final = 20.0
HEARD_BYTES: Final = 200_000
"""Of what servers say to each other, so much is looked at."""

PATIENCE_S: Final = 30.0
_ETHERNET_BYTES: Final = 14
_EVERYTHING: Final = 3
"""ETH_P_ALL."""

_TCP: Final = 6
_SAID: Final = (b'"job-', harness.QUEUE.encode() + b"~", b"$JS.", b"RMSG", b"nats-server")
"""What servers say to each other while jobs are worked on; none of it may be read on the way."""


class Tap:
    """What is sent to and from some ports of this machine, as anybody on the way would have it."""

    def __init__(self, ports: list[int]) -> None:
        self.heard = bytearray()
        self.enough = threading.Event()
        self._ports = set(ports)
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                self._take(self._socket.recv(1 << 17)[_ETHERNET_BYTES:])

    def _take(self, packet: bytes) -> None:
        if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _TCP:
            return
        segment = packet[(packet[0] & 15) * 4 :]
        if self._ports & set(struct.unpack("!HH", segment[:4])):
            self.heard += segment[(segment[12] >> 4) * 4 :]
        if len(self.heard) > HEARD_BYTES:
            self.enough.set()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()


def missing() -> str | None:
    """Why the machine does not let us listen to it; None where it does."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    except (AttributeError, OSError) as error:
        return f"no listening to a wire here: {error}"
    return None


async def overhear(chaos: Chaos, _: str) -> None:
    """Nothing of what servers say to each other can be read on the way."""
    assert chaos.cluster is not None
    tap = Tap(chaos.cluster.routes)
    try:
        assert await asyncio.to_thread(tap.enough.wait, PATIENCE_S), "the servers say nothing to each other"
    finally:
        tap.close()
    read = [words for words in _SAID if words in tap.heard]
    assert not read, f"{read} can be read between the servers"


async def turn_away(chaos: Chaos, _: str) -> None:
    """Refused, though each client has the owner's key: one that trusts another authority, one that has none,
    one that goes on in the clear; and a server without a certificate of the authority.
    """
    cluster, stage = chaos.cluster, chaos.stage
    assert cluster is not None
    elsewhere = stage.root / "elsewhere"
    if not elsewhere.exists():
        certify(elsewhere)  # another authority, in `ca.pem`
        shutil.copy(stage.key_path, elsewhere / "owner.nk")
        (elsewhere / "bare").mkdir()
        shutil.copy(stage.key_path, elsewhere / "bare" / "owner.nk")
    for folder in (elsewhere, elsewhere / "bare"):
        with pytest.raises(Unreachable, match="its certificate does not stand"):
            await (await connect(Target(cluster.url, folder / "owner.nk"), "stranger")).close()
    for port in cluster.ports:
        assert "PONG" not in await _in_the_clear(port)
    await _no_fourth(stage, cluster, elsewhere)


async def _in_the_clear(port: int) -> str:
    """What a server answers to a client that goes on without TLS, up to where it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = await asyncio.wait_for(reader.readline(), PATIENCE_S)  # it waited for a handshake
    assert json.loads(said.removeprefix(b"INFO "))["tls_required"]
    writer.write(b'CONNECT {"verbose":false,"name":"stranger"}\r\nPING\r\n')
    with suppress(ConnectionError):
        said = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return said.decode(errors="replace")


async def _no_fourth(stage: harness.Stage, cluster: Cluster, elsewhere: Path) -> None:
    """A server in the clear, and one with a certificate of another authority, do not get into the cluster."""
    wrong = {name: str(elsewhere / f"{name.lower()}.pem") for name in ("CERT", "KEY", "CA")}
    for name, configuration, more in (
        ("plain", "cluster.conf", {}),
        ("foreign", "cluster-tls.conf", {f"WRIT_BROKER_{name}": path for name, path in wrong.items()}),
    ):
        home = elsewhere / name
        (home / "accounts").mkdir(parents=True, exist_ok=True)
        env = cluster.environment(0) | {
            "WRIT_BROKER_NAME": name,
            "WRIT_BROKER_LISTEN": "127.0.0.1:-1",
            "WRIT_BROKER_CLUSTER": "127.0.0.1:-1",
            "WRIT_BROKER_STORE": str(home / "store"),
            "WRIT_BROKER_ACCOUNTS": str(home / "accounts"),
            **more,
        }
        command = (str(server_binary()), "-c", str(cluster.root / configuration))
        fourth = stage.run(name, *command, **env)
        try:
            await stage.until(partial(_met, stage.root / f"{name}.log"), f"{name} meets the others")
            assert name not in await _servers(cluster)
        finally:
            fourth.kill()
            fourth.wait()


def _met(said: Path) -> bool:
    """Whether a server has begun a route, by its log."""
    return "rid:" in said.read_text()


async def _servers(cluster: Cluster) -> set[str]:
    """The names of all servers that answer within a second to what a cluster is asked."""
    system_key = cluster.keys / "keys" / "system.creds"
    link = await connect(Target(cluster.url, system_key), "look", inbox_prefix="_INBOX", wait_s=PATIENCE_S)
    found: set[str] = set()

    def told(subject: bytes, reply: bytes, body: bytes, headers: bytes) -> None:
        if body:
            found.add(json.loads(body)["server"]["name"])

    try:
        inbox = link.new_inbox()
        await link.feed(inbox, told)
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < cluster.size:
                await link.publish(SERVERS, b"{}", reply=inbox)
                await asyncio.sleep(1)
        return found
    finally:
        await link.close()


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.timeout(240)
async def test_a_cluster_that_speaks_tls_loses_its_leader_and_lets_no_stranger_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must hold, with `deploy/broker/cluster-tls.conf` under load: the loss of the broker's leader loses and
    doubles nothing and costs no lease; who has the wrong authority, or no TLS, is refused, as client and as
    server; and what servers say to each other cannot be read on the way.
    """
    monkeypatch.setitem(system.ACTS, "overhear", overhear)
    monkeypatch.setitem(system.ACTS, "turn away", turn_away)
    plan = [Fault("overhear", "routes"), Fault("kill", "broker leader"), Fault("turn away", "strangers")]
    told = await Chaos(tmp_path, plan, seed=5, servers=3, tls=True, lease_s=LEASE_S).run()
    assert told.faults == {str(fault): 1 for fault in plan}
    assert told.live_at_least >= LIVE / 2
    assert told.summary["events"].get("lease_expired", 0) == 0
    assert set(told.summary["states"]) == {"completed"}
