"""`writ orchestrator` where the broker does not do its part."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from writ.broker.embedded import EmbeddedBroker
from writ.cli import main
from writ.cli.usage import UNREACHABLE
from writ.engines import Wired, wire_engine


async def test_a_broker_that_falls_silent_at_the_very_start_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real one is stopped between the logins and the first question: one line, and the code of a service
    that cannot be reached."""
    monkeypatch.setattr("writ.broker.streams.REQUEST_TIMEOUT_S", 0.5)
    monkeypatch.setattr("writ.engines._PATIENCE_S", 0.0)
    async with await EmbeddedBroker.start(tmp_path) as broker:
        assert broker.pid is not None
        pid = broker.pid

        async def silent(*args: Any, **options: Any) -> Wired:
            os.kill(pid, signal.SIGSTOP)
            return await wire_engine(*args, **options)

        monkeypatch.setattr("writ.engines.wire_engine", silent)
        words = ("orchestrator", "--dir", str(tmp_path), "--broker-url", broker.url)
        try:
            code = await asyncio.to_thread(main, words)
        finally:
            os.kill(pid, signal.SIGCONT)
    said = capsys.readouterr().err
    assert "the broker does not answer STREAM.INFO.WRIT_LOG_0" in said
    assert code == UNREACHABLE
    assert "Traceback" not in said
    assert "unexpected" not in said
