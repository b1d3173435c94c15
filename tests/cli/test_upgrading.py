"""`writ upgrade`, `writ status` and `--records`, in words."""

from __future__ import annotations

from writ.cli.nodes import _versions  # pyright: ignore[reportPrivateUsage]
from writ.cli.parser import parse
from writ.schemas.queries import Durability
from writ.schemas.upgrading import RECORDS


def test_a_node_reads_the_newest_records_unless_it_is_held_back() -> None:
    for command in ("up", "orchestrator"):
        assert (parsed := parse([command])) is not None
        assert parsed.records == RECORDS
        assert (held := parse([command, "--records", "1"])) is not None
        assert held.records == 1


def test_the_status_tells_who_keeps_the_log_from_being_raised() -> None:
    told = Durability(reads={"a": 2, "b": 1}, written=1)
    assert _versions(told) == "version 1; version 2 is not read by b"
    told = Durability(reads={"a": 2, "b": 2}, written=1)
    assert _versions(told) == "version 1; all read version 2: `writ upgrade` has it written"
    assert _versions(Durability(reads={"a": 2}, written=2)) == "version 2"
    assert _versions(Durability()) == "unknown"
