"""Files of a directory that several processes use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from writ.engines import replace_file


def test_many_may_replace_a_file_at_once(tmp_path: Path) -> None:
    """Orchestrators that start together on one directory each write down its epochs: none fails, and what is
    there is whole. (One of them ended with an error in a run of `make chaos`.)"""
    path = tmp_path / "epochs.json"
    contents = [str(number).encode() * 1_000 for number in range(10)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(partial(replace_file, path), contents * 3))
    assert path.read_bytes() in contents
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
