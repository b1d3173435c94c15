"""Must hold: kills around a step, against a counting service outside: no effect that was not declared
idempotent happens twice. A few here; a thousand by `make step-proof`.
"""

from __future__ import annotations

from pathlib import Path

from .proof import prove


async def test_no_effect_happens_twice_though_its_process_is_killed(tmp_path: Path) -> None:
    """Kills around a step: ahead of it, within it ahead of its effect and behind, and behind it."""
    proof = await prove(4, 2, tmp_path / "writ")
    assert proof.completed == proof.jobs
    assert proof.kills.total() >= 4
    assert not proof.twice
    assert not proof.missing
    assert not proof.faults
