"""Fixtures that every test may ask for."""

from __future__ import annotations

import gc
import importlib.util
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

import hypothesis  # noqa: F401  # pyright: ignore[reportUnusedImport] - else its plugin does, mid-test
import pytest

# Processes that tests start must hear Ctrl-C, also where the whole run was started in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from tests.histories.builder import Histories


def pytest_collection_finish() -> None:
    """Lays aside what was collected: a test that leaves garbage need not have all of it looked through."""
    gc.collect()
    gc.freeze()


Work = Callable[[Callable[[], object]], int]


@pytest.fixture(scope="session")
def work() -> Work:
    """How many calls something makes, of Python and of C: the same on every machine, however busy it is."""

    def count(what: Callable[[], object]) -> int:
        calls = 0

        def called(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            what()
        finally:
            sys.setprofile(before)
        return calls

    return count


@pytest.fixture(scope="session")
def history() -> Histories:
    """The language for histories: `history().submitted().granted("w1").completed()`."""
    name = "writ_test_histories"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).parent / "histories" / "builder.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return cast("Histories", sys.modules[name].Histories())
