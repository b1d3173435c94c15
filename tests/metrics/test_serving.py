"""Pages over HTTP, and the page of a node from those of its components."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from writ.metrics.components import component, of_node
from writ.metrics.exposition import page
from writ.metrics.serving import PortTaken, port_of, serve
from writ.schemas import catalog
from writ.schemas.metrics import Family, told


async def grants() -> list[Family]:
    return [told(catalog.GRANTS, 7, "acme", "bills", "0"), told(catalog.GRANTS, 2, "acme", "mail", "0")]


async def ask(port: int, request: str) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n\r\n")
    writer.close()
    status, *lines = head.split("\r\n")
    return status, dict([line.split(": ", 1) for line in lines]), body


async def test_a_page_over_http() -> None:
    server = await serve(grants)
    port = port_of(server)
    status, headers, body = await ask(port, "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(headers["Content-Length"]) == len(body)
    (family,) = parse_text(body)
    assert [each.value for each in family.samples] == [7, 2], "two families of one metric are one"
    status, headers, body = await ask(port, "HEAD /metrics HTTP/1.1\r\n\r\n")
    assert (status, body) == ("HTTP/1.1 200 OK", "")
    assert int(headers["Content-Length"]) > 0
    assert "404" in (await ask(port, "GET / HTTP/1.1\r\n\r\n"))[0]
    status, headers, _ = await ask(port, "POST /metrics HTTP/1.1\r\n\r\n")
    assert "405" in status
    assert headers["Allow"] == "GET, HEAD"
    assert await ask(port, "x" * 20_000) == ("", {}, ""), "too much of a head is not read"
    server.close()


async def test_a_page_that_cannot_be_made_says_so_and_the_next_one_is() -> None:
    times = 0

    async def source() -> list[Family]:
        nonlocal times
        times += 1
        if times == 1:
            raise OSError("the file is gone")
        return await grants()

    server = await serve(source)
    request = "GET /metrics HTTP/1.1\r\n\r\n"
    assert "500" in (await ask(port_of(server), request))[0]
    assert "200" in (await ask(port_of(server), request))[0]
    server.close()


async def test_a_port_in_use_is_named() -> None:
    server = await serve(grants)
    with pytest.raises(PortTaken, match=f"port {port_of(server)} of 127.0.0.1 .*--metrics-port"):
        await serve(grants, port_of(server))
    server.close()


async def test_a_page_is_had_at_another_address_where_somebody_asks_for_it() -> None:
    server = await serve(grants, host="127.0.0.2")
    reader, writer = await asyncio.open_connection("127.0.0.2", port_of(server))
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port_of(server))
    server.close()
    with pytest.raises(PortTaken, match="--metrics-host"):
        await serve(grants, host="192.0.2.1")


async def test_the_page_of_a_node_is_what_its_components_tell(tmp_path: Path) -> None:
    async def records() -> list[Family]:
        return [told(catalog.RECORDS_TOTAL, 5, "job", "0")]

    def series(families: list[Family]) -> dict[tuple[str, ...], object]:
        return {(each.name, *one.labels): one.value for each in families for one in each.series}

    expected = ("engine", "views")
    async with component(tmp_path, "engine", grants):
        (target,) = json.loads((tmp_path / "metrics" / "engine.json").read_bytes())
        assert list(target) == ["targets"], "as file_sd_configs reads it"
        told_now = series(await of_node(tmp_path, expected))
        assert told_now["writ_component_up", "engine"] == 1
        assert told_now["writ_component_up", "views"] == 0, "one that never came is told of"
        async with component(tmp_path, "views", records):
            told_now = series(await of_node(tmp_path, expected))
            assert told_now["writ_component_up", "views"] == 1
            assert told_now["writ_log_records_total", "job", "0"] == 5
            assert told_now["writ_lease_grants_total", "acme", "bills", "0"] == 7
            assert page(await of_node(tmp_path, expected)).body.count(b"# TYPE writ_component_up gauge") == 1
    assert not list((tmp_path / "metrics").iterdir())
    # What a killed component leaves behind names a port on which nobody, or somebody else, answers.
    stale = b'[{"targets":["127.0.0.1:1"]}]'
    for content in (stale, b"{}", b"not json"):
        (tmp_path / "metrics" / "engine.json").write_bytes(content)
        assert series(await of_node(tmp_path, ()))["writ_component_up", "engine"] == 0
