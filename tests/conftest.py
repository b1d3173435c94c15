"""Fixtures that every test may ask for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import hypothesis  # noqa: F401  # pyright: ignore[reportUnusedImport] - else its plugin does, mid-test
import pytest

if TYPE_CHECKING:
    from tests.histories.builder import Histories


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
