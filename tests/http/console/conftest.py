"""A node with jobs to look at, people with sessions on it, and Debian's Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .visitors import Visitor, fill, spoil, token_of, worker

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.http.conftest import Api

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window.

    While it is there an event loop runs in this thread, and no other can: it goes before the next module.
    """
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make setup")
    if CHROMIUM is None:
        pytest.skip("no Chromium is on the path: apt-get install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def trade(api: Api) -> Iterator[Api]:
    """The node, a worker, and jobs in every state that a page tells of."""
    with worker(api):
        fill(api)
        yield api


@pytest.fixture(scope="module")
def shop(trade: Api) -> Api:
    """The same, with what somebody has put there who wants to do harm."""
    spoil(trade)
    return trade


@pytest.fixture(scope="module")
def owner(shop: Api) -> Visitor:
    visitor = Visitor(shop)
    assert visitor.sign_in(shop.token).status == 303
    return visitor


@pytest.fixture(scope="module")
def viewer(shop: Api) -> Visitor:
    """Somebody who may look at everything and do nothing."""
    visitor = Visitor(shop)
    assert visitor.sign_in(token_of(shop, "vera", "viewer")).status == 303
    return visitor
