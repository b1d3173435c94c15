"""Fixtures for the tests that kill things; the modules beside this file are loaded by their path."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from tests.acceptance.kills.harness import Stage

HERE = Path(__file__).parent


def load(module: str) -> ModuleType:
    """A module of this folder."""
    name = f"writ_test_kills_{module}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HERE / f"{module}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def checker() -> ModuleType:
    """The independent checker, see `checker.py`."""
    return load("checker")


@pytest.fixture
async def stage(tmp_path: Path, checker: ModuleType) -> AsyncIterator[Stage]:
    """A directory for a node, its ledger and its processes; none of them outlives the test."""
    made = cast("Stage", load("harness").Stage(tmp_path, checker))
    try:
        yield made
    finally:
        await made.clear()
