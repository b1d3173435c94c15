"""What follows others yields to them while it is in time, and takes its share where it is late."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from writ.children.share import CALM_US, LATE_US, YIELDING, Share


class Moved:
    """A clock that stands still until it is moved."""

    now_us = 1_000_000_000

    def wall_us(self) -> int:
        return self.now_us

    def mono_us(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Moved:
    return Moved()


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return tmp_path / "autogroup"


def test_it_yields_while_it_is_in_time_and_not_while_it_is_late(clock: Moved, session: Path) -> None:
    share = Share(clock, session)
    share.dealt_with(clock.now_us - LATE_US)
    assert session.read_text() == str(YIELDING)
    share.dealt_with(clock.now_us - LATE_US - 1)
    assert session.read_text() == "0"
    clock.now_us += CALM_US - 1
    share.dealt_with(clock.now_us)
    assert session.read_text() == "0", "what it lags behind would come again at once"
    clock.now_us += 1
    share.dealt_with(clock.now_us)
    assert session.read_text() == str(YIELDING)


def test_the_system_is_asked_for_what_changes_alone(clock: Moved, session: Path) -> None:
    share = Share(clock, session)
    share.dealt_with(clock.now_us)
    session.write_text("seen")
    share.dealt_with(clock.now_us)
    assert session.read_text() == "seen"


def test_a_change_that_comes_too_soon_for_the_system_is_tried_again(
    clock: Moved, session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(clock, session)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", _refuse)
        share.dealt_with(clock.now_us)
    share.dealt_with(clock.now_us)
    assert session.read_text() == str(YIELDING)


def test_where_sessions_have_no_share_nothing_is_asked_again(clock: Moved, tmp_path: Path) -> None:
    gone = tmp_path / "none" / "autogroup"
    share = Share(clock, gone)
    share.dealt_with(clock.now_us)
    gone.parent.mkdir()
    share.dealt_with(clock.now_us)
    assert not gone.exists()


def _refuse(path: Path, text: str) -> int:
    raise OSError(errno.EAGAIN, f"{path} does not take {text} so soon")
