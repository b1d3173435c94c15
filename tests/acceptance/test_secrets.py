"""Secrets do not leave the worker, whatever a task does with them."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ import Client, JobFailed, QueuePolicy, Retry, Target
from writ.metrics.components import of_node
from writ.schemas.policy import Isolation
from writ.workers.runner.levels import lacking

if TYPE_CHECKING:
    from .conftest import Place

HERE = Path(__file__).parent / "secrets"
WAYS = ("returns", "raises", "prints", "logs", "says", "steps", "calls", "encodes", "starts", "exits")
UNCAPTURED = {"prints", "exits", "encodes"}
"""Without isolation stdout is the worker's own, and a task may not end the process."""

FULL = os.environ.get("WRIT_ISOLATION_FULL") == "1"
DRESS = (
    "{}",
    'qu"ote-{}',
    "back\\slash-{}",
    "a&b=c/d+{}",
    "zwölf {}",
    "two words {}",
    "-----\n{}\n-----",
    "{}'s",
)


_DIGITS = re.compile("[0-9a-f]{32}")


def canaries(kind: str, ways: Sequence[str], count: int) -> dict[str, str]:
    """So many values, or a few more, around 32 hexadecimal digits of its own, by the name of their asset."""
    names = [f"{kind}-{way}-{number}" for number in range(-(-count // len(ways))) for way in ways]
    return {name: DRESS[at % len(DRESS)].format(secrets.token_hex(16)) for at, name in enumerate(names)}


def forms(value: str) -> list[bytes]:
    """What would give a value away: its digits, or many of them, and the forms of text that they may have."""
    (core,) = [each.encode() for each in _DIGITS.findall(value)]
    coded = [base64.b64encode(bytes(before) + core)[4:-4] for before in range(3)]
    return [core[:20], core[-20:], core.hex().encode(), *coded]


def files_of(place: Place) -> Iterator[tuple[str, bytes]]:
    """All that node and workers have written: the broker's store, views, archive, vault, their logs."""
    for path in sorted(place.root.rglob("*")):
        if path.is_file() and "leaky" not in path.name:
            yield str(path.relative_to(place.root)), path.read_bytes()


def leaked(told: list[tuple[str, bytes]], values: dict[str, str]) -> dict[str, set[str]]:
    """By asset, the places in which its value is found."""
    return {
        name: {where for where, content in told if any(form in content for form in forms(value))}
        for name, value in values.items()
    }


async def play(place: Place, kind: str, values: dict[str, str]) -> None:
    """Sets the values, and has each way out tried with ten of them."""
    env = place.json("env")
    async with Client(Target(env["NATS_URL"], Path(env["NATS_NKEY"]))) as client:
        for name, value in values.items():
            await client.set_asset(name, value, secret=kind == "secret")
        jobs = [
            await client.submit(
                "leaks", name.split("-")[1], {"name": name, "secret": kind == "secret"}, id=name
            )
            for name in values
        ]
        for job in jobs:
            with suppress(JobFailed):
                await client.result(job, timeout_s=60)


@pytest.mark.parametrize(
    ("level", "count"),
    [("plain", 100), *[(level, 100 if FULL else 1) for level in ("none", "landlock", "bubblewrap")]],
)
async def test_no_secret_is_found_in_what_anything_writes(own_place: Place, level: str, count: int) -> None:
    """Must hold: 100 secret canaries: none is found in the log, the streams, metrics, captured output,
    tracebacks or the object store.

    As a control the same is done with assets that are no secrets: each is found. `make isolation-proof` has
    100 at every level.
    """
    lacks = lacking(Isolation(level))
    if lacks is not None:
        pytest.skip(f"not run: {lacks}")
    place = own_place
    shutil.copy(HERE / "leaky.py", place.root)
    env = place.json("env")
    async with Client(Target(env["NATS_URL"], Path(env["NATS_NKEY"]))) as client:
        policy = QueuePolicy(
            retry=Retry(max_attempts=1, max_lease_losses=1),
            assets={"secret-*": ("*",), "plain-*": ("*",)},
            archive_after_s=0.0,
        )
        await client.declare_queue("leaks", policy)
    ways = [way for way in WAYS if level != "none" or way not in UNCAPTURED]
    hidden, shown = canaries("secret", ways, count), canaries("plain", ways, 1)
    isolate = () if level == "none" else ("--isolate", level)
    with place.worker("leaky.py", "--queue", "leaks", *isolate):
        await play(place, "secret", hidden)
        await play(place, "plain", shown)
        metrics = repr(await of_node(place.root / ".writ")).encode()
    said = [place.writ("job", name, "--json").stdout.encode() for name in list(hidden)[:3]]
    place.writ("archive", "run")
    told = [*files_of(place), ("metrics", metrics), *[("writ job", each) for each in said]]
    found = {name: where for name, where in leaked(told, hidden).items() if where}
    assert not found
    assert not any(b"FOUND IN ARGV" in content for _, content in told)
    control = leaked(told, shown)
    missed = [name for name, where in control.items() if not where]
    assert not missed, "the control is not found: this test cannot see a leak"
    places = set[str]().union(*control.values())
    assert any(where.startswith(".writ/jetstream") for where in places), places
    assert "worker.log" in places
    assert json.loads(said[0])["state"] == "completed"
