"""The demonstration, small; and that it leaves nothing behind however it ends."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from writ.demo.distributions import installed, verify
from writ.demo.play import Cast

if TYPE_CHECKING:
    from tests.cli.conftest import Shell


def test_one_seed_is_one_cast() -> None:
    assert Cast.drawn(7, 10) == Cast.drawn(7, 10)
    casts = [Cast.drawn(seed, None) for seed in range(20)]
    assert len({(cast.slow, cast.flaky, cast.broken) for cast in casts}) > 10
    assert all(len({cast.slow, cast.flaky, cast.broken}) == 3 for cast in casts)
    assert casts[0].names == tuple(installed())


def test_a_changed_and_a_missing_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "odd_one-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: odd.one\nVersion: 1.0\n")
    (tmp_path / "same.py").write_bytes(b"")
    (tmp_path / "changed.py").write_bytes(b"x")
    empty = "sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"
    (about / "RECORD").write_text(
        f"same.py,{empty},0\nchanged.py,{empty},0\ngone.py,{empty},0\nodd_one-1.0.dist-info/RECORD,,\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    report = verify("odd-one")
    assert (report.checked, report.unhashed) == (3, 1)
    assert (report.missing, report.changed) == (("gone.py",), ("changed.py",))
    with pytest.raises(LookupError):
        verify("no-such-distribution")


@pytest.mark.timeout(180)
def test_a_small_run_says_what_happened_and_leaves_nothing(writ: Shell, tmp_path: Path) -> None:
    shown = writ("demo", "--seed", "3", "--jobs", "8", timeout=120, TMPDIR=str(tmp_path))
    assert shown.code == 0, shown.out + shown.err
    for word in (
        "killed with SIGKILL",
        "What the log says",
        "Timeline of",
        "lease_expired",
        "writ explain",
        "Look further",
    ):
        assert word in shown.out
    assert "\033" not in shown.out
    assert list(tmp_path.iterdir()) == []
    assert writ.processes() == []


@pytest.mark.timeout(180)
def test_what_is_kept_can_be_looked_at(writ: Shell, tmp_path: Path) -> None:
    shown = writ("demo", "--seed", "4", "--jobs", "6", "--keep", "--json", timeout=120, TMPDIR=str(tmp_path))
    document = shown.document
    assert shown.code == 0, shown.err
    assert (document["ok"], document["jobs"], document["completed"]) == (True, 6, 5)
    assert len(document["dead"]) == 1
    assert all(len(workers) > 1 for workers in document["reclaimed"].values())
    assert writ.processes() == []
    where = ("--dir", document["directory"])
    assert writ("up", "--detach", *where).code == 0
    assert len(writ("jobs", "--json", *where).document) == 6
    assert writ("down", *where).code == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_nothing_is_left_of_one_that_is_broken_off(
    number: signal.Signals, code: int, writ: Shell, tmp_path: Path
) -> None:
    writ.env["TMPDIR"] = str(tmp_path)
    demo = writ.start("demo", "--jobs", "8")
    assert demo.stdout is not None
    for line in demo.stdout:
        if "worker processes started" in line:
            break
    demo.send_signal(number)
    demo.wait(30)
    assert demo.returncode == code
    writ.until(lambda: writ.processes() == [])
    if number is not signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
