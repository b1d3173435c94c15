"""Measures the console's pages over views of a million jobs. Exits 1 where one takes 300 ms or longer.

    python -m benchmarks.console [--jobs 1000000] [--directory DIR] [--times 7]

The views are those of `benchmarks.pages`, asked over a real broker as the console asks. What counts is the
median of so many times, from the request as the console gets it to the page as it is sent. With `--directory`
the views are kept there, or those that are there are taken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from writ.broker.client import Client
from writ.console.site import Site
from writ.console.visit import ROOT, Visit
from writ.projections.folded import reached_in

from .pages import Shelf, filled
from .population import QUEUES

PAGE_MAX_MS: Final = 300.0


def addresses(last: int) -> list[str]:
    """Every list, as it opens, filtered, and from far back."""
    few, many = QUEUES[-1], QUEUES[0]
    jobs = [
        "",
        f"queue={many}",
        f"queue={few}",
        "state=dead",
        f"state=completed&queue={many}",
        "error=timeout",
    ]
    jobs += [
        f"cursor={last // 2}",
        f"state=dead&cursor={last // 2}",
        f"queue={few}&state=running",
        "actor=never",
    ]
    return [
        "",
        *[f"/jobs?{query}" for query in jobs],
        *("/dead", f"/dead?queue={few}", "/approvals", "/queues", f"/queues/{many}", "/schedules"),
        *(
            "/operations",
            "/workers",
            "/workers/w0-1",
            "/cost",
            "/cost?by=task",
            "/audit",
            f"/audit?queue={many}&refused=yes",
        ),
    ]


async def page(site: Site, client: Client, address: str) -> tuple[int, int]:
    """The status and the size of a page."""
    path, _, query = address.partition("?")
    found = site.find("GET", ROOT + path)
    assert found is not None, address
    handler, names = found
    visit = Visit(client, Path(), site.histories, names, parse_qs(query), {}, ROOT + path, ROOT + address)
    response = site.response(visit, await handler(visit))
    return response.status_code, len(response.body)


async def main(jobs: int, kept: Path | None, times: int) -> int:
    """The exit code."""
    slow: list[str] = []
    most = 0.0
    async with AsyncExitStack() as parts:
        directory = kept or Path(parts.enter_context(tempfile.TemporaryDirectory()))
        views = await filled(directory, jobs)
        last = reached_in(views / "jobs.db").position.seq
        shelf = await Shelf.open(directory, views, parts)
        client = await parts.enter_async_context(Client(shelf.target))
        site = Site()
        print(f"  {'p50 ms':>8}{'CPU ms':>8}{'KiB':>7}  page")
        for address in addresses(last):
            took: list[float] = []
            status, size = await page(site, client, address)
            assert status == 200, (address, status)
            cpu_s = time.process_time()
            for _ in range(times):
                begun = time.perf_counter()
                await page(site, client, address)
                took.append((time.perf_counter() - begun) * 1e3)
            cpu_ms = (time.process_time() - cpu_s) * 1e3 / times
            p50 = sorted(took)[times // 2]
            most = max(most, p50)
            slow += [address] if p50 >= PAGE_MAX_MS else []
            print(f"  {p50:>8.1f}{cpu_ms:>8.1f}{size / 1024:>7.1f}  {address or '/'}", flush=True)
    count = len(addresses(last))
    print(
        f"console: {count - len(slow)} of {count} pages in under {PAGE_MAX_MS:g} ms over {jobs:,} jobs;"
        f" {most:.1f} ms at most; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return 1 if slow else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--directory", type=Path, help="where the views are kept")
    parser.add_argument("--times", type=int, default=7, help="each page is asked for")
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.jobs, given.directory, given.times)))
