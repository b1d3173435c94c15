"""Queues of a worker with their weights, as they are written."""

from __future__ import annotations

import pytest

from writ.cli.work import weighted


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["mail"], {"mail": 1}),
        (["mail", "reports"], {"mail": 1, "reports": 1}),
        (["mail=3,reports=1"], {"mail": 3, "reports": 1}),
        (["mail=3", "reports"], {"mail": 3, "reports": 1}),
        (["a,b"], {"a,b": 1}),
        (["a=b"], {"a=b": 1}),
        (["a=b=2"], {"a=b": 2}),
    ],
)
def test_weights_stand_behind_the_names(given: list[str], found: dict[str, int]) -> None:
    assert weighted(given) == found
