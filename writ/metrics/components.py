"""The components of a node, each with a page of its own, and the page of the node as a whole.

Each partition has an engine and views: `engine` and `views` are of the first, `engine-1` and `views-1` of the
next.

A component serves its page on a free port of the loopback, and writes where that is to
`metrics/<component>.json` in the node's directory, in the form that Prometheus' `file_sd_configs` reads. The
node's page is what those pages tell together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from writ.schemas import catalog
from writ.schemas.metrics import Family, told

from .exposition import JSON, decode, unite
from .serving import LOOPBACK, PATH, Source, port_of, serve

log = logging.getLogger("writ.metrics")

NODE: Final = (catalog.ENGINE, catalog.VIEWS)
"""The components of every node; those of further partitions are known when they have begun."""

ANSWER_MAX_S: Final = 5.0
"""How long a component may take to answer before the node's page does without it."""


class _Targets(msgspec.Struct, frozen=True):
    """One entry of a file of Prometheus' file-based service discovery."""

    targets: list[str]


def name_in(component: str, partition: int) -> str:
    """What a component that each partition has is called."""
    return f"{component}-{partition}" if partition else component


def _folder(directory: Path) -> Path:
    return directory / "metrics"


@contextlib.asynccontextmanager
async def component(directory: Path, name: str, source: Source) -> AsyncGenerator[None]:
    """Serves a component's page, and says where, while the context lasts."""
    server = await serve(source)
    place = _folder(directory) / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode([_Targets([f"{LOOPBACK}:{port_of(server)}"])]) + b"\n")
    fresh.replace(place)
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        server.close()


class _Heard(NamedTuple):
    component: str
    families: list[Family] | None


async def of_node(directory: Path, expected: tuple[str, ...] = NODE) -> list[Family]:
    """What all components of the node in `directory` tell; those `expected` are told of also where they are
    not there.
    """
    places = {name: _folder(directory) / f"{name}.json" for name in expected}
    places |= {place.stem: place for place in _folder(directory).glob("*.json")}
    heard = await asyncio.gather(*[_hear(name, place) for name, place in places.items()])
    up = [told(catalog.UP, int(each.families is not None), each.component) for each in heard]
    return unite([up, *[each.families or [] for each in heard]])


async def _hear(name: str, place: Path) -> _Heard:
    try:
        host, _, port = _address_in(place).rpartition(":")
        async with asyncio.timeout(ANSWER_MAX_S):
            return _Heard(name, decode(await _get(host, int(port))))
    except (OSError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
        log.info("component %s tells no metrics: %s", name, error)
        return _Heard(name, None)


def _address_in(place: Path) -> str:
    (found,) = msgspec.json.decode(place.read_bytes(), type=list[_Targets])
    return found.targets[0]


async def _get(host: str, port: int) -> bytes:
    """The body of a component's page as JSON. Raises OSError, ValueError."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nAccept: {JSON}\r\n\r\n".encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        status = head.partition(b"\r\n")[0].decode("latin-1")
        if " 200 " not in status:
            raise ValueError(f"it answered {status!r}")
        return body
    finally:
        writer.close()
