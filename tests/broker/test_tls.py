"""TLS between clients and a real broker, with certificates of our own making and of others."""

# nats-py leaves its keyword options untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import datetime
import ssl
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from writ.broker.connect import Target, connect
from writ.broker.embedded import EmbeddedBroker
from writ.broker.errors import Unreachable
from writ.broker.tls import TlsError, TlsFiles, own_files

NOW = datetime.datetime.now(datetime.UTC)


async def started(directory: Path, files: TlsFiles) -> EmbeddedBroker:
    return await EmbeddedBroker.start(directory, configure=lambda found: replace(found, tls=files))


async def test_everybody_speaks_tls_once_the_broker_does(tmp_path: Path) -> None:
    files = own_files(tmp_path, [], NOW)
    async with await started(tmp_path, files) as broker:
        assert broker.url.startswith("tls://127.0.0.1:")
        for name in ("log", "owner"):
            client = await connect(Target(broker.url, broker.key_path(name)), "t")
            assert client.is_connected
            await client.close()
    for path in (files.key, tmp_path / "tls" / "ca.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with await EmbeddedBroker.start(tmp_path) as broker:  # and goes back
        assert broker.url.startswith("nats://")
        client = await connect(Target(broker.url, broker.key_path("owner")), "t")
        await client.close()


async def test_a_client_is_told_what_is_wrong(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files, other = own_files(tmp_path / "a", [], NOW), own_files(tmp_path / "b", [], NOW)
    key = tmp_path / "owner.nk"  # away from the authority that stands beside the node's keys
    async with await started(tmp_path / "a", files) as broker:
        key.write_bytes(broker.key_path("owner").read_bytes())
        key.chmod(0o600)
        plain = broker.url.replace("tls://", "nats://")
        client = await connect(Target(plain, key, ca_path=files.ca), "t")
        await client.close()
        with pytest.raises(Unreachable, match=r"its certificate does not stand: .*; put its authority"):
            await connect(Target(broker.url, key, ca_path=other.ca), "t")
        with pytest.raises(Unreachable, match=r"its certificate does not stand: .*; put its authority"):
            await connect(Target(broker.url, key), "t")
        with pytest.raises(Unreachable, match=r"authority file .* does not exist"):
            await connect(Target(broker.url, key, ca_path=tmp_path / "none.pem"), "t")
        with pytest.raises(TlsError, match=r"authority .*owner\.nk cannot be used"):
            await connect(Target(broker.url, key, ca_path=key), "t")
    async with await EmbeddedBroker.start(tmp_path / "a") as broker:
        with pytest.raises(Unreachable, match="does not speak TLS here"):
            await connect(Target(broker.url, key, ca_path=files.ca), "t")


async def test_a_server_that_cannot_be_trusted_costs_no_more_than_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several servers the next is tried, as one is whose certificate does not stand; where that is so with
    all of them, it is said.
    """
    monkeypatch.setattr("nats.aio.client.shuffle", list)  # in the order given
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files, other = own_files(tmp_path / "a", [], NOW), own_files(tmp_path / "b", [], NOW)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.cert, other.key)
    strangers = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with strangers, await started(tmp_path / "a", files) as broker:
        stranger = f"tls://127.0.0.1:{strangers.sockets[0].getsockname()[1]}"
        key = broker.key_path("owner")
        client = await connect(Target(f"{stranger},{broker.url}", key), "t")
        assert client.is_connected
        await client.close()
        with pytest.raises(Unreachable, match="its certificate does not stand"):
            await connect(Target(f"{stranger},{stranger.replace('127.0.0.1', 'localhost')}", key), "t")


def test_certificates_are_kept_until_they_end_soon_or_another_name_is_wanted(tmp_path: Path) -> None:
    first = own_files(tmp_path, [], NOW)
    authority, cert = first.ca.read_bytes(), first.cert.read_bytes()
    own_files(tmp_path, [], NOW + datetime.timedelta(days=300))
    assert first.cert.read_bytes() == cert
    own_files(tmp_path, ["writ.example.org"], NOW)
    named = first.cert.read_bytes()
    assert named != cert
    own_files(tmp_path, ["writ.example.org"], NOW + datetime.timedelta(days=380))
    assert first.cert.read_bytes() != named
    assert first.ca.read_bytes() == authority
    first.check()


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = own_files(tmp_path / "a", [], NOW), own_files(tmp_path / "b", [], NOW)
    with pytest.raises(TlsError, match="cannot be used"):
        TlsFiles(one.cert, two.key, one.ca).check()
    with pytest.raises(TlsError, match="no such file"):
        TlsFiles(one.cert, tmp_path / "none", one.ca).check()
    one.cert.write_text("no certificate")
    with pytest.raises(TlsError, match="move the folder away"):
        own_files(tmp_path / "a", [], NOW)


async def test_a_connection_that_ends_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio warns at the end of each that it does not know to speak TLS."""
    files = own_files(tmp_path, [], NOW)
    async with await started(tmp_path, files) as broker:
        client = await connect(Target(broker.url, broker.key_path("owner")), "t")
        await broker.kill()
        async with asyncio.timeout(10):
            while client.is_connected:  # noqa: ASYNC110 - nats-py tells of it in no other way
                await asyncio.sleep(0.01)
        await client.close()
    assert not [record.getMessage() for record in caplog.records if "eof" in record.getMessage()]
